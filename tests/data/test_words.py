"""Lines of WordNet: what can be drawn, by its names and by what is said of it."""

import pytest
import small_wordnet

from jaxdiff.data import words

DATA = """\
  1 This software and database is being provided to you, the LICENSEE, by
02124272 05 n 02 kitten 0 kitty 1 001 @ 02121808 n 0000 | (young) a young domestic cat; "aw"
02960352 06 n 02 car 0 motor_vehicle 0 001 @ 03791235 n 0000 | a motor vehicle with four wheels
01740000 03 n 01 entity 0 000 | that which is perceived or known
02123785 05 n 02 genus_Felis 0 Felis 0 000 | type genus of the Felidae
"""


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """A small WordNet, as if fetched."""
    small_wordnet.put(tmp_path, monkeypatch, data=DATA)


def test_names_as_captions(wordnet, tmp_path, capsys):
    """Every name alone and in a style; captions in all their forms."""
    out = tmp_path / "words.txt"
    assert words.main([str(out), "--captions", "shapes@heldout", "--times", "2"]) == 0
    lines = out.read_text().splitlines()
    assert lines[:8] == [
        "kitten",
        "kitten, noto style",
        "kitty",
        "kitty, fluent style",
        "car",
        "car, twemoji style",
        "motor vehicle",
        "motor vehicle, emojione style",
    ]
    captions = lines[8:]
    given = [line for line in captions if not line.startswith(("a ", "an ", "the "))]
    assert all(given.count(line) >= 2 for line in given)
    assert {f"the {line}" for line in given} <= set(captions)
    assert f"wrote {out}: {len(lines)} lines" in capsys.readouterr().out


def test_what_names_mean(wordnet, tmp_path):
    out = tmp_path / "words.txt"
    assert words.main([str(out), "--glosses"]) == 0
    lines = out.read_text().splitlines()
    assert lines[2] == "kitten, young domestic cat"
    assert lines[11] == "motor vehicle, motor vehicle with four wheels"


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--times", "0"], "--times must be at least 1"),
        (["--captions", "emoji/noto"], "should be SOURCE@SPLIT"),
        (["--captions", "shapes@nowhere"], "nowhere"),
    ],
)
def test_bad_input(extra, said, wordnet, tmp_path, capsys):
    assert words.main([str(tmp_path / "out.txt"), *extra]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.txt").exists()


def test_a_place_that_cannot_be_written(wordnet, tmp_path, capsys):
    assert words.main([str(tmp_path / "nowhere" / "out.txt")]) == 2
    assert "cannot be written" in capsys.readouterr().err
