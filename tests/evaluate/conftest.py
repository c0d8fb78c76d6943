"""Small sets of pictures on disk, a small CLIP, and the command line in this process."""

import jax
import numpy as np
import pytest
from rectangles import make_pictures, write_pictures

from jaxdiff.convert.clip import Clip, save_clip
from jaxdiff.convert.merge import parameter_shapes
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.models import TextEncoderConfig, VisionEncoderConfig


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A small CLIP of random weights with a tokenizer."""
    tokenizer = Tokenizer.train(["red heart", "cat face"], 530, max_length=8)
    text = TextEncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        eos_token_id=tokenizer.eos_id,
        projection_dim=12,
    )
    vision = VisionEncoderConfig(16, 32, 1, 2, image_size=16, patch_size=8, projection_dim=12)
    rng = np.random.default_rng(0)

    def draw(config):
        shapes = parameter_shapes(config)
        return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder, Clip(text, draw(text), vision, draw(vision), 2.0, tokenizer))
    return folder


@pytest.fixture
def folder(tmp_path):
    """Writes rectangles into a folder: (name, count, seed) -> its path."""

    def write(name, count, seed, side=16):
        return write_pictures(tmp_path / name, make_pictures(count, seed, side))

    return write


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """`python -m jaxdiff.evaluate` in this process: (code, lines out, lines err)."""
    from jaxdiff.evaluate.commands import main

    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return call
