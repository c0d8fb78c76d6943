"""The tokenizer: CLIP's form, and CLIP's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from texts import generated_prompts

from jaxdiff.data.tokenizer import BOS, EOS, Tokenizer
from jaxdiff.errors import UserError

SHIPPED = Path(__file__).parents[2] / "models" / "emoji64" / "tokenizer"
CAPTIONS = [
    f"{colour} {thing}, {style} style"
    for colour in ("red", "blue", "green", "white")
    for thing in ("heart", "cat face", "flag for japan", "clock's hand", "square")
    for style in ("noto", "twemoji", "fluent")
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 600, 16)


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
    texts = generated_prompts(100)
    np.testing.assert_array_equal(again(texts), tokenizer(texts))


def test_damaged_directories(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"lacks the file .*vocab\.json"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"lacks the file .*merges\.txt"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    with (tmp_path / "merges.txt").open("a") as merges:
        merges.write("zz qq\n")
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


# What tokenizer_config.json and special_tokens_map.json say in the checkpoints that people have.
FLAGS = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
NAMED = {
    "bos_token": {"content": BOS, **FLAGS},
    "eos_token": {"content": EOS, **FLAGS},
    "unk_token": {"content": EOS, **FLAGS},
}
LISTED = [
    {"content": BOS, **FLAGS, "special": True},
    {"content": EOS, **FLAGS, "special": True},
    {"content": "<Cat-toy>", **FLAGS, "special": False},
    {"content": "straße", **FLAGS | {"single_word": True}, "special": False},
]
LAYOUTS = {
    "ours": ({}, {}),
    "stable diffusion 1": ({k: v | {"__type": "AddedToken"} for k, v in NAMED.items()}, NAMED),
    "stable diffusion 2": ({"pad_token": EOS}, NAMED | {"pad_token": "!"}),  # they disagree
    "listed": ({"pad_token": EOS, "added_tokens_decoder": LISTED}, {"pad_token": "!"}),
}


def _folder(root, tokenizer, layout):
    """A tokenizer as other programs write it."""
    tokenizer.save(root)
    for name, changes in zip(("tokenizer_config", "special_tokens_map"), layout, strict=True):
        changes = dict(changes)
        if "added_tokens_decoder" in changes:
            ids = range(tokenizer.vocab[BOS], tokenizer.vocab[BOS] + len(LISTED))
            changes["added_tokens_decoder"] = dict(zip(map(str, ids), LISTED, strict=True))
        file = root / f"{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return root


@pytest.fixture(scope="module")
def prompts():
    return generated_prompts(2000)


def _assert_equal_ids(folder, prompts, tmp_path):
    """Ids of transformers, of a directory and of what either library makes of it."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    expected = theirs(prompts, padding="max_length", truncation=True)["input_ids"]
    ours = Tokenizer.load(folder)
    np.testing.assert_array_equal(ours(prompts), expected)
    few = prompts[:200]
    whole = [pieces.ids for pieces in ours.pieces(few)]
    assert whole == theirs(few, add_special_tokens=False, verbose=False)["input_ids"]
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save(tmp_path / "again")
    for copy in ("theirs", "again"):
        np.testing.assert_array_equal(Tokenizer.load(tmp_path / copy)(few), expected[:200])
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path / "again")
    assert again(few, padding="max_length", truncation=True)["input_ids"] == expected[:200]


@pytest.mark.parity
def test_ids_equal_those_of_transformers(tokenizer, prompts, tmp_path):
    longer = Tokenizer(tokenizer.vocab, tokenizer.merges, 77)
    folder = _folder(tmp_path / "ours", longer, LAYOUTS["ours"])
    _assert_equal_ids(folder, prompts, tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
def test_every_layout_gives_the_ids_of_transformers(tokenizer, prompts, layout, tmp_path):
    folder = _folder(tmp_path / "ours", tokenizer, LAYOUTS[layout])
    _assert_equal_ids(folder, prompts[:400], tmp_path)


@pytest.mark.parity
def test_ids_of_the_shipped_model_equal_those_of_transformers(prompts, tmp_path):
    _assert_equal_ids(SHIPPED, prompts, tmp_path)


@pytest.mark.parity
def test_added_tokens_of_an_older_version(tokenizer, prompts, tmp_path):
    """`added_tokens.json` is what transformers wrote beside vocab.json before version 5."""
    tokenizer.save(tmp_path / "ours")
    new = {"<cat-toy>": tokenizer.vocab_size, "<cat-toy>_1": tokenizer.vocab_size + 1}
    (tmp_path / "ours" / "added_tokens.json").write_text(json.dumps(new))
    theirs = pytest.importorskip("transformers").CLIPTokenizer.from_pretrained(tmp_path / "ours")
    texts = ["a <cat-toy> <cat-toy>_1 b", "x<CAT-toy>_1y"]
    ours = Tokenizer.load(tmp_path / "ours")
    assert ours.vocab_size == tokenizer.vocab_size + 2
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert [p.ids for p in ours.pieces([texts[1]])] == expected[1:]
    first = ours.vocab["<cat-toy>"]  # alone it stands for both
    a, b = expected[0][0], expected[0][-1]
    assert ours.pieces(["a <cat-toy> b"])[0].ids == [a, first, first + 1, b]


def test_new_tokens(tokenizer, tmp_path):
    more = tokenizer.with_tokens(["<x>", "<x>_1", "<x>_2", "EasyNegative"])
    first = tokenizer.vocab_size
    assert more.vocab_size == first + 4 and "<x>" not in tokenizer.vocab
    (pieces,) = more.pieces(["red  <X>heart"])
    red, heart = (tokenizer.pieces([word])[0].ids for word in ("red", "heart"))
    assert pieces.ids == [*red, first, first + 1, first + 2, *heart]
    assert pieces.starts[len(red) :] == [5, 5, 5, 8]
    assert first + 3 in more.pieces(["blue, easynegative."])[0].ids
    assert first + 3 not in more.pieces(["easynegatives"])[0].ids  # a word of its own only
    more.save(tmp_path)
    texts = [*generated_prompts(100), "a <x> b"]
    again = Tokenizer.load(tmp_path)
    np.testing.assert_array_equal(again(texts), more(texts))
    assert again.vocab == more.vocab
    for token in ("red</w>", "<x>", " ", EOS):
        with pytest.raises(UserError, match="choose another name"):
            more.with_tokens([token])


def test_text_that_is_no_text_is_refused(tokenizer):
    with pytest.raises(UserError, match="no UTF-8"):
        tokenizer(["a \udcff"])
