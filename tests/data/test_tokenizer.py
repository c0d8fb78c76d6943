"""The tokenizer: CLIP's form, and CLIP's numbers."""

import json
import random

import numpy as np
import pytest

from jaxdiff.data.tokenizer import BOS, EOS, Tokenizer
from jaxdiff.errors import UserError

CAPTIONS = [
    f"{colour} {thing}, {style} style"
    for colour in ("red", "blue", "green", "white")
    for thing in ("heart", "cat face", "flag for japan", "clock's hand", "square")
    for style in ("noto", "twemoji", "fluent")
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 600, 16)


def random_texts(count):
    rng = random.Random(0)
    letters = "abc XYZ'sé!😀 \n\t.,0123<|>ß漢字ﬁÅ\u0301"
    texts = ["".join(rng.choices(letters, k=rng.randint(0, 60))) for _ in range(count)]
    return [*texts, *CAPTIONS, "", " ", "it's", "<|endoftext|> in the text", "a!!! b ! c"]


def test_shape_and_frame(tokenizer):
    ids = tokenizer(["red heart, noto style", "", "cat " * 100])
    assert ids.shape == (3, 16) and ids.dtype == np.int32
    assert (ids[:, 0] == tokenizer.bos_id).all()
    assert (ids[1, 1:] == tokenizer.eos_id).all()
    assert ids[2, -1] == tokenizer.eos_id and tokenizer.eos_id not in ids[2, :-1]
    assert tokenizer.vocab_size <= 600 and tokenizer.vocab[EOS] == tokenizer.vocab_size - 1
    assert tokenizer([]).shape == (0, 16)


def test_case_and_spaces_do_not_matter(tokenizer):
    first, second = tokenizer(["Red  HEART,\nnoto style", "red heart, noto style"])
    np.testing.assert_array_equal(first, second)


def test_every_text_has_an_encoding(tokenizer):
    assert len(tokenizer.vocab) >= 514
    for text in ("漢字", "\x00\x7f", "Ωé", "🦄"):
        assert tokenizer.eos_id not in tokenizer([text])[0, 1:3]


def test_training_is_deterministic(tokenizer):
    again = Tokenizer.train(CAPTIONS, 600, 16)
    assert again.vocab == tokenizer.vocab and again.merges == tokenizer.merges
    with pytest.raises(UserError, match="at least 514"):
        Tokenizer.train(CAPTIONS, 500)


def test_truncation_is_reported(tokenizer):
    assert tokenizer.truncated("red heart, noto style") == ""
    text = "red  Heart " * 12
    cut = tokenizer.truncated(text)
    kept = text[: len(text) - len(cut)]
    assert cut and text.endswith(cut)
    np.testing.assert_array_equal(tokenizer([kept]), tokenizer([text]))
    assert tokenizer.truncated(kept) == ""


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    again = Tokenizer.load(tmp_path)
    assert again.max_length == 16 and again.pad_id == tokenizer.eos_id
    texts = random_texts(100)
    np.testing.assert_array_equal(again(texts), tokenizer(texts))


def test_damaged_directories(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"lacks the file .*tokenizer\.json"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"lacks the file .*merges\.txt"):
        Tokenizer.load(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nzz qq\n")
    with pytest.raises(UserError, match="merges do not fit"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0')
    with pytest.raises(UserError, match=r"vocab\.json is damaged"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, BOS: 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="lacks <|endoftext|>"):
        Tokenizer.load(tmp_path)


def test_merges_cut_short_are_noticed(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    merges = tmp_path / "merges.txt"
    lines = merges.read_text("utf-8").splitlines(keepends=True)
    merges.write_text("".join(lines[:-1]), "utf-8")
    with pytest.raises(UserError, match=r"cut short: no merge makes 1 tokens of .*vocab\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", b'{"model_max_length": "x"}', "is 'x', no number"),
        ("tokenizer_config.json", b"[]", "no JSON object"),
        ("merges.txt", b"\xff\xfe a\n", "merges.txt is damaged"),
        ("vocab.json", b'{"a": "b"}', "an id is no number"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', "lacks vocab or merges"),
        ("tokenizer.json", b'{"model": null}', "no byte-pair tokenizer"),
    ],
)
def test_damaged_files_are_named(tokenizer, tmp_path, name, content, message):
    tokenizer.save(tmp_path)
    if name == "tokenizer.json":
        (tmp_path / "vocab.json").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parity
@pytest.mark.parametrize("pad", [EOS, "!"])
def test_ids_equal_those_of_transformers(tokenizer, tmp_path, pad):
    """Stable Diffusion 1 pads with the end token, 2 with "!"."""
    transformers = pytest.importorskip("transformers")
    Tokenizer(tokenizer.vocab, tokenizer.merges, 16, pad).save(tmp_path / "ours")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    texts = random_texts(1000)
    expected = theirs(texts, padding="max_length", truncation=True)["input_ids"]
    for folder in ("ours", "theirs"):
        np.testing.assert_array_equal(Tokenizer.load(tmp_path / folder)(texts), expected)
