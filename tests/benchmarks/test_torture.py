"""A short form of the torture: every kind of end that needs no disk of its own."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "torture.py"


def test_a_run_that_is_ended_again_and_again_ends_as_one_left_alone():
    counts = "--kills 1 --terms 1 --damages 1 --full 0".split()
    one_device = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *counts],
        env=one_device,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 ends: the same" in done.stdout
    assert "cut off, noticed" in done.stdout
