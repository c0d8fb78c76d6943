"""The comparison with diffusers: its arithmetic, and that both sides do the same work."""

import numpy as np
import pytest

from benchmarks import vs_diffusers
from benchmarks.vs_diffusers import Arguments, Timing, main, measure, table


def test_ratios_are_taken_within_a_round():
    ours, theirs = [1.0, 2.0, 4.0], [1.5, 3.0, 6.0]  # the machine slows down for both
    timing = Timing("unet", {"jaxdiff": 9, "eager": 1}, {"jaxdiff": ours, "eager": theirs})
    cells = [cell.strip() for cell in table(timing).splitlines()[-1].strip("|").split("|")]
    assert cells[:2] == ["unet", "eager"]
    assert [float(cell) for cell in cells[2:6]] == [1, 3, 1.5, 1.5]
    assert cells[6] == "1.50 to 1.50"


def test_results_of_other_work_are_refused():
    ours = np.linspace(-1, 1, 5)
    vs_diffusers._compare("unet", {"jaxdiff": ours, "eager": ours + 1e-6})
    for other in (ours + 0.5, ours * np.nan):
        with pytest.raises(vs_diffusers.UserError, match="do not compute the same"):
            vs_diffusers._compare("unet", {"jaxdiff": ours, "eager": other})


@pytest.mark.parametrize("option", ["rows", "sides", "size"])
def test_unknown_names(option, capsys):
    assert main([f"--{option}", "nothing"]) == 2
    assert "unknown" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parity
def test_both_sides_do_the_same(tmp_path, capsys):
    pytest.importorskip("diffusers")
    args = Arguments(sides=("jaxdiff", "eager"), rounds=1, size="tiny")
    timings = list(measure(args, tmp_path))
    assert [timing.row for timing in timings] == list(args.rows)
    assert capsys.readouterr().err.count("apart") == len(args.rows)
