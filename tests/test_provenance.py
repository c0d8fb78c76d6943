"""A picture keeps its recipe, in JSON, in the web UIs' form, and as an IPTC term."""

import dataclasses
import json
import os
import stat

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from jaxdiff.errors import UserError
from jaxdiff.provenance import (
    COMPOSITE,
    TRAINED,
    Recipe,
    a1111_text,
    read_png,
    source_type,
    write_png,
)
from jaxdiff.provenance.recipe import used

RECIPE = Recipe(
    prompt="cat face, twemoji style",
    negative_prompt="",
    seed=7,
    sampler="dpmpp_2m",
    schedule="karras",
    num_steps=25,
    guidance_scale=3.0,
    guidance_rescale=0.0,
    model="emoji64",
    model_hash="0123456789",
    width=4,
    height=3,
    dtype="float32",
    versions={"jaxdiff": "0.1.0"},
)
PIXELS = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)


@pytest.mark.parametrize(
    "prompt", ["plain", "naïve café", "猫の顔 🐱", 'quotes " and, commas: <&>', "two\nlines"]
)
def test_round_trip(tmp_path, prompt):
    recipe = dataclasses.replace(RECIPE, prompt=prompt)
    write_png(tmp_path / "a.png", PIXELS, recipe)
    pixels, read = read_png(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, PIXELS)
    assert read == recipe
    assert Image.open(tmp_path / "a.png").text["parameters"].startswith(prompt)


def test_a1111_text():
    text = a1111_text(dataclasses.replace(RECIPE, negative_prompt="blue", guidance_rescale=0.7))
    assert text == (
        "cat face, twemoji style\nNegative prompt: blue\n"
        "Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 3, Seed: 7, Size: 4x3, "
        "Model hash: 0123456789, Model: emoji64, CFG Rescale: 0.7, Version: jaxdiff 0.1.0"
    )
    plain = a1111_text(dataclasses.replace(RECIPE, schedule="trailing"))
    assert "Sampler: DPM++ 2M, Schedule type: trailing, CFG" in plain
    assert "Negative" not in plain and "interval" not in plain
    text = a1111_text(dataclasses.replace(RECIPE, guidance_interval=(0.25, 0.8)))
    assert "Model: emoji64, Guidance interval: 0.25-0.8, Version" in text


def test_a_guidance_interval_is_kept(tmp_path):
    """A tuple again; where it is all times, nothing is written, as before there was one."""
    recipe = dataclasses.replace(RECIPE, guidance_interval=(0.25, 0.8))
    write_png(tmp_path / "a.png", PIXELS, recipe)
    assert read_png(tmp_path / "a.png")[1] == recipe
    assert "guidance_interval" in used(recipe) and "guidance_interval" not in used(RECIPE)


def test_digital_source_type(tmp_path):
    write_png(tmp_path / "a.png", PIXELS, RECIPE)
    assert source_type(tmp_path / "a.png") == TRAINED
    assert TRAINED == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    write_png(tmp_path / "a.png", PIXELS, RECIPE, COMPOSITE)
    assert source_type(tmp_path / "a.png") == COMPOSITE
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    assert source_type(tmp_path / "b.png") is None


def test_writing_leaves_no_half_file(tmp_path, monkeypatch):
    write_png(tmp_path / "a.png", PIXELS, RECIPE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o644
    before = (tmp_path / "a.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_png(tmp_path / "a.png", PIXELS, RECIPE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_unusable_files_are_named(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "bare.png")
    (tmp_path / "text.png").write_text("no picture")
    write_png(tmp_path / "cut.png", np.zeros((64, 64, 3), np.uint8), RECIPE)
    cut = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) - 40])
    cases = {
        "bare": "carries no recipe",
        "text": "not a readable picture",
        "cut": "not a readable picture",
        "none": "does not exist",
    }
    for name, message in cases.items():
        with pytest.raises(UserError, match=message) as caught:
            read_png(tmp_path / f"{name}.png")
        assert name in str(caught.value)


def test_a_recipe_of_other_types_is_damaged(tmp_path):
    for changes in ({"seed": "7"}, {"versions": [1]}, {"num_steps": None}):
        write_png(tmp_path / "a.png", PIXELS, RECIPE)
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("jaxdiff", json.dumps(dataclasses.asdict(RECIPE) | changes))
        Image.fromarray(PIXELS).save(tmp_path / "a.png", pnginfo=chunks)
        with pytest.raises(UserError, match=f"a.png is damaged: {next(iter(changes))} should be"):
            read_png(tmp_path / "a.png")


def test_pictures_that_are_too_large_are_refused(tmp_path, monkeypatch):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("jaxdiff", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.fromarray(PIXELS).save(tmp_path / "chunk.png", pnginfo=chunks)
    with pytest.raises(UserError, match="not a readable picture"):
        read_png(tmp_path / "chunk.png")
    write_png(tmp_path / "bomb.png", PIXELS, RECIPE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(UserError, match="decompression bomb"):
        read_png(tmp_path / "bomb.png")
