"""Other people's checkpoints to our parameter trees and back: safetensors, tables of key patterns.

A model is a directory in the layout of the Hugging Face ecosystem, `model_index.json` and a folder
for each part, or one file in that of A1111 and ComfyUI. Arrays are transposed here and nowhere else
(torch OIHW and NCHW; ours HWIO, NHWC).
"""

from jaxdiff.convert.controlnet import load_controlnet, save_controlnet
from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.model_dir import check_writable, load_model, model_hash, save_model
from jaxdiff.convert.scheduler import NoiseConfig
from jaxdiff.convert.single_file_save import save_single_file

__all__ = [
    "Model",
    "NoiseConfig",
    "TextTower",
    "check_writable",
    "load_controlnet",
    "load_model",
    "model_hash",
    "save_controlnet",
    "save_model",
    "save_single_file",
]
