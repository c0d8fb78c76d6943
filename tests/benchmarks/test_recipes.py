"""The comparison of recipes: its rows are options of train.py, its table and curves are means."""

import pytest

import train
from benchmarks.curves import Axis, curves
from benchmarks.recipes import PRESET, ROWS, lines, main, table

FOUND = [
    {"row": row, "seed": seed, "pictures": pictures, "held out": held, "seen": 2 * held}
    for row, seed, pictures, held in (
        ("base", 0, 1000, 0.1),
        ("base", 0, 2000, 0.2),
        ("base", 1, 2000, 0.3),
        ("eps", 0, 2000, 0.05),
    )
]


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_options_of_the_preset(row, tmp_path):
    run = train.parse([PRESET, "--workdir", str(tmp_path), *ROWS[row].split()])
    plain = train.parse([PRESET, "--workdir", str(tmp_path)])
    assert (run == plain) == (row == "base")


def test_the_table_has_the_last_stage_over_seeds():
    rows = table(FOUND).splitlines()
    assert rows[2] == "| base | `` | 25.0% ± 7.1 | 50.0% ± 14.1 | 2 |"
    assert rows[3] == f"| eps | `{ROWS['eps']}` | 5.0% | 10.0% | 1 |"


def test_curves_are_means_over_seeds():
    drawn = lines(FOUND, "held out")
    assert drawn["base"] == [(1.0, pytest.approx(10)), (2.0, pytest.approx(25))]
    picture = curves(drawn, "recipes", Axis("thousand"), Axis("rate", "{:.0f}%"))
    assert len(picture.getcolors(1 << 20)) > 5


def test_an_unknown_row_is_refused(tmp_path, capsys):
    assert main(["--rows", "epsilon", "--out", str(tmp_path)]) == 2
    assert "unknown row 'epsilon'" in capsys.readouterr().err
