"""A UNet learns to draw from a sentence encoder that stays as it is."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentences import write_sentences, write_shape
from short_training import build, one_loss, train_shortly
from tokenizers import Tokenizer as Backend

from jaxdiff.convert import Model, TextTower, load_model, save_model, save_single_file
from jaxdiff.convert.autoencoder import load_autoencoder
from jaxdiff.convert.sentence import load_sentences
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.data.wordpieces import WordPieces, load_tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import network
from jaxdiff.pipelines import TextToImage
from jaxdiff.planning.blueprint import blueprint
from jaxdiff.training.config import (
    FinetuneObjective,
    FullMethod,
    LoraMethod,
    OptimizerConfig,
    TextualInversionMethod,
)
from jaxdiff.training.objective import Share
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.step import step_keys

FEW = dict(num_steps=2, guidance_scale=3.0, clip_skip=0)
WIDTH, LENGTH = 32, 16  # of `sentences.SHAPE`


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bert").mkdir()
    write_sentences(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def run(diffusion_run, folder):
    objective = diffusion_run.objective
    unet = replace(objective.unet, cross_attention_dim=WIDTH)
    return replace(diffusion_run, objective=replace(objective, unet=unet, text=folder))


@pytest.fixture
def trained(run, tmp_path):
    """A short training, and the directory that it exported."""
    short = train_shortly(run, tmp_path / "run", steps=4)
    short.objective.export(tmp_path / "model", short.last, {"step": 4})
    return short, tmp_path / "model"


def _halved(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), tree)


def test_the_unet_alone_is_trained_and_what_it_draws_comes_back(run, trained, folder, tmp_path):
    short, path = trained
    known = load_sentences(folder)
    assert short.last.keys() == {"unet"} and short.losses[-1] < short.losses[0]
    jax.tree.map(
        np.testing.assert_array_equal, short.objective.frozen["text_encoder"], known.params
    )
    vae_config, vae = load_autoencoder(run.objective.autoencoder)
    tokenizer = WordPieces(known.backend, LENGTH)
    tower = TextTower("text_encoder", known.config, _halved(known.params), tokenizer)
    parts = run.objective.unet, _halved(short.last["unet"]), vae_config, _halved(vae), (tower,)
    here, there = TextToImage(Model(*parts, run.objective.noise)), TextToImage.load(path)
    assert there.defaults.max_chunks == 1
    pictures = {}
    for name, prompt, options in (
        ("plain", "a red cat", {}),
        ("weighed", "a (red:1.9) cat", {}),
        ("broken", "a BREAK red cat", {"max_chunks": 2}),
        ("negative", "a red cat", {"negative_prompt": "heart"}),
    ):
        ours, theirs = (pipe(prompt, [3], **FEW, **options) for pipe in (here, there))
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        pictures[name] = ours.tobytes()
    assert len(set(pictures.values())) == len(pictures)
    model = load_model(path, load_tokenizer)
    save_model(tmp_path / "again", model)
    for file in ("text_encoder/model.safetensors", "tokenizer/tokenizer.json", "model_index.json"):
        assert (tmp_path / "again" / file).read_bytes() == (path / file).read_bytes()
    index = json.loads((path / "model_index.json").read_text())
    assert index["_class_name"] == "BertStableDiffusionPipeline"
    assert json.loads((path / "text_encoder/config.json").read_text())["model_type"] == "bert"


def test_states_are_zero_at_padding(folder):
    known = load_sentences(folder)
    ids, mask = (jnp.asarray(each) for each in known.tokens(["a red cat", ""], LENGTH))
    encoder = network(known.config)
    out = encoder.apply({"params": known.params}, ids).last_hidden
    said = encoder.apply({"params": known.params}, ids, mask).last_hidden
    np.testing.assert_array_equal(out, said)
    assert np.asarray(out)[mask].all() and not np.asarray(out)[~mask].any()


def test_cached_states_train_alike(run, tmp_path):
    """The BERT is in no step then, and all forms of captions are known."""
    data = replace(run.data, caption_dropout=0.5, loosen_captions=0.5)
    run = replace(run, data=data)
    cached = replace(run, data=replace(data, cache=str(tmp_path / "cache")))
    one, losses = one_loss(run, tmp_path)
    other, alike = one_loss(cached, tmp_path)
    assert one.frozen.keys() == {"vae", "text_encoder"} and other.frozen.keys() == {"vae"}
    np.testing.assert_allclose(alike, losses, rtol=1e-2)
    for config, objective in ((run, one), (cached, other)):
        blue, batches = blueprint(config), objective.batches(0, Share())
        served = [jax.tree.map(jnp.asarray, next(batches)) for _ in range(3)][-1]
        assert blue.batch == jax.eval_shape(lambda served=served: served)
        assert jax.tree.map(np.shape, blue.frozen) == jax.tree.map(np.shape, objective.frozen)


def test_training_goes_on_from_what_was_exported(run, trained, tmp_path):
    _, path = trained
    objective = replace(run.objective, init=path, text=path)
    going = build(replace(run, objective=objective), tmp_path / "going")
    assert going.given.keys() == {"unet"}
    assert going.inputs.keys() == {"autoencoder", "tokenizer", "text_encoder"}


def test_a_given_text_encoder_learns_on(run, folder, tmp_path):
    """It begins as it is, and is moved as the UNet is."""
    learns = replace(run, objective=replace(run.objective, text_learns=True))
    short = train_shortly(learns, tmp_path, steps=6)
    assert short.objective.frozen.keys() == {"vae"}
    known = load_sentences(folder).params
    jax.tree.map(np.testing.assert_array_equal, short.first["text_encoder"], known)
    params = jax.eval_shape(blueprint(learns).init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, short.first)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), short.last, short.first)
    assert all(max(jax.tree.leaves(moved[part])) > 0 for part in ("unet", "text_encoder"))


def test_text_encoders_have_a_rate_of_their_own():
    config = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, text_encoder_rate=0.1)
    optimizer = make_optimizer(config, 10)
    params = {name: {"kernel": jnp.ones(3)} for name in ("unet", "text_encoder", "text_encoder_2")}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    for name, each in updates.items():
        share = 1 if name == "unet" else 0.1
        np.testing.assert_allclose(each["kernel"], -1e-2 * share, rtol=1e-5)


def test_one_that_learns_is_not_cached_and_goes_on(run, trained, tmp_path):
    """Its states change; the UNet may come from elsewhere."""
    _, path = trained
    data = replace(run.data, cache=str(tmp_path / "cache"))
    objective = replace(run.objective, init=path, text=run.objective.text, text_learns=True)
    going = build(replace(run, data=data, objective=objective), tmp_path / "going")
    assert going.given.keys() == {"unet", "text_encoder"}
    assert "tokens" in next(going.batches(0, Share()))


def test_rates_and_learners_that_are_none_are_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"give objective\.text, or"):
        replace(run.objective, text=None, text_learns=True)
    with pytest.raises(UserError, match="trained beside a UNet, and here none is"):
        replace(run, optimizer=replace(run.optimizer, text_encoder_rate=0.5))
    with pytest.raises(UserError, match="a finite number, at least 0, not inf"):
        replace(run.optimizer, text_encoder_rate=float("inf"))


def _two_pads(folder):
    backend = json.loads((folder / "tokenizer.json").read_text())
    backend["model"]["vocab"] |= {"[PAD]": 1, "[UNK]": 0}
    Backend.from_str(json.dumps(backend)).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: write_shape(f, model_type="roberta"), "model_type 'roberta' is not 'bert'"),
        (lambda f: write_shape(f, pad_token_id=1), "pad_token_id=1 is not supported"),
        (lambda f: write_shape(f, hidden_size=16), "read as a BERT"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (_two_pads, "padding is token 1"),
        (lambda f: (f / "config.json").unlink(), "holds no text encoder"),
    ],
)
def test_other_folders_are_refused(spoil, said, run, folder, tmp_path):
    spoil(folder)
    with pytest.raises(UserError, match=said):
        build(run, tmp_path / "run")


def test_options_that_do_not_fit_are_refused(run, folder, tmp_path):
    def refused(said, **changed):
        objective = replace(run.objective, **changed)
        with pytest.raises(UserError, match=said):
            build(replace(run, objective=objective), tmp_path / "run")

    narrow = replace(run.objective.unet, cross_attention_dim=16)
    refused("objective.unet.cross_attention_dim=16, but .* are 32 wide; set it to 32", unet=narrow)
    refused("leave objective.tokenizer out", tokenizer=folder)


def test_what_needs_clip_is_refused(finetune_run, trained, tmp_path):
    _, path = trained
    model = load_model(path, load_tokenizer)
    with pytest.raises(UserError, match="a single file needs a text encoder in CLIP's form"):
        save_single_file(tmp_path / "one.safetensors", model)
    Tokenizer.train(["red"], 520, 8).save(tmp_path / "clip")
    with pytest.raises(UserError, match="of the kind bert, its tokenizer of the kind clip"):
        load_model(path, load_tokenizer, tokenizer_dir=tmp_path / "clip")
    for method in (
        TextualInversionMethod(token="<toy>"),
        FullMethod(text_encoder=True),
        LoraMethod(text_encoder=True),
    ):
        objective = FinetuneObjective(model=path, method=method)
        with pytest.raises(UserError, match="training a text encoder or its words needs"):
            build(replace(finetune_run, objective=objective), tmp_path / "run")


def test_it_is_fine_tuned_as_others_are(finetune_run, trained, tmp_path):
    _, path = trained
    objective = FinetuneObjective(model=path, method=LoraMethod(rank=2))
    tuned = build(replace(finetune_run, objective=objective), tmp_path / "run")
    batch = jax.tree.map(jnp.asarray, next(tuned.batches(0, Share())))
    keys = step_keys(jax.random.key(1), jnp.zeros((), jnp.int32), batch["example"])
    start = functools.partial(tuned.init, given=tuned.given)
    params = jax.eval_shape(start, jax.random.key(0))
    assert params.keys() == {"unet"}
    losses, _ = jax.eval_shape(tuned.loss, params, tuned.frozen, batch, keys)
    assert losses.shape == (8,)
