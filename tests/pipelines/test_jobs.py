"""Prompts, seeds and file names of the command line."""

import dataclasses

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.pipelines.jobs import (
    count_up,
    parse_seeds,
    picture_path,
    read_prompts,
    strip_path,
    writable_directory,
)
from jaxdiff.provenance import Recipe, write_png

RECIPE = Recipe(
    "A red heart, noto style!", "", 7, "ddim", "trailing", 4, 3.0, 0.0, "m", "h", 4, 4, ""
)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("1, 5,8-9", [1, 5, 8, 9]), ("4294967295", [2**32 - 1])],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "1,", "3-1", "-1", "1.5", "4294967296", "0-99999999"])
def test_seeds_that_are_none(text):
    with pytest.raises(UserError, match="seeds"):
        parse_seeds(text)


def test_seeds_counted_up():
    assert count_up(7, 3) == [7, 8, 9]
    for seed, count in [(0, 0), (-1, 1), (2**32 - 1, 2)]:
        with pytest.raises(UserError):
            count_up(seed, count)


def test_prompts_file(tmp_path):
    (tmp_path / "p.txt").write_text("# animals\ncat face\n\n  naïve café  \n")
    assert read_prompts(tmp_path / "p.txt") == ["cat face", "naïve café"]
    (tmp_path / "bom.txt").write_bytes("\ufeffcat\u2028face\r\ndog".encode())
    assert read_prompts(tmp_path / "bom.txt") == ["cat\u2028face", "dog"]
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in {"empty": "holds no", "bytes": "UTF-8", "none": "No such file"}.items():
        with pytest.raises(UserError, match=message):
            read_prompts(tmp_path / f"{name}.txt")


def test_directories_that_cannot_be_written(tmp_path):
    assert writable_directory(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        writable_directory(tmp_path / "file" / "out")


def test_file_names(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    path = picture_path(tmp_path, RECIPE)
    assert path.name == "a-red-heart-noto-style-7.png"
    write_png(path, pixels, RECIPE)
    assert picture_path(tmp_path, RECIPE) == path
    assert picture_path(tmp_path, dataclasses.replace(RECIPE, versions={"jax": "1"})) == path
    other = picture_path(tmp_path, dataclasses.replace(RECIPE, num_steps=5))
    assert other.name == "a-red-heart-noto-style-7-2.png"


def test_a_strip_replaces_no_other_picture(tmp_path):
    pixels, shown = np.zeros((4, 4, 3), np.uint8), dataclasses.replace(RECIPE, steps_shown=True)
    picture = picture_path(tmp_path, RECIPE)
    path = strip_path(picture, shown)
    assert path.name == f"{picture.stem}-steps.png"
    write_png(path, pixels, RECIPE)  # a picture that happens to have the name
    other = strip_path(picture, shown)
    assert other.name == f"{picture.stem}-steps-2.png"
    write_png(other, pixels, shown)
    assert strip_path(picture, shown) == other


@pytest.mark.parametrize(
    "prompt", ["", "../../etc", "猫" * 500, "x" * 10_000, "🐱/..\\:*?", "a\nb"]
)
def test_any_prompt_has_a_file_name(tmp_path, prompt):
    path = picture_path(tmp_path, dataclasses.replace(RECIPE, prompt=prompt))
    assert path.parent == tmp_path
    assert len(path.name.encode()) < 255
    path.touch()
