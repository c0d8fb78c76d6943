"""Textual inversion: files in and out, tokens and rows, parity with diffusers."""

import copy
import functools

import ml_dtypes
import numpy as np
import pytest
import text_towers
from safetensors.numpy import load_file, save_file
from text_towers import LENGTH, encode
from torch_parity import assert_close

from jaxdiff.convert.embeddings import (
    Embedding,
    add_embedding,
    add_embeddings,
    load_embedding,
    save_embedding,
)
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError

PROMPTS = ["a <x> heart", "<x>, red <X>", "a red heart"]


def vectors(count, width=16):
    """[count width] float32, of the size of a token's row."""
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


@pytest.fixture(scope="module")
def models():
    return {family: text_towers.random_model(family) for family in ("sd", "sdxl")}


def row(tower, index):
    return tower.params["embeddings"]["token_embedding"]["embedding"][index]


@pytest.mark.parametrize("count", [1, 3])
def test_new_tokens_and_rows(models, count):
    (tower,) = models["sd"].text
    old = copy.deepcopy(tower.params)
    added = add_embedding(tower, Embedding("<x>", {"text_encoder": vectors(count)}))
    first = tower.tokenizer.vocab_size
    assert added.config.vocab_size == added.tokenizer.vocab_size == first + count
    np.testing.assert_array_equal(row(added, slice(first, None)), vectors(count))
    np.testing.assert_array_equal(row(added, slice(first)), row(tower, slice(None)))
    ids = added.tokenizer(["a <x> heart"])[0].tolist()
    at = ids.index(first)
    assert ids[at : at + count] == list(range(first, first + count))
    np.testing.assert_array_equal(
        row(tower, slice(None)), row(tower._replace(params=old), slice(None))
    )
    plain = encode(models["sd"], ["a red heart"]).context
    changed = encode(text_towers.assemble([added]), ["a red heart", "a <x> heart"]).context
    np.testing.assert_allclose(changed[:1], plain, atol=1e-6)
    assert np.abs(changed[1] - plain[0]).max() > 0.1


def test_several_embeddings(models, tmp_path):
    (tower,) = models["sd"].text
    for name, count in (("<x>", 2), ("<y>", 1), ("EasyNegative", 3)):
        tower = add_embedding(tower, Embedding(name, {"text_encoder": vectors(count)}))
    assert tower.config.vocab_size == models["sd"].text[0].config.vocab_size + 6
    tower.tokenizer.save(tmp_path)
    ids = tower.tokenizer(["<y> <x> easynegative"])
    np.testing.assert_array_equal(Tokenizer.load(tmp_path)(["<y> <x> easynegative"]), ids)
    assert (ids >= models["sd"].text[0].config.vocab_size).sum() == 6
    with pytest.raises(UserError, match="'<x>' already"):
        add_embedding(tower, Embedding("<x>", {"text_encoder": vectors(1)}))


