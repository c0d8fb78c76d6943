"""Whole fine-tuning runs: they resume exactly, in buckets and from a cache, and export."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.convert.lora import load_lora
from jaxdiff.errors import UserError
from jaxdiff.training.config import LoraMethod, PriorConfig, TextualInversionMethod
from jaxdiff.training.loop import train


def same(first, second):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(second))


@pytest.fixture(scope="module")
def oblong_dir(tmp_path_factory):
    """Twelve captioned pictures, every second one upright and the others lying."""
    folder = tmp_path_factory.mktemp("oblong")
    for number in range(12):
        size = (30, 20) if number % 2 else (20, 30)
        Image.new("RGB", size, (20 * number, 99, 0)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"number {number} of <toy>")
    return folder


@pytest.mark.slow
def test_a_lora_run_resumes_exactly_with_buckets_cache_and_text(
    finetune_run, oblong_dir, tmp_path, tiny_model, capsys
):
    data = replace(
        finetune_run.data,
        source=f"folder:{oblong_dir}",
        bucket_step=4,
        cache=str(tmp_path / "cache"),
    )
    method = LoraMethod(rank=2, text_encoder=True)
    objective = replace(finetune_run.objective, method=method)
    run = replace(finetune_run, objective=objective, data=data, export=tmp_path / "x.safetensors")
    whole = train(replace(run, workdir=tmp_path / "whole"))
    losses = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(losses) == 6
    train(replace(run, workdir=tmp_path / "half", num_steps=3))
    resumed = train(replace(run, workdir=tmp_path / "half"))
    same(whole, resumed)
    loaded = load_lora(tmp_path / "x.safetensors", tiny_model)
    assert loaded.unet and loaded.text["text_encoder"]
    (tmp_path / "half" / "inputs.json").write_text(json.dumps({"latents": "other"}))
    with pytest.raises(UserError, match="was trained with another latents"):
        train(replace(run, workdir=tmp_path / "half"))


@pytest.mark.slow
def test_an_inversion_run_resumes_exactly(finetune_run, tmp_path):
    method = TextualInversionMethod(token="<toy>")
    data = replace(finetune_run.data, cache=str(tmp_path / "cache"))
    objective = replace(finetune_run.objective, method=method)
    run = replace(finetune_run, objective=objective, data=data)
    whole = train(replace(run, workdir=tmp_path / "whole"))
    train(replace(run, workdir=tmp_path / "half", num_steps=3))
    same(whole, train(replace(run, workdir=tmp_path / "half")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export": "out"}, "must be a file, NAME.safetensors"),
        ({"export": "{tmp}"}, "must be a file, NAME.safetensors"),
        ({"export": "/dev/null/x.safetensors"}, "cannot be written"),
    ],
)
def test_where_a_lora_cannot_go_is_said_before_training(finetune_run, tmp_path, changes, message):

    path = Path(changes["export"].format(tmp=tmp_path))
    with pytest.raises(UserError, match=message):
        train(replace(finetune_run, export=path, workdir=tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("data", "objective", "message"),
    [
        ({"conditioning": True}, {}, "a ControlNet needs data.conditioning"),
        ({"batch_size": 7}, {"prior": PriorConfig(folder=Path("x"))}, "must be even"),
        ({"bucket_step": 4}, {"prior": PriorConfig(folder=Path("x"))}, "set data.bucket_step to 0"),
        (
            {},
            {"prior": PriorConfig(folder=Path("x")), "method": TextualInversionMethod()},
            "objective.prior is for",
        ),
    ],
)
def test_options_that_contradict_each_other(finetune_run, data, objective, message):
    with pytest.raises(UserError, match=message):
        replace(
            finetune_run,
            data=replace(finetune_run.data, **data),
            objective=replace(finetune_run.objective, **objective),
        )
