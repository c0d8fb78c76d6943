"""Other people's checkpoints to our parameter trees and back: safetensors, tables of key patterns.

A model directory has the layout that the Hugging Face ecosystem reads: `model_index.json` and one
folder per part. Arrays are transposed here and nowhere else (torch OIHW and NCHW; ours HWIO, NHWC).
"""

from jaxdiff.convert.model import Model, TextTower
from jaxdiff.convert.model_dir import check_writable, load_model, model_hash, save_model
from jaxdiff.convert.scheduler import NoiseConfig

__all__ = [
    "Model",
    "NoiseConfig",
    "TextTower",
    "check_writable",
    "load_model",
    "model_hash",
    "save_model",
]
