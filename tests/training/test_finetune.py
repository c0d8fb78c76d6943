"""Fine-tuning: what is trained moves, everything else stays to the bit, and the export loads."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_training import build, one_loss, train_shortly

from jaxdiff.convert import load_model
from jaxdiff.convert.embeddings import add_embedding, load_embedding
from jaxdiff.convert.lora import load_lora
from jaxdiff.data.sources import make_source
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoder, UNet, count_parameters
from jaxdiff.models.lora import merge
from jaxdiff.training import finetune
from jaxdiff.training.captions import condition
from jaxdiff.training.config import (
    FullMethod,
    LoraMethod,
    LossConfig,
    PriorConfig,
    TextualInversionMethod,
)
from jaxdiff.training.methods import lora
from jaxdiff.training.objective import Share

METHODS = {
    "full": FullMethod(),
    "lora": LoraMethod(rank=2, alpha=1.0, targets="all", text_encoder=True),
    "inversion": TextualInversionMethod(token="<toy>", vectors=2, initial="red"),
}
RATES = {"inversion": 0.3}
FALLS_TO = {"inversion": 0.997}  # two rows of a table cannot do much here


def with_objective(run, **changes):
    return replace(run, objective=replace(run.objective, **changes))


@pytest.fixture(scope="module")
def short(finetune_run, tmp_path_factory):
    """Some steps of each method, made when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            optimizer = replace(
                finetune_run.optimizer, learning_rate=RATES.get(name, 1e-2), warmup_steps=0
            )
            run = with_objective(replace(finetune_run, optimizer=optimizer), method=METHODS[name])
            made[name] = train_shortly(run, tmp_path_factory.mktemp("run"))
        return made[name]

    return get


