"""A torch module with random weights, what this library loads of it, and how far the two differ."""

import jax
import numpy as np

from jaxdiff.convert.configs import TEXT_ENCODER, read_config, write_config
from jaxdiff.convert.merge import from_torch, parameter_shapes, to_torch
from jaxdiff.convert.tensors import read_tensors
from jaxdiff.convert.weight_files import weight_files
from jaxdiff.models import network

TOLERANCE = 1e-4


def scattered(build):
    """`build()`, its parameters moved off their start, so that no norm or bias hides a mistake."""
    import torch

    torch.manual_seed(0)
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def loaded(module, folder, architecture):
    """What convert makes of a module that its own library has saved: (config, params).

    The configuration and the arrays, written back, must be the module's own.
    """
    module.save_pretrained(folder)
    config = read_config(folder / "config.json", architecture)
    stem = "model" if architecture is TEXT_ENCODER else "diffusion_pytorch_model"
    tensors = read_tensors(weight_files(folder, stem))
    params = from_torch(tensors, parameter_shapes(config), str(folder))
    write_config(folder / "written.json", config)
    assert read_config(folder / "written.json", architecture) == config
    _assert_round_trip(module, config, params)
    return config, params


def _assert_round_trip(module, config, params):
    """Our keys and arrays, written back, are the module's own."""
    original = {key: value.numpy() for key, value in module.state_dict().items()}
    prefix = "text_model." if any(key.startswith("text_model.") for key in original) else ""
    linear = getattr(config, "use_linear_projection", True)
    written = to_torch(params, prefix=prefix, linear_projection=linear)
    assert written.keys() == {k for k in original if not k.endswith("position_ids")}
    for key, array in written.items():
        np.testing.assert_array_equal(array, original[key])


def applied(config, params, *args, method=None, **kwargs):
    """Our network, jitted."""
    function = network(config)

    def call(params, args, kwargs):
        return function.apply({"params": params}, *args, method=method, **kwargs)

    return jax.jit(call)(params, args, kwargs)


def nchw(x):
    """[B H W C] -> [B C H W]."""
    return np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1))


def tensors(tree):
    """Arrays to torch tensors; [B H W C] becomes [B C H W]."""
    import torch

    return jax.tree.map(lambda x: torch.tensor(nchw(x) if np.ndim(x) == 4 else np.asarray(x)), tree)


def assert_close(ours, theirs, name):
    """Ours [B H W C] or any other shape, theirs a torch tensor: equal to `TOLERANCE`."""
    theirs = theirs.detach().numpy()
    ours = nchw(ours) if np.ndim(ours) == 4 else np.asarray(ours)
    assert ours.shape == theirs.shape
    difference = float(np.abs(ours - theirs).max())
    print(
        f"{name}: maximum difference {difference:.1e}, of values up to {np.abs(theirs).max():.2f}"
    )
    assert difference <= TOLERANCE
