"""Caches: whole or not at all, gone on with after an interruption, and never of something else."""

import dataclasses
import functools
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from short_training import build

from jaxdiff.convert import load_model, save_model
from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder
from jaxdiff.training import cache
from jaxdiff.training.captions import condition
from jaxdiff.training.latents import CachedSource, encode_moments
from jaxdiff.training.objective import Share
from jaxdiff.training.workdir import check_inputs, write_config

ROW = np.dtype([("x", "<f4", (2,))])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 3)


@pytest.fixture
def nothing_computed(monkeypatch):
    """Caches have keys and no rows."""
    monkeypatch.setattr(cache, "_fill", lambda *args: None)
    monkeypatch.setattr(cache, "_open", lambda *args: np.empty(0))


class Squares:
    """Computes rows, counts them, and may break off."""

    def __init__(self, break_at=None):
        self.computed, self.break_at = [], break_at

    def __call__(self, numbers):
        if self.break_at in numbers:
            raise KeyboardInterrupt
        self.computed += numbers.tolist()
        return {"x": np.stack([numbers, numbers**2], axis=1)}


def open_cache(folder, compute, facts=None):
    groups = [(ROW, np.array([0, 2, 4, 6])), (ROW, np.array([1, 3, 5, 7, 8]))]
    return cache.cached_rows(folder, "squares", facts or {"a": 1}, groups, compute)


def test_rows_are_computed_once_and_lie_where_they_should(tmp_path):
    first, second = Squares(), Squares()
    open_cache(tmp_path, first)
    rows = open_cache(tmp_path, second)
    assert sorted(first.computed) == list(range(9)) and second.computed == []
    for number in range(9):
        np.testing.assert_array_equal(rows[number]["x"], [number, number**2])
    (home,) = tmp_path.iterdir()
    assert json.loads((home / "facts.json").read_text())["a"] == 1


def test_an_interrupted_computation_goes_on(tmp_path):
    broken, rest = Squares(break_at=5), Squares()
    with pytest.raises(KeyboardInterrupt):
        open_cache(tmp_path, broken)
    rows = open_cache(tmp_path, rest)
    assert sorted(broken.computed + rest.computed) == list(range(9))
    assert broken.computed and rest.computed
    assert rows[5]["x"][1] == 25
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("keep", [0, 50, 130])
def test_a_chunk_that_is_cut_short_is_computed_again(tmp_path, keep):
    open_cache(tmp_path, Squares())
    chunk = sorted(tmp_path.rglob("*.npy"))[1]
    chunk.write_bytes(chunk.read_bytes()[:keep])
    again = Squares()
    assert open_cache(tmp_path, again)[6]["x"][1] == 36
    assert again.computed == [6]


def test_other_facts_are_another_cache(tmp_path):
    open_cache(tmp_path, Squares())
    other = Squares()
    assert open_cache(tmp_path, other, {"a": 2}).digest != open_cache(tmp_path, other).digest
    assert len(other.computed) == 9


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache=.*file cannot be written"):
        open_cache(tmp_path / "file", Squares())


def test_a_conditioning_picture_is_that_of_the_moments_and_read_alone():
    class Pictures:
        shapes = None

        def row(self, index):
            return {"caption": str(index)}

        def conditioning(self, index):
            return np.full((2, 2, 3), index)

    # The picture at 0 was corrupt when the cache was made: the next one stood in its place.
    chunk = np.array([(1, 0.5), (1, 0.5)], [("index", "<i8"), ("moments", "<f4")])
    rows = cache.Rows("", [chunk], np.array([[0, 0], [0, 1]]))
    example = CachedSource(Pictures(), rows, conditioning=True)[0]
    assert example["caption"] == "1" and (example["conditioning"] == 1).all()


@pytest.mark.parametrize(("dtype", "values"), [("<f2", 1e5), ("<f4", np.nan)])
def test_what_is_not_finite_is_named_and_not_kept(tmp_path, dtype, values):
    groups = [(np.dtype([("x", dtype, (2,))]), np.arange(2))]
    compute = lambda numbers: {"x": np.full((len(numbers), 2), values)}  # noqa: E731
    with pytest.raises(UserError, match="x is not finite as float"):
        cache.cached_rows(tmp_path, "rows", {}, groups, compute)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_hash_is_of_names_shapes_types_and_numbers():
    trees = [
        {"a": np.zeros(4), "b": np.ones(())},
        {"a": np.zeros((2, 2)), "b": np.ones(())},
        {"a": np.zeros(4, np.float32), "b": np.ones(())},
        {"c": np.zeros(4), "b": np.ones(())},
        {"a": np.zeros(4), "b": np.zeros(())},
    ]
    assert len({cache.tree_hash(tree) for tree in trees}) == len(trees)
    assert cache.tree_hash(trees[0]) == cache.tree_hash(jax.tree.map(np.copy, trees[0]))