def same(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def differs(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls_and_only_what_is_trained_is_in_the_state(short, name, tiny_model):
    run = short(name)
    assert run.losses[-1] < FALLS_TO.get(name, 0.97) * run.losses[0], run.losses
    expected = {
        "full": {"unet"},
        "lora": {"unet", "text_encoder"},
        "inversion": {"text_encoder"},
    }
    assert run.first.keys() == expected[name]
    everything = count_parameters((tiny_model.unet_params, tiny_model.text[0].params))
    trained = count_parameters(run.first)
    if name == "inversion":
        assert trained == 2 * tiny_model.text[0].config.hidden_size
    if name == "lora":
        assert trained < everything / 4
    assert differs(run.first, run.last)


def test_text_encoders_are_trained_where_that_is_asked_for(finetune_run, tmp_path):
    method = FullMethod(text_encoder=True)
    objective = build(with_objective(finetune_run, method=method), tmp_path)
    assert objective.init(jax.random.key(0), objective.given).keys() == {"unet", "text_encoder"}
    assert objective.frozen.keys() == {"vae"}


def test_a_full_export_is_a_model_whose_other_parts_are_the_base(short, tiny_model, tmp_path):
    run = short("full")
    run.objective.export(tmp_path / "out", run.last, {"step": 12})
    tuned = load_model(tmp_path / "out", Tokenizer.load)
    same(tuned.vae_params, tiny_model.vae_params)
    same(tuned.text[0].params, tiny_model.text[0].params)
    assert differs(tuned.unet_params, tiny_model.unet_params)
    assert tuned.noise == tiny_model.noise
    assert tuned.meta["licence"] == tiny_model.meta["licence"]
    assert "sampling" not in tuned.meta and "name" not in tuned.meta
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        tuned.unet_params,
        run.last["unet"],
    )


def predict(model, unet_params, text_params):
    """What the networks make of fixed noise and a fixed caption."""
    ids = jnp.asarray(model.text[0].tokenizer(["a red heart"]))
    text = TextEncoder(model.text[0].config).apply({"params": text_params}, ids)
    z = jax.random.normal(jax.random.key(5), (1, 8, 8, 4))
    unet = UNet(model.unet_config)
    return unet.apply({"params": unet_params}, z, jnp.full(1, 500.0), text.last_hidden)


@pytest.mark.parametrize("layout", [pytest.param("diffusers", marks=pytest.mark.slow), "kohya"])
def test_a_lora_loads_as_what_was_trained(short, tiny_model, tmp_path, layout, finetune_run):
    run = short("lora")
    method = replace(METHODS["lora"], layout=layout)
    objective = build(with_objective(finetune_run, method=method), tmp_path)
    objective.export(tmp_path / "x.safetensors", run.last, {"step": 12})
    loaded = load_lora(tmp_path / "x.safetensors", tiny_model)
    (tower,) = tiny_model.text
    expected = predict(
        tiny_model,
        merge(tiny_model.unet_params, run.last["unet"], 1.0),
        merge(tower.params, run.last["text_encoder"], 1.0),
    )
    found = predict(
        tiny_model,
        merge(tiny_model.unet_params, loaded.unet, 1.0),
        merge(tower.params, loaded.text["text_encoder"], 1.0),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    base = predict(tiny_model, tiny_model.unet_params, tower.params)
    assert np.abs(found - base).max() > 1e-3


def test_a_lora_changes_nothing_at_first_and_keeps_its_alpha(short, tiny_model):
    run = short("lora")
    for part, base in (
        ("unet", tiny_model.unet_params),
        ("text_encoder", tiny_model.text[0].params),
    ):
        same(merge(base, run.first[part], 1.0), base)
        for path, layer in run.last[part].items():
            assert float(layer.alpha) == 1.0, path
            assert np.any(layer.up != 0), path


def test_an_inversion_trains_its_rows_and_no_other(short, tiny_model, tmp_path):
    run = short("inversion")
    run.objective.export(tmp_path / "toy.safetensors", run.last, {})
    (base,) = tiny_model.text
    tower = add_embedding(base, load_embedding(tmp_path / "toy.safetensors"))
    table, old = (t.params["embeddings"]["token_embedding"]["embedding"] for t in (tower, base))
    np.testing.assert_array_equal(table[: len(old)], old)
    np.testing.assert_array_equal(table[len(old) :], run.last["text_encoder"])
    ids = tower.tokenizer(["a red <toy>"])[0].tolist()
    assert set(range(len(old), len(old) + 2)) <= set(ids)
    # Both rows started as the word that was given, and went different ways.
    (word,) = base.tokenizer.pieces(["red"])[0].ids
    np.testing.assert_array_equal(run.first["text_encoder"], np.stack([old[word]] * 2))
    assert differs(run.last["text_encoder"][0], run.last["text_encoder"][1])


@pytest.mark.slow
def test_the_networks_of_a_preview_are_what_was_trained(short, finetune_run, tmp_path):
    """Drawing is left to the pipeline; here it is given the merged parameters."""
    preview = replace(finetune_run.preview, every=1, prompts=("a red <toy>",), rows=1, num_steps=2)
    for name in ("lora", "inversion"):
        run = with_objective(replace(finetune_run, preview=preview), method=METHODS[name])
        objective = build(run, tmp_path)
        before, after = (objective.preview(p) for p in (short(name).first, short(name).last))
        assert before.shape == (16, 16, 3) and before.dtype == np.uint8
        assert differs(before, after)
        same(after, objective.preview(short(name).last))


def test_a_preview_of_more_steps_than_levels_is_refused_beforehand(finetune_run, tmp_path):
    preview = replace(finetune_run.preview, every=1, prompts=("a red toy",), num_steps=5000)
    with pytest.raises(UserError, match="5000"):
        build(replace(finetune_run, preview=preview), tmp_path)


def test_prior_preservation_adds_a_weighted_mean(finetune_run, pictures_dir, tmp_path):
    alone = with_objective(finetune_run, method=FullMethod())
    prior = PriorConfig(folder=pictures_dir, weight=0.25)
    both = with_objective(alone, prior=prior)
    objective, losses = one_loss(both, tmp_path)
    batch = next(objective.batches(0, Share()))
    assert batch["example"].tolist() == list(range(8))
    np.testing.assert_array_equal(batch["weight"], [2.0, 0.5] * 4)
    unweighted = replace(both, objective=replace(both.objective, prior=replace(prior, weight=1.0)))
    plain = one_loss(unweighted, tmp_path)[1] / 2
    expected = plain[0::2].mean() + 0.25 * plain[1::2].mean()
    assert losses.mean() == pytest.approx(expected, rel=1e-5)
    # The stream goes on anywhere, and both halves are streams of their own.
    batches = objective.batches(0, Share())
    skipped = [next(batches) for _ in range(3)][2]
    same(skipped, next(objective.batches(16, Share())))


def test_pictures_of_the_class_are_drawn_once(finetune_run, tmp_path):
    folder = tmp_path / "class"
    prior = PriorConfig(folder=folder, prompt="a toy", count=3)
    run = with_objective(finetune_run, method=FullMethod(), prior=prior)
    build(run, tmp_path)
    drawn = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(drawn) == [f"prior-00000{i}.{end}" for i in range(3) for end in ("png", "txt")]
    assert drawn["prior-000001.txt"] == b"a toy"
    (folder / "prior-000002.png").unlink()  # an interruption
    build(run, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == drawn
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(UserError, match="has a metadata.jsonl, which would hide"):
        build(run, tmp_path)


def test_pictures_of_the_class_are_drawn_by_the_model_as_it_is(finetune_run, tmp_path):
    drawn = []
    for name, prediction in (("as it is", None), ("changed", "v")):
        prior = PriorConfig(folder=tmp_path / name, prompt="a toy", count=1)
        changes = {"method": FullMethod(), "prior": prior, "prediction": prediction}
        build(with_objective(finetune_run, **changes), tmp_path)
        drawn.append((tmp_path / name / "prior-000000.png").read_bytes())
    assert drawn[0] == drawn[1]


def test_the_noise_can_be_changed_and_is_exported(finetune_run, tmp_path):
    run = with_objective(
        finetune_run,
        method=FullMethod(),
        prediction="v",
        zero_terminal_snr=True,
        loss=LossConfig(weighting="min_snr", noise_offset=0.1),
    )
    objective, losses = one_loss(run, tmp_path)
    assert np.isfinite(losses).all()
    objective.export(tmp_path / "out", objective.init(jax.random.key(0), objective.given), {})
    noise = load_model(tmp_path / "out").noise
    assert noise.zero_terminal_snr and noise.prediction == "v"
    assert noise.spacing == "trailing"  # the grid that begins at the last level
    with pytest.raises(UserError, match="use 'v'"):
        build(with_objective(run, prediction="eps"), tmp_path)


def test_frozen_networks_are_held_in_the_compute_type(finetune_run, tmp_path):
    run = replace(finetune_run, dtype="bfloat16")
    objective = build(run, tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(objective.frozen)} == {jnp.dtype(jnp.bfloat16)}
    trained = objective.init(jax.random.key(0), objective.given)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype(jnp.float32)}
    _, losses = one_loss(run, tmp_path)
    assert np.isfinite(losses).all()


def test_a_text_encoders_small_changes_count_in_bfloat16_too(finetune_run):
    """Merged into kernels of 64 the change is lost; outputs, near 0 for normed inputs, keep it."""
    method = LoraMethod(rank=2, text_encoder=True)
    run = with_objective(replace(finetune_run, dtype="bfloat16"), method=method)
    model = finetune._load(run)
    (tower,) = model.text

    def coarse(path, leaf):
        return leaf * 0 + 64 if [key.key for key in path][-2:] == ["v_proj", "kernel"] else leaf

    params = jax.tree_util.tree_map_with_path(coarse, tower.params)
    model = dataclasses.replace(model, text=(tower._replace(params=params),))
    trained = lora(run, model, make_source(run.data))
    start = trained.init(jax.random.key(0), trained.given)
    changed = {
        path: layer._replace(up=layer.up + 0.1) if path.endswith("v_proj") else layer
        for path, layer in start["text_encoder"].items()
    }
    same(merge(params, changed, 1.0), params)
    ids = jnp.asarray(tower.tokenizer(["a red heart"]))[:, None]

    @jax.jit
    def encode(given):
        towers = trained.towers(given, {"text_encoder": params})
        return condition(run, model, towers, {"tokens": ids}, trained.changes(given)).context

    before, after = encode(start), encode({**start, "text_encoder": changed})
    assert np.abs(after - before).max() > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": TextualInversionMethod(token="<none>")}, "no caption of the data has the word"),
        ({"method": TextualInversionMethod(token="red</w>")}, "has a token 'red</w>' already"),
        ({"method": TextualInversionMethod(token="<new>", initial=" ")}, "holds no word"),
        ({"model": "nowhere/at-all"}, "nowhere/at-all"),
        ({"clip_skip": 7}, "clip skip is 7"),
    ],
)
def test_what_does_not_fit_the_model_or_the_data_is_refused(
    finetune_run, tmp_path, changes, message
):

    changes = {k: Path(v) if k == "model" else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message):
        one_loss(with_objective(finetune_run, **changes), tmp_path)


def test_an_inpainting_model_is_refused(finetune_run, tiny_model, tmp_path):
    unet = dataclasses.replace(tiny_model.unet_config, in_channels=9)
    model = dataclasses.replace(tiny_model, unet_config=unet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "load_model", lambda *args, **kwargs: model)
        with pytest.raises(UserError, match="of the family sd-inpaint"):
            build(finetune_run, tmp_path)
