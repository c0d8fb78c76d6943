"""Inception's weights in the FID arrangement, from the safetensors form of PyTorch's ports."""

from pathlib import Path

from jaxdiff.convert.merge import Params, from_torch
from jaxdiff.convert.tensors import open_tensors, require_safetensors
from jaxdiff.models import InceptionConfig, parameter_shapes


def load_inception(path: str | Path, config: InceptionConfig | None = None) -> Params:
    """The parameters of `InceptionV3` from `pt_inception-2015-12-05` as safetensors.

    Args:
      path: the file.
      config: the network's shape; by default that of the FID.

    Raises:
      UserError: the file is a pickle, truncated, or of another network (ImageNet's InceptionV3 with
        1000 classes and auxiliary logits, for one); the message names what does not fit.
    """
    file = require_safetensors(path)
    tensors = open_tensors([file])
    shapes = parameter_shapes(config or InceptionConfig())
    return from_torch(tensors, shapes, f"{file}, read as the FID's InceptionV3,")
