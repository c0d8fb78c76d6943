"""The comparison of recipes: its rows are options of train.py, its table and curves are means."""

import json

import pytest

import train
from benchmarks import recipes
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


def test_curves_show_every_line_by_name():
    """More lines than colours: each looks unlike every other."""
    drawn = {f"row {n}": [(1.0, n), (2.0, n + 1)] for n in range(len(ROWS))}
    axes = curves(drawn, "recipes", Axis("thousand"), Axis("rate", "{x:.0f}%")).axes[0]
    assert [line.get_label() for line in axes.lines] == list(drawn)
    assert [list(line.get_ydata()) for line in axes.lines] == [[n, n + 1] for n in range(len(ROWS))]
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == len(drawn)


def test_an_unknown_row_is_refused(tmp_path, capsys):
    assert main(["--rows", "epsilon", "--out", str(tmp_path)]) == 2
    assert "unknown row 'epsilon'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "count", "said"),
    [
        ("--seed 1", 4, "had options '--seed 1'"),
        (ROWS["eps"], 500, "had count 500, now 4"),
    ],
)
def test_results_had_otherwise_are_refused(options, count, said, tmp_path, capsys):
    known = FOUND[-1] | {"options": options, "count": count}
    (tmp_path / "results.jsonl").write_text(json.dumps(known) + "\n")
    assert main(["--rows", "eps", "--count", "4", "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture
def commands(monkeypatch):
    """What would be run: a training ends at `commands.step`, two pictures of four hit."""

    class Commands(list):
        step = 100

        def __call__(self, home, *words):
            self.append(words[0])
            named = dict(zip(words, words[1:], strict=False))
            if words[0] == "train.py":
                named["--export"].mkdir(parents=True)
                told = {"training": {"step": self.step}}
                (named["--export"] / "jaxdiff.json").write_text(json.dumps(told))
            else:
                rates = {name: {"hits": 2} for name in recipes.KINDS.values()}
                named["--json"].write_text(json.dumps(rates))

    ours = Commands()
    monkeypatch.setattr(recipes, "_command", ours)
    return ours


def test_what_is_known_is_not_done_again(commands, tmp_path, capsys):
    asked = ["--rows", "eps", "--count", "4", "--steps", "100", "--stages", "1"]
    asked += ["--out", str(tmp_path)]
    assert main(asked) == 0
    assert commands == ["train.py", "benchmarks/concept_hit_rate.py"]
    assert (tmp_path / "curves.png").is_file()
    assert main(asked) == 0
    assert len(commands) == 2
    assert "| 50.0% | 50.0% | 1 |" in capsys.readouterr().out


def test_a_model_of_another_step_is_refused(commands, tmp_path, capsys):
    """Its curve would be of more pictures than it says."""
    commands.step = 200
    asked = ["--rows", "eps", "--steps", "100", "--stages", "1", "--out", str(tmp_path)]
    assert main(asked) == 2
    assert "is of step 200, not 100" in capsys.readouterr().err
    assert not (tmp_path / "results.jsonl").exists()