def test_rows_that_no_token_uses_are_taken_first(models):
    """A table may be longer than the vocabulary."""
    (tower,) = models["sd"].text
    table = np.pad(row(tower, slice(None)), [(0, 5), (0, 0)]).astype(np.float16)
    params = {**tower.params}
    params["embeddings"] = {**params["embeddings"], "token_embedding": {"embedding": table}}
    padded = tower._replace(params=params)
    added = add_embedding(padded, Embedding("<x>", {"text_encoder": vectors(2)}))
    assert added.config.vocab_size == len(table)
    first = tower.tokenizer.vocab_size
    np.testing.assert_array_equal(row(added, slice(first, first + 2)), vectors(2).astype("f2"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_file_comes_back(tmp_path, dtype):
    path = tmp_path / "made" / "learned_embeds.safetensors"
    one = Embedding("<x>", {"text_encoder": vectors(2).astype(dtype)})
    save_embedding(path, one, dtype)
    again = load_embedding(path)
    assert again.token == "<x>" and again.vectors["text_encoder"].dtype == dtype
    np.testing.assert_array_equal(again.vectors["text_encoder"], one.vectors["text_encoder"])
    two = Embedding("<x>", one.vectors | {"text_encoder_2": vectors(2, 24).astype(dtype)})
    save_embedding(path, two, dtype)
    again = load_embedding(path)
    assert again.token == "<x>" and again.vectors.keys() == two.vectors.keys()
    for name, array in two.vectors.items():
        np.testing.assert_array_equal(again.vectors[name], array)


def test_layouts_of_other_programs(tmp_path):
    path = tmp_path / "EasyNegative.safetensors"
    save_file({"<cat-toy>": vectors(1)[0]}, path)
    assert load_embedding(path).token == "<cat-toy>"
    np.testing.assert_array_equal(load_embedding(path).vectors["text_encoder"], vectors(1))
    save_file({"emb_params": vectors(3)}, path)
    assert load_embedding(path).token == "EasyNegative"
    assert load_embedding(path, "<neg>").token == "<neg>"
    save_file({"clip_g": vectors(3, 24), "clip_l": vectors(3)}, path)
    both = load_embedding(path)
    assert both.token == "EasyNegative"
    assert {name: array.shape for name, array in both.vectors.items()} == {
        "text_encoder": (3, 16),
        "text_encoder_2": (3, 24),
    }


def test_each_tower_gets_its_own(models, tmp_path):
    towers = models["sdxl"].text
    widths = {"text_encoder": 16, "text_encoder_2": 24}
    both = Embedding("<x>", {name: vectors(2, width) for name, width in widths.items()})
    for tower, old in zip(add_embeddings(towers, both), towers, strict=True):
        np.testing.assert_array_equal(row(tower, slice(-2, None)), both.vectors[tower.name])
        assert tower.config.vocab_size == old.config.vocab_size + 2
    path = tmp_path / "learned_embeds_2.safetensors"  # diffusers writes a file for each
    save_file({"<x>": vectors(1, 24)}, path)
    first, second = add_embeddings(towers, load_embedding(path))
    assert first is towers[0] and second.tokenizer.vocab["<x>"] == towers[1].tokenizer.vocab_size


def test_files_that_do_not_fit(models, tmp_path):
    (tower,) = models["sd"].text
    with pytest.raises(UserError, match="is 24 wide and text_encoder is 16"):
        add_embedding(tower, Embedding("<x>", {"text_encoder": vectors(1, 24)}))
    with pytest.raises(UserError, match="is 99 wide and text_encoder is 16"):
        add_embeddings(models["sdxl"].text, Embedding("<x>", {"text_encoder": vectors(1, 99)}))
    with pytest.raises(UserError, match="nothing for text_encoder, only for text_encoder_2"):
        add_embedding(tower, Embedding("<x>", {"text_encoder_2": vectors(1)}))
    with pytest.raises(UserError, match="'red</w>' already"):
        add_embedding(tower, Embedding("red</w>", {"text_encoder": vectors(1)}))
    path = tmp_path / "x.safetensors"
    for content, message in (
        ({"a": vectors(1), "b": vectors(1)}, "holds a, b"),
        ({}, "holds nothing"),
        ({"a": vectors(1)[None]}, r"shape \[1, 1, 16\]"),
        ({"a": vectors(1).astype(np.int32)}, "a tensor of int32"),
    ):
        save_file(content, path)
        with pytest.raises(UserError, match=message):
            load_embedding(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="truncated"):
        load_embedding(path)
    with pytest.raises(UserError, match="is a pickle"):
        load_embedding(tmp_path / "x.pt")
    embedding = Embedding("<x>", {"text_encoder": vectors(1)})
    with pytest.raises(UserError, match="cannot be written"):
        save_embedding(path / "below.safetensors", embedding)
    with pytest.raises(UserError, match="not finite"):
        save_embedding(path, Embedding("<x>", {"text_encoder": vectors(1) * np.inf}))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    make = functools.cache(text_towers.reference)
    root = tmp_path_factory.mktemp("towers")

    def fresh(family):
        """diffusers changes what it is given: a copy each time."""
        model, theirs = make(family, root / family)
        return model, copy.deepcopy(theirs)

    return fresh


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["ours", "diffusers", "a1111"])
@pytest.mark.parametrize("count", [1, 3])
def test_equal_encodings_in_diffusers(reference, tmp_path, layout, count):
    model, theirs = reference("sd")
    path = tmp_path / "learned.safetensors"
    if layout == "ours":
        save_embedding(path, Embedding("<x>", {"text_encoder": vectors(count)}))
        assert load_file(path).keys() == {"<x>"}
    else:
        save_file({"<x>" if layout == "diffusers" else "emb_params": vectors(count)}, path)
    token = "<x>" if layout == "a1111" else None
    pipe = text_towers.stable_diffusion(theirs)
    pipe.load_textual_inversion(str(path), token=token)
    prompts = PROMPTS if count == 1 else [prompt.replace("<X>", "") for prompt in PROMPTS]
    expected, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    towers = add_embeddings(model.text, load_embedding(path, token))
    ours = encode(text_towers.assemble(towers), prompts)
    assert_close(ours.context, expected, f"textual inversion, {layout}, {count}")


@pytest.mark.parity
def test_equal_encodings_in_diffusers_sdxl(reference, tmp_path):
    import torch

    model, theirs = reference("sdxl")
    arrays = {"text_encoder": vectors(2), "text_encoder_2": vectors(2, 24)}
    path = tmp_path / "learned.safetensors"
    save_embedding(path, Embedding("<x>", arrays))
    pipe = text_towers.stable_diffusion_xl(theirs)
    saved = load_file(path)
    for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(
            torch.tensor(saved[key]),
            token="<x>",
            text_encoder=getattr(pipe, f"text_encoder{suffix}"),
            tokenizer=getattr(pipe, f"tokenizer{suffix}"),
        )
    prompts = ["a <x> heart", "a red heart"]
    expected, _, pooled, _ = pipe.encode_prompt(
        prompts, device="cpu", do_classifier_free_guidance=False
    )
    ours = encode(text_towers.assemble(add_embeddings(model.text, load_embedding(path))), prompts)
    assert ours.context.shape[1] == LENGTH
    assert_close(ours.context, expected, "textual inversion, sdxl")
    assert_close(ours.pooled, pooled, "textual inversion, sdxl, pooled")
