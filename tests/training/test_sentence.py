"""A text encoder learns what a sentence encoder says, and a UNet reads it as it is."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentences import write_sentences
from short_training import build, train_shortly

from jaxdiff.convert import load_model
from jaxdiff.convert.sentence import load_sentences
from jaxdiff.convert.text_encoder import load_text_encoder
from jaxdiff.data.sources import DataConfig, make_source
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoder, TextEncoderConfig, network
from jaxdiff.planning.blueprint import blueprint
from jaxdiff.training.config import OptimizerConfig, SentenceObjective, TrainConfig
from jaxdiff.training.export import check_export
from jaxdiff.training.objective import Share

LINES = ("a cat", "a kitten", "red heart", "heart", "a red cat", "kitten heart", "", "  red  ")


@pytest.fixture
def run(tmp_path):
    """A student of a few channels."""
    (tmp_path / "teacher").mkdir()
    write_sentences(tmp_path / "teacher")
    (tmp_path / "words.txt").write_text("\n".join(LINES))
    text = TextEncoderConfig(527, 16, 32, 1, 2, 16, eos_token_id=526, projection_dim=32)
    data = DataConfig(source=f"text:{tmp_path / 'words.txt'}", batch_size=8, caption_dropout=0.0)
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=2)
    return TrainConfig(SentenceObjective(text, tmp_path / "teacher"), data, optimizer=optimizer)


@pytest.fixture
def student(run, tmp_path):
    """The directory of one that learned a little."""
    short = train_shortly(run, tmp_path, steps=30)
    short.objective.export(tmp_path / "student", short.last, {"step": 30})
    return tmp_path / "student", short


def test_it_says_what_the_teacher_says(run, student):
    """Its loss falls; what is served is the teacher's own word, and what is written reads alike."""
    folder, short = student
    assert short.losses[-1] < 0.2 * short.losses[0]
    (folder / "README.md").write_text("its card")
    short.objective.export(folder, short.last, {"step": 31})  # an older one is replaced
    assert (folder / "README.md").read_text() == "its card"
    teacher = load_sentences(run.objective.teacher)
    tower = load_text_encoder(folder, Tokenizer.load)
    assert tower.config == run.objective.text
    served = make_source(run.data)
    assert [served[n]["caption"] for n in range(len(served))] == [*LINES[:6], "red"]
    encode = jax.jit(network(teacher.config).apply)
    wanted = encode({"params": teacher.params}, *teacher.tokens(["a cat"], 16)).embedding[0]
    ids = jnp.asarray(tower.tokenizer(["a cat"]))
    rows = np.flatnonzero((np.asarray(short.batch["tokens"]) == np.asarray(ids)).all(1))
    assert len(rows)
    np.testing.assert_allclose(short.batch["wanted"][rows[0]], wanted, atol=1e-3)
    said = TextEncoder(tower.config).apply({"params": tower.params}, ids).pooled[0]
    assert said @ wanted / np.linalg.norm(said) > 0.5


def test_all_forms_of_captions_are_known(run, tmp_path):
    """Loosened ones and none at all are embedded beforehand, too."""
    data = replace(run.data, loosen_captions=0.5, caption_dropout=0.3)
    batches = build(replace(run, data=data), tmp_path).batches(0, Share())
    wanted = np.concatenate([next(batches)["wanted"] for _ in range(6)]).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-3)
    assert len(np.unique(wanted, axis=0)) > len(LINES)


def test_a_blueprint_is_what_is_trained(run, tmp_path):
    blue, objective = blueprint(run), build(run, tmp_path)
    served = jax.tree.map(jnp.asarray, next(objective.batches(0, Share())))
    assert blue.batch == jax.eval_shape(lambda: served)
    made = jax.eval_shape(lambda key: objective.init(key, {}), jax.random.key(0))
    assert jax.eval_shape(blue.init, jax.random.key(0)) == made


@pytest.fixture
def reader(diffusion_run, student):
    """A diffusion run that reads the student as it is."""
    text = load_text_encoder(student[0], Tokenizer.load).config
    unet = replace(diffusion_run.objective.unet, cross_attention_dim=text.hidden_size)
    objective = replace(
        diffusion_run.objective,
        unet=unet,
        text=student[0],
        text_encoder=replace(text, projection_dim=None),
    )
    return replace(diffusion_run, objective=objective)


def test_a_unet_learns_from_it_and_leaves_it_as_it_is(reader, student, tmp_path):
    short = train_shortly(reader, tmp_path / "run", steps=3)
    assert short.last.keys() == {"unet"}
    short.objective.export(tmp_path / "model", short.last, {"step": 3})
    (tower,) = load_model(tmp_path / "model", Tokenizer.load).text
    known = load_text_encoder(student[0], Tokenizer.load)
    assert tower.config.projection_dim is None
    kept = {name: part for name, part in known.params.items() if name != "text_projection"}
    jax.tree.map(np.testing.assert_array_equal, tower.params, kept)
    blue = blueprint(reader)
    assert jax.tree.map(np.shape, blue.frozen) == jax.tree.map(np.shape, short.objective.frozen)


def test_a_unet_trains_it_on_without_its_projection(reader, student, tmp_path):
    learns = replace(reader, objective=replace(reader.objective, text_learns=True))
    objective = build(learns, tmp_path / "run")
    known = load_text_encoder(student[0], Tokenizer.load).params
    del known["text_projection"]
    jax.tree.map(np.testing.assert_array_equal, objective.given["text_encoder"], known)
    params = objective.init(jax.random.key(0), objective.given)
    objective.export(tmp_path / "model", params, {"step": 0})
    (tower,) = load_model(tmp_path / "model", Tokenizer.load).text
    jax.tree.map(np.testing.assert_array_equal, tower.params, known)


def test_what_does_not_fit_is_refused(reader, run, tmp_path):
    def refused(said, objective, of=run, **data):
        with pytest.raises(UserError, match=said):
            changed = replace(of, objective=objective, data=replace(of.data, **data))
            build(changed, tmp_path / "other")

    refused("teacher must name", replace(run.objective, teacher=None))
    narrow = replace(run.objective.text, projection_dim=8)
    refused("projection_dim=8, but the embed", replace(run.objective, text=narrow))
    wide = replace(reader.objective.text_encoder, hidden_size=32)
    refused("hidden_size=32, there it is 16", replace(reader.objective, text_encoder=wide), reader)
    both = replace(reader.objective, tokenizer=tmp_path)
    refused("leave objective.tokenizer out", both, reader)
    empty = replace(reader.objective, text=tmp_path / "nowhere")
    refused("holds no text encoder", empty, reader)
    refused("holds no pictures", reader.objective, reader, source=run.data.source)
    refused("cannot be read", run.objective, source="text:nowhere.txt")


def test_a_place_that_holds_a_model_is_refused(run, tiny_model_dir, student):
    with pytest.raises(UserError, match="no directory of a text encoder alone"):
        check_export(replace(run, export=tiny_model_dir))
    check_export(replace(run, export=student[0]))
