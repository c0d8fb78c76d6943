"""A short form of the torture: every kind of end that needs no disk of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "torture.py"


@pytest.mark.slow
def test_a_run_that_is_ended_again_and_again_ends_as_one_left_alone():
    counts = "--kills 2 --terms 1 --damages 2 --full 0".split()
    done = subprocess.run(
        [sys.executable, SCRIPT, *counts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 ends: the same" in done.stdout
    assert "cut off, noticed" in done.stdout  # a bit may be flipped that the index passes over
