"""What captions say, and what they forbid."""

import re

# Words whose picture, mirrored, is no longer what its caption says.
_NO_FLIP = frozenset(
    """
    left right leftward leftwards rightward rightwards east west northeast northwest southeast
    southwest arrow arrows clockwise counterclockwise anticlockwise italic slash
    text letter letters word words alphabet latin uppercase lowercase abc abcd number numbers digit
    digits numeral keycap input character characters kanji hiragana katakana japanese ideograph
    writing written sign signs symbol symbols button mark marks question exclamation atm wc zzz om
    infinity hundred points percent dollar euro pound yen currency banknote price tag label labels
    book books newspaper receipt ticket tickets card cards calendar keyboard joker mahjong dominoes
    regional indicator trade copyright registered information abacus check chart logo brand poster
    flag flags pennant map globe continent constellation
    clock clocks oclock watch thirty hour time timer stopwatch
    hand hands handed finger fingers thumb thumbs fist fists index backhand palm palms
    note notes musical score clef guitar violin moon crescent quarter gibbous
    aries taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces
    ophiuchus
    """.split()
)
_STYLE = re.compile(r", \w+ style$")
_WORD = re.compile(r"[a-z0-9']+")


def emoji_caption(subject: str, style: str) -> str:
    """Caption of an emoji: `emoji_caption("cat face", "noto")` is "cat face, noto style"."""
    return f"{subject}, {style} style"


def subject_of(caption: str) -> str:
    """What stands before the first comma.

    >>> subject_of("kitten, noto style")
    'kitten'
    """
    return caption.partition(",")[0].strip()


def loosen(caption: str, draw: float) -> str:
    """The caption as somebody might type it, chosen by `draw` in [0, 1).

    Half of the draws put an article before it; the others leave the style out.

    >>> [loosen("owl, noto style", draw) for draw in (0.1, 0.4, 0.9)]
    ['an owl, noto style', 'the owl, noto style', 'owl']
    """
    if draw >= 0.5:
        return _STYLE.sub("", caption)
    article = "the" if draw >= 0.35 else "an" if caption[:1].lower() in set("aeiou") else "a"
    return f"{article} {caption}"


def loosened(caption: str) -> set[str]:
    """All that `loosen` makes of a caption."""
    return {loosen(caption, draw) for draw in (0.0, 0.35, 0.5)}


def may_flip(caption: str) -> bool:
    """Whether the mirror image of a picture is still what `caption` says.

    The answer is no for text, letters, numbers, flags, clocks, hands, sides and directions: a
    picture wrongly left as it is costs little, one wrongly mirrored teaches something false.

    >>> may_flip("cat face, noto style"), may_flip("flag japan, noto style")
    (True, False)
    """
    words = _WORD.findall(caption.lower())
    return not any(word in _NO_FLIP or _is_written(word) for word in words)


def _is_written(word: str) -> bool:
    """Whether the word is a number ("5", "1st") or a single letter, which the picture may show."""
    return any(letter.isdigit() for letter in word) or (len(word) == 1 and word not in "ai'")
