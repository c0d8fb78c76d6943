"""Prompts to chunks: the grammar of weights, chunks, and what the user is told."""

import random
import subprocess
import sys

import numpy as np
import pytest
from texts import generated_prompts

from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.pipelines.prompts import BREAK, pad_chunks, parse_weights, tokenize_prompts

LENGTH = 12


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["red heart", "a cat on a mat, noto style"] * 3, 540, LENGTH)


def one(tokenizer, prompt, max_chunks=8):
    """Ids and weights [C T] and notes of one prompt."""
    tokens, notes = tokenize_prompts(tokenizer, [prompt], max_chunks=max_chunks)
    return tokens.ids[0], tokens.weights[0], notes


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", [("", 1.0)]),
        ("(cat)", [("cat", 1.1)]),
        ("((cat))", [("cat", 1.1 * 1.1)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("[[cat]]", [("cat", 1 / 1.1 / 1.1)]),
        ("(cat:1.3)", [("cat", 1.3)]),
        ("(cat: -.5 )", [("cat", -0.5)]),
        ("(cat:2)", [("cat", 2.0)]),
        ("a (red (cat:1.5) mat:1.2) b",
         [("a ", 1.0), ("red ", 1.2), ("cat", 1.5 * 1.2), (" mat", 1.2), (" b", 1.0)]),
        ("(a [b] c)", [("a ", 1.1), ("b", 1 / 1.1 * 1.1), (" c", 1.1)]),
        (r"\(cat\) \[x\] \\", [(r"(cat) [x] " + "\\", 1.0)]),
        (r"(cat \(black\):1.3)", [("cat (black)", 1.3)]),
        ("a: b, 16:9", [("a: b, 16:9", 1.0)]),
        ("[a:b:0.5]", [("a:b:0.5", 1 / 1.1)]),
        ("(a:b:1.5)", [("a:b", 1.5)]),
        ("(1.2.3:1.2.3)", [("1.2.3:1.2.3", 1.1)]),
        ("()", [("", 1.0)]),
        ("one BREAK two", [("one", 1.0), BREAK, ("two", 1.0)]),
        ("BREAK", [BREAK]),
        ("BREAKFAST break", [("BREAKFAST break", 1.0)]),
        ("(one BREAK two:1.3)", [("one", 1.3), BREAK, ("two", 1.3)]),
    ],
)  # fmt: skip
def test_the_grammar(prompt, expected):
    runs, note = parse_weights(prompt)
    assert note is None
    assert [text for text, _ in runs] == [text for text, _ in expected]
    np.testing.assert_allclose([w for _, w in runs], [w for _, w in expected], rtol=1e-12)


@pytest.mark.parametrize(
    ("prompt", "expected", "where"),
    [
        ("a (cat", [("a (cat", 1.0)], "'(' at character 3 is"),
        ("a cat)", [("a cat)", 1.0)], "')' at character 6 is"),
        ("a cat:1.3)", [("a cat:1.3)", 1.0)], "')' at character 10 is"),
        ("smile :) (cat)", [("smile :) ", 1.0), ("cat", 1.1)], "')' at character 8 is"),
        ("((cat)", [("(", 1.0), ("cat", 1.1)], "'(' at character 1 is"),
        ("(a [b) c]", [("a [b", 1.1), (" c]", 1.0)], "'[' at character 4 and 1 more are"),
        ("]]", [("]]", 1.0)], "']' at character 1 and 1 more are"),
    ],
)
def test_a_bracket_without_a_partner_is_text_and_noted(prompt, expected, where):
    runs, note = parse_weights(prompt)
    assert runs == expected
    assert where in note and "literally" in note and "\n" not in note


def test_text_without_brackets_comes_back_whole():
    for text in generated_prompts(500):
        for mark in (*"()[]\\", "BREAK"):
            text = text.replace(mark, "")
        assert parse_weights(text) == ([(text, 1.0)], None)


def test_random_brackets_lose_no_text():
    """All text comes back in order; balanced prompts have the weights that a count gives."""
    rng = random.Random(0)
    for _ in range(500):
        prompt = "".join(rng.choices("()[]ab :", k=rng.randint(0, 20)))
        runs, note = parse_weights(prompt)
        text = "".join(text for text, _ in runs)
        assert [c for c in text if c in "ab"] == [c for c in prompt if c in "ab"]
        literal = sum(c in "()[]" for c in text)
        assert (note is not None) == (literal > 0)
        escaped = "".join(f"\\{c}" if c in "()[]" else c for c in prompt)
        assert parse_weights(escaped) == ([(prompt, 1.0)], None)


def test_nesting_multiplies():
    for depth in range(1, 8):
        assert parse_weights("(" * depth + "x" + ")" * depth)[0] == [
            ("x", pytest.approx(1.1**depth))
        ]
        runs, _ = parse_weights("(" * depth + "x" + ":2)" * depth)
        assert runs == [("x", 2.0**depth)]


