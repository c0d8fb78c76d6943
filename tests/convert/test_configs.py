"""`config.json` of networks: what null means, what is kept, what is refused."""

import json

import pytest

from jaxdiff.convert.configs import (
    ARCHITECTURES,
    AUTOENCODER,
    CONTROLNET,
    TEXT_ENCODER,
    UNET,
    read_config,
    write_config,
)
from jaxdiff.errors import UserError


def _read(folder, architecture, **content):
    name = architecture.class_names[0]
    content[architecture.class_key] = [name] if architecture is TEXT_ENCODER else name
    (folder / "config.json").write_text(json.dumps(content))
    return read_config(folder / "config.json", architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.class_names[0])
def test_defaults_come_back(architecture, tmp_path):
    config = architecture.config()
    write_config(tmp_path / "config.json", config)
    assert read_config(tmp_path / "config.json", architecture) == config
    assert _read(tmp_path, architecture) == config


def test_a_middle_block_of_null_is_none(tmp_path):
    assert _read(tmp_path, UNET).mid_block_type == "UNetMidBlock2DCrossAttn"
    config = _read(tmp_path, UNET, mid_block_type=None, num_class_embeds=None)
    assert config.mid_block_type is None and config.num_class_embeds is None
    write_config(tmp_path / "again.json", config)
    assert json.loads((tmp_path / "again.json").read_text())["mid_block_type"] is None


@pytest.mark.parametrize(
    ("architecture", "option", "value"),
    [
        (UNET, "upcast_attention", True),
        (UNET, "only_cross_attention", [True, True, True, False]),
        (CONTROLNET, "controlnet_conditioning_channel_order", "bgr"),
        (CONTROLNET, "upcast_attention", True),
        (AUTOENCODER, "force_upcast", False),
    ],
)
def test_what_other_libraries_go_by_is_kept(architecture, option, value, tmp_path):
    write_config(tmp_path / "again.json", _read(tmp_path, architecture, **{option: value}))
    assert json.loads((tmp_path / "again.json").read_text())[option] == value


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        (UNET, {"class_embed_type": "projection"}, "class_embed_type='projection'"),
        (UNET, {"down_block_types": ["KDownBlock2D"] * 4}, "unknown down_block_types entry"),
        (UNET, {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "unknown mid_block_type"),
        (UNET, {"resnet_time_scale_shift": "scale_shift"}, "only 'default' is"),
        (UNET, {"layers_per_block": [1, 2, 2, 2]}, "only one for all levels"),
        (CONTROLNET, {"num_class_embeds": 4}, "num_class_embeds=4"),
        (CONTROLNET, {"block_out_channels": [320]}, "ControlNet config"),
        (AUTOENCODER, {"latents_mean": [0.0] * 4}, "latents_mean"),
    ],
)
def test_refused(architecture, options, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        _read(tmp_path, architecture, **options)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(("entries", "end"), [(49408, 49407), (49410, 49407), (98, 97)])
def test_the_end_token_of_old_files_is_no_added_one(entries, end, tmp_path):
    config = _read(tmp_path, TEXT_ENCODER, vocab_size=entries, eos_token_id=2)
    assert config.eos_token_id == end
