"""Quality against steps: a row for each sampler and number of steps, below the real pictures."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import few_steps


@pytest.fixture
def pictures(tmp_path):
    """Eight of two captions."""
    draws = np.random.default_rng(0)
    for number in range(8):
        noise = draws.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(("red square", "blue circle")[number % 2])
    return str(tmp_path)


def test_the_table(tiny_model_dir, pictures, capsys):
    asked = ["--model", str(tiny_model_dir), "--pictures", pictures, "--extractor", "pixels:2"]
    asked += ["--samplers", "ddim", "lcm", "--steps", "1", "2"]
    assert few_steps.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    head, _, real, *rows = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"]
    assert head == ["sampler", "steps", "Fréchet distance", "KID x 1000", "images/s"]
    assert real[0] == "real pictures" and float(real[2]) == pytest.approx(0, abs=1e-3)
    assert [row[:2] for row in rows] == [[s, n] for s in ("ddim", "lcm") for n in "12"]
    assert all("±" in row[2] and float(row[4]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samplers", "sharp"], "unknown sampler 'sharp'"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--count", "9"], "count is 9; give 2 to 8"),
        (["--extractor", "clip:nowhere"], "nowhere"),
    ],
)
def test_bad_input(words, said, tiny_model_dir, pictures, capsys):
    asked = ["--model", str(tiny_model_dir), "--pictures", pictures]
    assert few_steps.main([*asked, *words]) == 2
    assert said in capsys.readouterr().err
