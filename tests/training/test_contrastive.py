"""A CLIP learns which caption belongs to which picture, and is written for the ruler."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from short_training import build, train_shortly

from jaxdiff.convert.clip import load_clip, save_clip
from jaxdiff.data.sources import DataConfig
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.models import TextEncoderConfig, VisionEncoderConfig
from jaxdiff.training.config import ContrastiveObjective, EMAConfig, OptimizerConfig, TrainConfig
from jaxdiff.training.contrastive import multi_positive_loss, random_crops


@pytest.fixture(scope="module")
def run():
    """A CLIP of a few channels on coloured shapes."""
    objective = ContrastiveObjective(
        text=TextEncoderConfig(540, 16, 32, 1, 2, 16, eos_token_id=539, projection_dim=8),
        vision=VisionEncoderConfig(16, 32, 1, 2, image_size=16, patch_size=8, projection_dim=8),
    )
    data = DataConfig(
        source="shapes", resolution=16, batch_size=32, caption_dropout=0.0, flip=False
    )
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, b2=0.98)
    return TrainConfig(objective, data, optimizer=optimizer, ema=EMAConfig(decay=0.5))


def test_the_loss_falls_and_what_is_learned_is_written(run, tmp_path):
    """From chance on one batch; the file embeds as the networks do."""
    short = train_shortly(run, tmp_path, steps=40)
    print("loss", [round(loss, 2) for loss in short.losses[::8]])
    assert short.losses[0] == pytest.approx(np.log(32), abs=2.5)
    assert short.losses[-1] < 0.6 * short.losses[0]
    short.objective.export(tmp_path / "clip", short.last, {"step": 40})
    clip = load_clip(tmp_path / "clip", Tokenizer.load)
    assert (clip.text, clip.vision) == (run.objective.text, run.objective.vision)
    extractor = open_extractor(f"clip:{tmp_path / 'clip'}")
    assert extractor([np.asarray(short.batch["image"])]).shape == (32, 8)
    assert extractor.texts(["a big red circle"]).embeddings.shape == (1, 8)
    (tmp_path / "clip" / "README.md").write_text("its card")
    save_clip(tmp_path / "clip", clip)  # an older one is replaced, and its card stays
    assert (tmp_path / "clip" / "README.md").read_text() == "its card"


def test_where_captions_differ_it_is_the_published_loss():
    """Cross-entropy with the diagonal, both ways."""
    logits = jax.random.normal(jax.random.key(0), (6, 6)) * 3
    losses, metrics = multi_positive_loss(logits, jnp.arange(6)[:, None])
    rows, columns = (jnp.diag(jax.nn.log_softmax(x, axis=1)) for x in (logits, logits.T))
    np.testing.assert_allclose(losses, -(rows + columns) / 2, rtol=1e-6)
    np.testing.assert_array_equal(metrics["found"], logits.argmax(1) == jnp.arange(6))


def test_pictures_of_one_caption_are_no_wrong_answers():
    """Two of one caption: each may find either, and the least loss is that of a fair coin."""
    tokens = jnp.array([[1, 2], [1, 2], [1, 3]])
    best = jnp.log(jnp.array([[0.5, 0.5, 1e-9], [0.5, 0.5, 1e-9], [1e-9, 1e-9, 1.0]]))
    losses, metrics = multi_positive_loss(best, tokens)
    np.testing.assert_allclose(losses, [np.log(2), np.log(2), 0], atol=1e-5)
    np.testing.assert_array_equal(metrics["found"], 1)


def test_crops_are_squares_of_their_picture():
    """A slope stays a slope: steeper by 1 / side, within what the picture has."""
    slope = jnp.broadcast_to(jnp.arange(32.0)[:, None, None], (8, 32, 32, 3))
    keys = jax.random.split(jax.random.key(0), 8)
    cut = np.asarray(random_crops(slope, keys, 0.5))
    steps = np.diff(cut[:, 2:-2, 0, 0], axis=1)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:, :1], steps.shape), atol=1e-4)
    assert len(set(steps[:, 0].round(4))) == 8 and 0.5 <= steps.min() and steps.max() <= 1
    assert cut.min() >= 0 and cut.max() <= 31
    np.testing.assert_allclose(random_crops(slope[3:4], keys[3:4], 0.5), cut[3:4], atol=1e-5)
    np.testing.assert_allclose(random_crops(slope[:1], keys[:1], 1.0), slope[:1], atol=1e-5)


def test_a_crop_of_nothing_is_refused(run):
    with pytest.raises(UserError, match=r"objective.smallest_crop must be above 0"):
        replace(run.objective, smallest_crop=0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(optimizer=OptimizerConfig(accumulate=2)), "optimizer.accumulate=2"),
        (dict(parallel="pmap"), "parallel=pmap"),
        (dict(data=DataConfig(source="shapes", resolution=16)), "data.caption_dropout=0.1"),
    ],
)
def test_options_that_cut_the_batch_are_refused(run, change, said, tmp_path):
    with pytest.raises(UserError, match=said):
        build(replace(run, **change), tmp_path)


def test_towers_that_do_not_meet_are_refused(run):
    text = replace(run.objective.text, projection_dim=9)
    with pytest.raises(UserError, match="must be equal"):
        replace(run.objective, text=text)
