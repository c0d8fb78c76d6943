"""Which pictures may be mirrored."""

import pytest

from jaxdiff.data.captions import emoji_caption, may_flip


@pytest.mark.parametrize(
    "caption",
    [
        "cat face, noto style",
        "red heart, twemoji style",
        "a dog on a beach",
        "I like the sea",
        "the artist's house, fluent style",
        "",
    ],
)
def test_these_may_be_mirrored(caption):
    assert may_flip(caption)


@pytest.mark.parametrize(
    "subject",
    [
        "flag japan", "left arrow", "a button blood type", "keycap 5", "letter b", "three oclock",
        "alarm clock", "ok hand", "thumbs up", "backhand index pointing right", "input numbers",
        "japanese here button", "regional indicator c", "1st place medal", "last quarter moon",
        "man running facing right", "Stop Sign", "musical note", "clockwise vertical arrows",
        "t shirt", "100 dollars",
    ],
)  # fmt: skip
def test_these_may_not(subject):
    assert not may_flip(subject)
    assert not may_flip(emoji_caption(subject, "noto"))
