"""The comparison of recipes: its rows are options of train.py, its table and curves are means."""

import json
from types import SimpleNamespace

import pytest

import train
from benchmarks import recipes
from benchmarks.curves import Axis, curves
from benchmarks.recipe_rows import PRESET, ROWS
from benchmarks.recipes import COLUMNS, lines, main, table
from jaxdiff.pipelines.settings import Settings

FRECHET, HELD, SEEN = (column.name for column in COLUMNS)
FOUND = [
    {
        "row": row,
        "seed": seed,
        "pictures": pictures,
        "scores": {FRECHET: 100 * (1 - held), HELD: held, SEEN: 2 * held},
    }
    for row, seed, pictures, held in (
        ("base", 0, 1000, 0.1),
        ("base", 0, 2000, 0.2),
        ("base", 1, 2000, 0.3),
        ("eps", 0, 2000, 0.05),
    )
]


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_options_of_the_preset_and_settings(row, tmp_path):
    run = train.parse([PRESET, "--workdir", str(tmp_path), *ROWS[row].options.split()])
    plain = train.parse([PRESET, "--workdir", str(tmp_path)])
    assert (run == plain) == (ROWS[row].options == "")
    Settings(**ROWS[row].settings)
    assert bool(ROWS[row].told) == (row != "base")


def test_the_table_has_the_last_stage_over_seeds():
    rows = table(FOUND).splitlines()
    assert rows[2] == "| base |  | 75.0 ± 7.1 | 25.0% ± 7.1% | 50.0% ± 14.1% | 2 |"
    assert rows[3] == f"| eps | {ROWS['eps'].told} | 95.0 | 5.0% | 10.0% | 1 |"


def test_curves_are_means_over_seeds():
    drawn = lines(FOUND, COLUMNS[1])
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
    ("words", "said"),
    [
        (["--stages", "0"], "stages must be at least 1"),
        (["--steps", "1"], "--steps 1 are too few for --stages 2"),
        (["--rows", "text MiniLM"], "row 'text MiniLM' wants a text encoder in runs/minilm"),
    ],
)
def test_bad_input(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipes, "ROWS", {row: ROWS[row] for row in ("base", "text MiniLM")})
    monkeypatch.chdir(tmp_path)
    rows = [] if "--rows" in words else ["--rows", "base"]
    assert main([*rows, *words, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_an_extractor_that_reads_no_texts_is_refused(tmp_path, capsys):
    assert main(["--rows", "base", "--extractor", "pixels", "--out", str(tmp_path)]) == 2
    assert "reads no texts" in capsys.readouterr().err


@pytest.fixture
def commands(monkeypatch):
    """What would be run: a training ends at `commands.step`, and every score is 0.5."""

    class Commands(list):
        step = 100

        def __call__(self, home, *words):
            self.append(words[0])
            named = dict(zip(words, words[1:], strict=False))
            named["--export"].mkdir(parents=True)
            told = {"training": {"step": self.step}}
            (named["--export"] / "jaxdiff.json").write_text(json.dumps(told))

    class Judge:
        def __init__(self, extractor, count):
            self.extractor = SimpleNamespace(name="clip-of-a-test")

        def scores(self, model, seed, **given):
            settings.append(given)
            return dict.fromkeys((FRECHET, HELD, SEEN), 0.5)

    ours, settings = Commands(), []
    ours.settings = settings
    monkeypatch.setattr(recipes, "_command", ours)
    monkeypatch.setattr(recipes, "Judge", Judge)
    return ours


def ask(tmp_path, *rows):
    """The words for rows of one short training."""
    return ["--rows", *rows, "--steps", "100", "--stages", "1", "--out", str(tmp_path)]


def test_what_is_known_is_not_done_again(commands, tmp_path, capsys):
    assert main(ask(tmp_path, "eps")) == 0
    assert commands == ["train.py"]
    assert (tmp_path / "curves-1.png").is_file()
    assert main(ask(tmp_path, "eps")) == 0
    assert len(commands) == 1 and len(commands.settings) == 1
    assert "| 0.5 | 50.0% | 50.0% | 1 |" in capsys.readouterr().out


def test_rows_that_train_alike_share_a_training(commands, tmp_path):
    assert main(ask(tmp_path, "base", "guidance 3")) == 0
    assert commands == ["train.py"]
    assert commands.settings == [{"num_steps": 10}, {"num_steps": 10, "guidance_scale": 3.0}]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"options": "--seed 1"}, "had options '--seed 1'"),
        ({"count": 500}, "had count 500, now 381"),
        ({"extractor": "clip-other"}, "had extractor 'clip-other', now 'clip-of-a-test'"),
        ({"row": "forgotten"}, "row 'forgotten' had options"),
    ],
)
def test_results_had_otherwise_are_refused(known, said, commands, tmp_path, capsys):
    assert main(ask(tmp_path, "eps")) == 0
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps(json.loads(file.read_text()) | known) + "\n")
    assert main(ask(tmp_path, "eps")) == 2
    assert said in capsys.readouterr().err


def test_a_model_of_another_step_is_refused(commands, tmp_path, capsys):
    """Its curve would be of more pictures than it says."""
    commands.step = 200
    assert main(ask(tmp_path, "eps")) == 2
    assert "is of step 200, not 100" in capsys.readouterr().err
    assert not (tmp_path / "results.jsonl").exists()
