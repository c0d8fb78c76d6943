"""Texts near a corpus' captions: what has the captions' meaning is kept, and what is far is not."""

import jax.numpy as jnp
import numpy as np
import pytest
from sentences import write_sentences

from jaxdiff.convert.sentence import load_sentences
from jaxdiff.models import network
from jaxdiff.training import near

LINES = ("a cat", "kitten, noto style", "a big red circle", "a big red circle, noto style", "heart")


@pytest.fixture
def asked(tmp_path):
    """The words for a small file and a small sentence encoder; coloured shapes are the corpus."""
    (tmp_path / "teacher").mkdir()
    write_sentences(tmp_path / "teacher")
    (tmp_path / "words.txt").write_text("\n".join(LINES))
    given = [str(tmp_path / name) for name in ("words.txt", "near.txt")]
    given += [
        "--teacher",
        str(tmp_path / "teacher"),
        "--captions",
        "shapes@train",
        "--resolution",
        "16",
    ]
    return [*given, "--cache", str(tmp_path / "cache")]


def test_subjects_are_kept_and_others_by_their_cosine(asked, tmp_path, capsys):
    teacher = load_sentences(tmp_path / "teacher")
    cosine = near.nearness(teacher, [*LINES], ["a big red circle"], tmp_path / "cache")
    net = network(teacher.config)
    tokens = map(jnp.asarray, teacher.tokens([*LINES], 16))
    said = net.apply({"params": teacher.params}, *tokens).embedding
    np.testing.assert_allclose(cosine, said @ said[2], atol=2e-3)
    assert near.main([*asked, "--reach", "0.999"]) == 0
    assert (tmp_path / "near.txt").read_text().splitlines() == [LINES[2], LINES[3]]
    assert "2 of 5 lines" in capsys.readouterr().out
    assert near.main([*asked, "--reach", "-1"]) == 0
    assert (tmp_path / "near.txt").read_text().splitlines() == [*LINES]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--reach", "1"], "--reach must be at least -1 and below 1"),
        (["--captions", "nothing@train"], "unknown data source 'nothing'"),
        (["--captions", "shapes"], "should be SOURCE@SPLIT"),
        (["--teacher", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(extra, said, asked, tmp_path, capsys):
    assert near.main([*asked, *extra]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "near.txt").exists()


def test_a_place_that_cannot_be_written_is_refused_before_any_work(asked, tmp_path, capsys):
    assert near.main([asked[0], str(tmp_path), *asked[2:]]) == 2
    assert "it is a folder; name a file" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