def test_without_brackets_the_ids_are_the_tokenizers(tokenizer):
    texts = [text.translate(str.maketrans("", "", "()[]\\")) for text in generated_prompts(200)]
    texts = [text.replace("BREAK", "") for text in texts]
    tokens, _ = tokenize_prompts(tokenizer, texts, max_chunks=1)
    np.testing.assert_array_equal(tokens.ids[:, 0], tokenizer(texts))
    assert (tokens.weights == 1).all()
    assert tokens.ids.dtype == np.int32 and tokens.weights.dtype == np.float32


def test_chunks_hold_all_tokens_each_in_its_frame(tokenizer):
    prompt = "a cat on a mat, " * 5 + "heart"
    (whole,) = tokenizer.pieces([prompt])
    ids, weights, notes = one(tokenizer, prompt)
    assert notes == []
    room = LENGTH - 2
    assert ids.shape == weights.shape == (-(-len(whole.ids) // room), LENGTH)
    assert (ids[:, 0] == tokenizer.bos_id).all() and (ids[:-1, -1] == tokenizer.eos_id).all()
    inner = ids[:, 1:-1].ravel()[: len(whole.ids)]
    assert inner.tolist() == whole.ids
    assert (ids[-1, 1 + len(whole.ids) % room :] == tokenizer.eos_id).all()


def test_weights_stand_at_their_tokens(tokenizer):
    ids, weights, _ = one(tokenizer, "a (red:1.5) [heart]")
    plain = tokenizer(["a red heart"])[0]
    np.testing.assert_array_equal(ids[0], plain)
    red, heart = (tokenizer.pieces([word])[0].ids for word in ("red", "heart"))
    expected = [1.0, 1.0, *[1.5] * len(red), *[1 / 1.1] * len(heart)]
    np.testing.assert_allclose(weights[0], expected + [1.0] * (LENGTH - len(expected)), rtol=1e-6)


def test_break_starts_a_new_chunk(tokenizer):
    ids, _, notes = one(tokenizer, "red BREAK heart BREAK")
    np.testing.assert_array_equal(ids, tokenizer(["red", "heart"]))
    ids, _, _ = one(tokenizer, "BREAK red BREAK BREAK cat")
    np.testing.assert_array_equal(ids, tokenizer(["", "red", "", "cat"]))
    full = "a " * (LENGTH - 2)
    ids, _, _ = one(tokenizer, f"{full} BREAK cat")  # no empty chunk after a full one
    np.testing.assert_array_equal(ids, tokenizer([full, "cat"]))
    assert notes == []


def test_what_is_cut_is_said(tokenizer):
    prompt = "(red heart:1.5) " * 20
    ids, _, (note,) = one(tokenizer, prompt, max_chunks=2)
    assert ids.shape == (2, LENGTH)
    assert f"reads 2 times {LENGTH} tokens; of a prompt of {len(prompt)} characters" in note
    cut = int(note.split("the last ")[1].split()[0])
    kept = one(tokenizer, prompt[:-cut], max_chunks=2)
    np.testing.assert_array_equal(kept[0], ids)
    _, _, (note,) = one(tokenizer, "red heart " * 20, max_chunks=1)
    assert f"the model reads {LENGTH} tokens; of" in note
    with pytest.raises(UserError, match="max_chunks is 0"):
        one(tokenizer, "red", 0)


def test_shorter_prompts_are_filled_up_with_empty_chunks(tokenizer):
    prompts = ["red", "(a cat on a mat:1.2) " * 3]
    both, _ = tokenize_prompts(tokenizer, prompts, max_chunks=8)
    chunks = both.ids.shape[1]
    assert chunks > 1
    for index, prompt in enumerate(prompts):
        alone, _ = tokenize_prompts(tokenizer, [prompt], max_chunks=8)
        padded = pad_chunks(tokenizer, alone, chunks)
        np.testing.assert_array_equal(padded.ids[0], both.ids[index])
        np.testing.assert_array_equal(padded.weights[0], both.weights[index])
    np.testing.assert_array_equal(both.ids[0, 1:], tokenizer([""] * (chunks - 1)))
    with pytest.raises(ValueError, match="cannot become 1"):
        pad_chunks(tokenizer, both, 1)
    assert tokenize_prompts(tokenizer, [], max_chunks=1)[0].ids.shape == (0, 1, LENGTH)


def test_an_added_token_of_several_vectors(tokenizer):
    more = tokenizer.with_tokens(["<x>", "<x>_1"])
    ids, weights, _ = one(more, "(<x>:1.3)")
    first = tokenizer.vocab_size
    assert ids[0, 1:4].tolist() == [first, first + 1, more.eos_id]
    np.testing.assert_allclose(weights[0, :4], [1, 1.3, 1.3, 1], rtol=1e-6)


def test_prompts_are_checked_without_jax():
    code = "import sys, jaxdiff.pipelines.prompts; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
