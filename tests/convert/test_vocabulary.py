"""Where the tokenizer of a single file comes from that carries none."""

import gzip
import sys

import numpy as np
import pytest

from jaxdiff.convert import load_model, save_single_file, vocabulary
from jaxdiff.convert.tensors import read_tensors, write_tensors
from jaxdiff.convert.vocabulary import TokenizerFiles, find_tokenizers
from jaxdiff.data.tokenizer import EOS, Tokenizer
from jaxdiff.data.tokenizer_files import byte_symbols
from jaxdiff.errors import UserError


@pytest.fixture
def foreign(tiny_model, tmp_path):
    """A single file without a header; its shapes follow the families' rules well enough."""
    save_single_file(tmp_path / "model.safetensors", tiny_model)
    write_tensors(tmp_path / "model.safetensors", read_tensors([tmp_path / "model.safetensors"]))
    return tmp_path / "model.safetensors"


@pytest.fixture
def merges(monkeypatch, tmp_path):
    """A package `open_clip` that holds CLIP's list of merges, shortened to four."""
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    lines = ["#version", "h e", "l l", "he ll", "hell o</w>", "not used"]
    text = gzip.compress("\n".join(lines).encode())
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(text)
    (package / "__init__.py").write_text("raise AssertionError('never imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(vocabulary, "_NUM_MERGES", 4)
    return package


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch):
    monkeypatch.setattr(vocabulary.hub, "cached_file", lambda *names: None)


def _find(load=Tokenizer.load, towers=None, **options):
    defaults = {"tokenizer_dir": None, "embedded": None, "max_length": 12, "source": "x"}
    return find_tokenizers(towers or {"text_encoder": False}, load, **defaults | options)


def test_a_package_s_list_of_merges(merges):
    tokenizers, note = _find(towers={"text_encoder": False, "text_encoder_2": True})
    assert note == "the package open_clip"
    assert "open_clip" not in sys.modules
    first, second = tokenizers["text_encoder"], tokenizers["text_encoder_2"]
    assert first.vocab_size == 512 + 4 + 2
    assert first.merges == [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o</w>")]
    assert [first.vocab[s] for s in byte_symbols()] == list(range(256))
    ids = first(["hello"])[0]
    assert ids[:3].tolist() == [first.bos_id, first.vocab["hello</w>"], first.eos_id]
    assert (first.pad, second.pad, second.pad_id) == (EOS, "!", 0)


def test_the_hub_s_cache_counts_before_a_package(merges, monkeypatch, tmp_path, tiny_model):
    tiny_model.text[0].tokenizer.save(tmp_path / "cached")
    asked = []

    def cached_file(repository, name):
        asked.append(repository)
        file = tmp_path / "cached" / name.rpartition("/")[2]
        return file if repository.startswith("stabilityai/sd-turbo") else None

    monkeypatch.setattr(vocabulary.hub, "cached_file", cached_file)
    tokenizers, note = _find()
    assert note == "stabilityai/sd-turbo in the Hugging Face cache"
    assert tokenizers["text_encoder"].vocab == tiny_model.text[0].tokenizer.vocab
    assert asked[0] == "openai/clip-vit-large-patch14"


def test_none_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(vocabulary, "_PACKAGES", ("jaxdiff_no_such_package",))
    with pytest.raises(UserError, match="x carries no tokenizer.*--tokenizer-dir") as caught:
        _find()
    assert "\n" not in str(caught.value)


def test_a_user_s_folder_counts_first(merges, foreign, tiny_model, tmp_path):
    tiny_model.text[0].tokenizer.save(tmp_path / "mine")
    model = load_model(foreign, Tokenizer.load, tokenizer_dir=tmp_path / "mine")
    assert model.text[0].tokenizer.vocab == tiny_model.text[0].tokenizer.vocab
    assert not any("tokenizer" in note for note in model.notes)
    both = {"text_encoder": False, "text_encoder_2": True}
    tokenizers, _ = _find(towers=both, tokenizer_dir=tmp_path / "mine")
    assert [tokenizers[name].pad for name in both] == [EOS, "!"]


def test_the_note_names_the_source(merges, foreign):
    assumed, tokenizer = load_model(foreign, Tokenizer.load).notes
    assert "assumed: Stable Diffusion 1, 512 pixels, prediction eps" in assumed
    assert "--prediction" in assumed
    assert tokenizer.endswith("carries no tokenizer; read from the package open_clip")
    np.testing.assert_equal(len(load_model(foreign).notes), 1)  # none asked for


def test_files_are_copied_as_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "in" / name).write_bytes(b"anything\r\n")
    (tmp_path / "in" / "weights.bin").write_bytes(b"")
    TokenizerFiles(tmp_path / "in").save(tmp_path / "out")
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == dict.fromkeys(
        ("vocab.json", "merges.txt"), b"anything\r\n"
    )
    with pytest.raises(UserError, match="holds no tokenizer"):
        TokenizerFiles(tmp_path / "nowhere")
