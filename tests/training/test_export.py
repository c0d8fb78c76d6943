"""Where a run's result goes is checked by the rule of what writes it."""

from dataclasses import replace

import pytest

from jaxdiff.convert import NoiseConfig
from jaxdiff.errors import UserError
from jaxdiff.training.config import ControlNetMethod, ScratchMethod, TextualInversionMethod
from jaxdiff.training.export import check_export


@pytest.fixture(scope="module")
def steered(finetune_run):
    data = replace(finetune_run.data, conditioning=True)
    objective = replace(finetune_run.objective, method=ControlNetMethod())
    return replace(finetune_run, data=data, objective=objective)


def test_a_controlnet_may_replace_a_controlnet_and_no_model(steered, tiny_model_dir, tmp_path):
    net = tmp_path / "net"
    net.mkdir()
    (net / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    (net / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (tmp_path / "old.safetensors").write_bytes(b"")
    for path in (net, tmp_path / "old.safetensors", tmp_path / "new" / "net"):
        check_export(replace(steered, export=path))
    with pytest.raises(UserError, match="is no ControlNet's folder"):
        check_export(replace(steered, export=tiny_model_dir))


def test_a_file_may_be_replaced_and_its_folder_missing(finetune_run, tmp_path):
    (tmp_path / "old.safetensors").write_bytes(b"")
    for method in (finetune_run.objective.method, TextualInversionMethod()):
        run = replace(finetune_run, objective=replace(finetune_run.objective, method=method))
        for name in ("old.safetensors", "new/x.safetensors"):
            check_export(replace(run, export=tmp_path / name))
    assert not (tmp_path / "new").exists()


def test_noise_that_no_model_directory_can_hold_is_refused_before_training(finetune_run, tmp_path):
    method = ScratchMethod(noise=NoiseConfig(shift=2.0))
    objective = replace(finetune_run.objective, method=method)
    with pytest.raises(UserError, match="has no scheduler_config.json"):
        check_export(replace(finetune_run, objective=objective, export=tmp_path / "out"))
