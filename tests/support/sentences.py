"""A small sentence encoder on disk."""

import json

import jax
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from jaxdiff.convert.merge import to_torch
from jaxdiff.convert.tensors import write_tensors
from jaxdiff.models import SentenceEncoderConfig, example_inputs, network

SHAPE = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=16,
)
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "kit", "##ten", "red", "heart")


def write_tokenizer(folder):
    """`tokenizer.json` of ten words."""
    vocab = {word: number for number, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    backend.save(str(folder / "tokenizer.json"))


def write_shape(folder, **changed):
    """`config.json`."""
    (folder / "config.json").write_text(json.dumps(SHAPE | {"model_type": "bert"} | changed))


def write_sentences(folder):
    """A whole encoder of random weights."""
    config = SentenceEncoderConfig(**SHAPE)
    params = network(config).init(jax.random.key(0), **example_inputs(config))["params"]
    write_shape(folder)
    write_tokenizer(folder)
    write_tensors(folder / "model.safetensors", to_torch(params), None)
