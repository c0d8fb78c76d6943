"""A BERT's tokenizer reads prompts as its own library does, and comes back from disk."""

import json
import pickle

import numpy as np
import pytest
from sentences import write_tokenizer
from tokenizers import Tokenizer as Backend

from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.data.wordpieces import WordPieces, load_tokenizer
from jaxdiff.errors import UserError
from jaxdiff.pipelines.prompts import tokenize_prompts

CLS, SEP, A, CAT, KIT, TEN, RED = 2, 3, 4, 5, 6, 7, 8


@pytest.fixture
def backend(tmp_path):
    write_tokenizer(tmp_path)
    return Backend.from_file(str(tmp_path / "tokenizer.json"))


def test_ids_are_the_library_s_own(backend):
    texts = ["a red kitten", "", "A  Red cat", "red " * 9]
    ids = WordPieces(backend, 6)(texts)
    backend.enable_truncation(6)
    backend.enable_padding(length=6)
    np.testing.assert_array_equal(ids, [each.ids for each in backend.encode_batch(texts)])


def test_pieces_know_their_places(backend):
    (pieces,) = WordPieces(backend, 6).pieces(["a kitten"])
    assert (pieces.ids, pieces.starts) == ([A, KIT, TEN], [0, 2, 5])


def test_weights_and_breaks_are_read(backend):
    read, notes = tokenize_prompts(WordPieces(backend, 5), ["a (red:1.5) BREAK cat"], max_chunks=2)
    assert not notes
    assert read.ids.tolist() == [[[CLS, A, RED, SEP, 0], [CLS, CAT, SEP, 0, 0]]]
    assert read.weights.tolist() == [[[1, 1, 1.5, 1, 1], [1, 1, 1, 1, 1]]]


def test_it_comes_back(backend, tmp_path):
    ours = WordPieces(backend, 6)
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert isinstance(again, WordPieces)
    assert (again.max_length, again.vocab_size, again.digest) == (6, 10, ours.digest)
    assert WordPieces(backend, 7).digest != ours.digest
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours))(["a cat"]), again(["a cat"]))


def test_a_folder_of_clip_s_is_still_clip_s(tmp_path):
    Tokenizer.train(["red heart"], 520, 8).save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), Tokenizer)
    with pytest.raises(UserError, match=r"lacks the file"):
        load_tokenizer(tmp_path / "nowhere")


def test_what_is_no_bert_s_is_refused(backend, tmp_path):
    ours = WordPieces(backend, 6)
    with pytest.raises(UserError, match="learns no new words, such as '<x>'"):
        ours.with_tokens(["<x>"])
    with pytest.raises(UserError, match="no UTF-8"):
        ours(["\ud800"])
    with pytest.raises(UserError, match="2 tokens around a text of at most 1"):
        WordPieces(backend, 1)
    with pytest.raises(UserError, match="does not say at how many tokens"):
        load_tokenizer(tmp_path)  # as the backend wrote it
    content = json.loads(backend.to_str())
    content["model"]["vocab"] |= {"[PAD]": 1, "[UNK]": 0}
    with pytest.raises(UserError, match="here is no BERT's: .* padding is token 1"):
        WordPieces(Backend.from_str(json.dumps(content)), 6, "here")
    content["post_processor"] = None
    with pytest.raises(UserError, match="0 tokens around a text"):
        WordPieces(Backend.from_str(json.dumps(content)), 6)