def test_cached_captions_say_the_same(finetune_run, tmp_path):
    data = replace(finetune_run.data, caption_dropout=0.3, loosen_captions=0.5)
    run = replace(finetune_run, data=data)
    plain = build(run, tmp_path)
    cached = build(replace(run, data=replace(data, cache=str(tmp_path / "cache"))), tmp_path)
    assert cached.frozen.keys() == {"unet", "vae"} and cached.frozen["vae"] == {}
    model = load_model(run.objective.model)
    encode = jax.jit(lambda params, batch: condition(run, model, params, batch, {}).context)
    for start in (0, 48):
        live, kept = (next(objective.batches(start, Share())) for objective in (plain, cached))
        context = encode(plain.frozen, {"tokens": live["tokens"]})
        np.testing.assert_allclose(kept["context"], context, atol=1e-5)


@pytest.mark.parametrize("flip", [True, False])
def test_training_from_scratch_reads_the_cache_too(diffusion_run, tmp_path, flip):
    data = replace(diffusion_run.data, split="heldout", flip=flip)
    plain = build(replace(diffusion_run, data=data), tmp_path)
    data = replace(data, cache=str(tmp_path / "cache"))
    cached = build(replace(diffusion_run, data=data), tmp_path)
    assert cached.frozen == {"vae": {}}
    vae = Autoencoder(load_autoencoder(diffusion_run.objective.autoencoder)[0])
    encode = jax.jit(functools.partial(encode_moments, vae))
    served = (objective.batches(16, Share()) for objective in (plain, cached))
    for live, kept in zip(*served, strict=False):
        moments = encode(plain.frozen["vae"], live["image"])
        np.testing.assert_allclose(kept["moments"], moments, atol=1e-5)
        np.testing.assert_array_equal(kept["example"], live["example"])
        if live["example"][0] >= 64:
            break


def _copy_pictures(folder, where):
    import shutil

    return shutil.copytree(folder, where)


def _changed(model, name):
    """The model with one number of one part changed."""
    import copy

    def nudge(tree):
        tree = copy.deepcopy(jax.tree.map(np.asarray, tree))
        leaf = jax.tree.leaves(tree)[0]
        leaf.flat[0] += 1
        return tree

    if name == "vae":
        encoder = nudge(model.vae_params["encoder"])
        return dataclasses.replace(model, vae_params={**model.vae_params, "encoder": encoder})
    (tower,) = model.text
    return dataclasses.replace(model, text=(tower._replace(params=nudge(tower.params)),))


def _repaint(folder):
    Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "5.png")


def _rename(folder):
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace("a red", "one red"))


def test_a_key_changes_with_all_that_matters_and_with_nothing_else(
    finetune_run, tiny_model, pictures_dir, tmp_path, nothing_computed
):
    def keys(folder=pictures_dir, model=finetune_run.objective.model, clip_skip=0, **changes):
        data = replace(finetune_run.data, source=f"folder:{folder}", cache=str(tmp_path / "cache"))
        fields = {k: v for k, v in changes.items() if hasattr(data, k)}
        objective = replace(finetune_run.objective, model=model, clip_skip=clip_skip)
        rest = {k: v for k, v in changes.items() if k not in fields}
        run = replace(finetune_run, objective=objective, data=replace(data, **fields), **rest)
        inputs = build(run, tmp_path).inputs
        return inputs["latents"], inputs["captions"]

    def saved(part):
        save_model(tmp_path / part, _changed(tiny_model, part))
        return tmp_path / part

    repainted, renamed = (_copy_pictures(pictures_dir, tmp_path / name) for name in "ab")
    _repaint(repainted)
    _rename(renamed)
    latents, captions = keys()
    # (latents' key changes, captions' key changes)
    for changes, expected in (
        ({"seed": 3, "batch_size": 16}, (False, False)),
        ({"folder": repainted}, (True, False)),
        ({"folder": renamed}, (False, True)),
        ({"model": saved("vae")}, (True, False)),
        ({"model": saved("text_encoder")}, (False, True)),
        ({"flip": False}, (True, False)),
        ({"dtype": "bfloat16"}, (True, True)),
        ({"clip_skip": 1}, (False, True)),
        ({"resolution": 32}, (True, False)),
        ({"loosen_captions": 0.5}, (False, True)),
    ):
        found = keys(**changes)
        assert (found[0] != latents, found[1] != captions) == expected, changes


def test_another_tokenizer_is_another_key(finetune_run, tiny_model, tmp_path, nothing_computed):
    retrained = Tokenizer.train(["brown toy, pink"], 525, max_length=12)
    (tower,) = tiny_model.text
    text = (tower._replace(tokenizer=retrained),)
    save_model(tmp_path / "other", dataclasses.replace(tiny_model, text=text))
    data = replace(finetune_run.data, cache=str(tmp_path / "cache"))
    keys = []
    for model in (finetune_run.objective.model, tmp_path / "other"):
        objective = replace(finetune_run.objective, model=model)
        run = replace(finetune_run, objective=objective, data=data)
        keys.append(build(run, tmp_path).inputs["captions"])
    assert keys[0] != keys[1]


def test_a_run_goes_on_with_its_own_cache_only(finetune_run, tmp_path):
    config = replace(finetune_run, workdir=tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    write_config(config, {"model": "m", "latents": "a"})
    check_inputs(config, {"model": "m", "latents": "a", "captions": "new"})
    check_inputs(config, {"model": "m"})  # without the cache
    with pytest.raises(UserError, match="was trained with another latents"):
        check_inputs(config, {"model": "m", "latents": "b"})
