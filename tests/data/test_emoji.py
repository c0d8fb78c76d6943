"""The emoji corpus: names, split and rendering, on a small stand-in for the icon packages."""

import dataclasses
import os
from collections import defaultdict

import numpy as np
import pytest

from jaxdiff.data import icons, npm
from jaxdiff.data.naming import Vocabulary, fxemoji_names
from jaxdiff.data.pipeline import DataConfig, make_source
from jaxdiff.data.sources import captions_of
from jaxdiff.errors import UserError

PERMISSIVE = set(icons.PERMISSIVE)


@pytest.fixture
def splits(emoji_dir):
    config = DataConfig(resolution=16, data_dir=emoji_dir)
    return {
        split: make_source(dataclasses.replace(config, split=split))
        for split in ("train", "heldout")
    }


def pairs(source):
    return {(row["subject"], row["style"]) for row in source.rows}


def test_examples_say_all_about_themselves(splits):
    rows = [row for source in splits.values() for row in source.rows]
    row = next(row for row in rows if row["id"] == "fxemoji:grinningcat")
    assert row == {
        "id": "fxemoji:grinningcat",
        "subject": "grinning cat",
        "style": "fxemoji",
        "caption": "grinning cat, fxemoji style",
        "licence": "Apache-2.0",
        "author": "fxemoji artist",
    }
    images = splits["train"].images
    assert images.shape[1:] == (16, 16, 3) and images.dtype == np.uint8
    assert (images[:, 15, 15] == 255).all()  # background


def test_hidden_icons_and_skin_tones_stay_out(splits):
    names = {row["id"] for source in splits.values() for row in source.rows}
    assert {"noto:waving-hand", "fluent:detective", "noto:police-car-light"} <= names
    assert not any("tone" in name or "-dark" in name or "secret" in name for name in names)


def test_one_name_for_one_subject(splits):
    styles = defaultdict(set)
    for source in splits.values():
        for subject, style in pairs(source):
            styles[subject].add(style)
    assert styles["flag japan"] == {"noto", "emojione", "fxemoji"}
    assert styles["grinning cat"] == {"noto", "emojione", "fxemoji"}  # emojione by an alias
    assert styles["thing 7"] == PERMISSIVE
    assert styles["one oclock"] == {"fxemoji"}


def test_held_out_pairs_have_subjects_seen_in_other_styles(splits):
    train, held = pairs(splits["train"]), pairs(splits["heldout"])
    assert held and not held & train
    seen = defaultdict(set)
    for subject, style in train:
        seen[subject].add(style)
    assert all(seen[subject] - {style} for subject, style in held)
    assert 0.02 < len(held) / (len(held) + len(train)) < 0.09


@pytest.mark.parametrize("style", ["noto", "openmoji"])
def test_the_split_is_the_same_in_every_configuration(splits, emoji_dir, style):
    config = DataConfig(source=f"emoji/{style}", resolution=8, split="heldout", data_dir=emoji_dir)
    held = pairs(make_source(config))
    train = pairs(make_source(dataclasses.replace(config, split="train")))
    assert {row_style for _, row_style in held | train} == {style}
    if style in PERMISSIVE:
        assert held == {pair for pair in pairs(splits["heldout"]) if pair[1] == style}
    permissive_train = {subject for subject, _ in pairs(splits["train"])}
    assert {subject for subject, _ in held} <= permissive_train


def test_share_alike_is_not_permissive(splits):
    for source in splits.values():
        assert {style for _, style in pairs(source)} <= PERMISSIVE
        assert not any("SA" in row["licence"] for row in source.rows)


def test_lazy_reading_gives_the_same(splits, emoji_dir):
    lazy = make_source(DataConfig(resolution=16, data_dir=emoji_dir, memory_mb=0))
    eager = splits["train"]
    assert captions_of(lazy) == captions_of(eager)
    assert captions_of(lazy, 3) == captions_of(eager)[:3]
    for index in (0, len(eager) - 1):
        np.testing.assert_array_equal(lazy[index]["image"], eager[index]["image"])


def test_the_corpus_is_a_tfds_data_set(splits, emoji_dir):
    again = make_source(DataConfig(source="tfds:emoji/permissive-16", data_dir=emoji_dir))
    assert captions_of(again) == captions_of(splits["train"])


def test_unknown_style_lists_the_styles(emoji_dir):
    with pytest.raises(UserError, match=r"did you mean 'noto'.*choose one of: .*permissive"):
        make_source(DataConfig(source="emoji/notto", data_dir=emoji_dir))


def test_unknown_split_lists_the_splits(emoji_dir):
    with pytest.raises(UserError, match="choose one of: heldout, train"):
        make_source(DataConfig(split="test", resolution=16, data_dir=emoji_dir))


def test_a_changed_package_is_refused(tmp_path):
    icon_set = icons.ICON_SETS["noto"]
    (tmp_path / icon_set.archive).write_bytes(b"not what was pinned")
    with pytest.raises(UserError, match="SHA-512 differs"):
        npm.fetch(icon_set, tmp_path)


def test_failing_npm_is_one_line(tmp_path, monkeypatch):
    script = tmp_path / "npm"
    script.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match=r"could not fetch @iconify-json/noto@.*ENOTFOUND"):
        npm.fetch(icons.ICON_SETS["noto"], tmp_path / "npm-files")


def test_svg_is_centred_in_a_square():
    drawings = {"icons": {"tall": {"body": "", "height": 32}}, "width": 16, "height": 16}
    assert 'viewBox="-8 0 32 32"' in icons.svg_document(drawings, "tall")


def test_rules_for_run_together_names():
    names = ["angry-face", "face-with-medical-mask", "blue-heart", "link", "star", "flag-italy"]
    vocabulary = Vocabulary(names, {"old-star": "star"})
    for own, subject in {
        "angry": "angry face",
        "medicalmask": "face with medical mask",
        "heartblue": "blue heart",
        "linksymbol": "link",
        "whitestar": "star",
        "oldstar": "star",
        "gpa": "old man",
        "italianflag": "flag italy",
        "unheardof": "unheardof",
    }.items():
        assert vocabulary.subject(own, "fxemoji") == subject
    assert all(name.isascii() and name == name.strip() for name in fxemoji_names().values())


@pytest.mark.network
@pytest.mark.slow
def test_the_real_corpus():
    config = DataConfig()
    train = make_source(config)
    held = make_source(dataclasses.replace(config, split="heldout"))
    assert (len(train), len(held)) == (7288, 381)
    seen = defaultdict(set)
    for subject, style in pairs(train):
        seen[subject].add(style)
    assert all(seen[subject] - {style} for subject, style in pairs(held))
    pictures = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in pictures for image in held.images)
    assert seen["cat face"] == {"noto", "fluent", "twemoji", "emojione"}
    assert seen["red heart"] == PERMISSIVE
