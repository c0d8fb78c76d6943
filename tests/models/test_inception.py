"""Inception in the FID arrangement against torch on the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_parity import assert_close, nchw

from jaxdiff.convert.inception import load_inception
from jaxdiff.convert.merge import parameter_shapes, to_torch
from jaxdiff.errors import UserError
from jaxdiff.models import InceptionConfig, network
from jaxdiff.models.inception import prepare

_SIDE = 139  # the smallest whose last maps have an inside, too: 3 x 3


def _apply(config, params, images):
    def call(params, images):
        return network(config).apply({"params": params}, prepare(config, images))

    return jax.jit(call)(params, images)


@pytest.mark.parity
def test_inception(tmp_path):
    """Features and logits, from the uint8 picture on, by the names of PyTorch's ports."""
    import torch
    from torch_inception import Weights, inception, tf1_resize

    config = InceptionConfig(image_size=_SIDE)
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), np.uint8)
    prepared = (np.stack([tf1_resize(image, _SIDE) for image in images]) - 128) / 128
    weights = Weights()
    with torch.no_grad():
        features, logits = inception(weights, torch.tensor(nchw(prepared.astype(np.float32))))
    stored = {**weights.tensors, "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}
    save_file(stored, tmp_path / "inception.safetensors")
    params = load_inception(tmp_path / "inception.safetensors", config)
    ours = _apply(config, params, images)
    assert_close(ours.features, features, "inception, features")
    assert_close(ours.logits, logits, "inception, logits")
    written = to_torch(params)
    assert written.keys() == weights.tensors.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, weights.tensors[key])


@pytest.mark.parity
@pytest.mark.parametrize("size", [(64, 64), (500, 333), (299, 299)])
def test_arrangements(size):
    """TensorFlow 1's resize pixel by pixel, and pytorch-fid's by torch."""
    import torch
    from torch_inception import tf1_resize

    images = np.random.default_rng(1).integers(0, 256, (1, *size, 3), np.uint8)
    config = InceptionConfig(image_size=75 if size[0] > 299 else 299)
    ours = jax.jit(lambda x: prepare(config, x))(images)
    theirs = (tf1_resize(images[0], config.image_size) - 128) / 128
    assert np.abs(ours[0] - theirs).max() <= 1e-4
    config = InceptionConfig(arrangement="torch", image_size=config.image_size)
    resized = torch.nn.functional.interpolate(
        torch.tensor(nchw(images)).float() / 255,
        size=(config.image_size,) * 2,
        mode="bilinear",
        align_corners=False,
    )
    assert_close(jax.jit(lambda x: prepare(config, x))(images), 2 * resized - 1, "pytorch-fid")


def test_the_two_arrangements_differ():
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), np.uint8))
    tf1, torch = (prepare(InceptionConfig(arrangement=name), images) for name in ("tf1", "torch"))
    assert np.abs(tf1 - torch).max() > 0.1


def test_the_published_shape():
    """21.8 million parameters below the classifier, as of the ImageNet network."""
    shapes = parameter_shapes(InceptionConfig())
    assert shapes["fc"]["kernel"].shape == (2048, 1008)
    trained = {k: v for k, v in shapes.items() if k != "fc"}
    count = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(trained)
        if "running" not in str(path[-1])
    )
    assert count == 21_785_568


def test_weights_of_another_network_are_refused(tmp_path):
    """One line that names what is missing, unexpected and of another shape."""
    shapes = parameter_shapes(InceptionConfig())
    arrays = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    tensors = {k: np.ascontiguousarray(v) for k, v in to_torch(arrays).items()}
    tensors["fc.weight"] = np.zeros((1000, 2048), np.float32)  # ImageNet's
    tensors["AuxLogits.fc.bias"] = np.zeros(1000, np.float32)
    del tensors["Mixed_7c.branch3x3dbl_3b.bn.running_var"]
    path = tmp_path / "imagenet.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError) as caught:
        load_inception(path)
    line = str(caught.value)
    print(line)
    assert "\n" not in line and "imagenet.safetensors" in line
    assert "1 missing (Mixed_7c.branch3x3dbl_3b.bn.running_var)" in line
    assert "1 unexpected (AuxLogits.fc.bias)" in line
    assert "fc.weight is (2048, 1000), expected (2048, 1008)" in line


def test_pickles_are_refused(tmp_path):
    with pytest.raises(UserError, match="is a pickle"):
        load_inception(tmp_path / "pt_inception-2015-12-05-6726825d.pth")


@pytest.mark.parametrize("options", [{"image_size": 60}, {"arrangement": "keras"}])
def test_configs_that_make_no_network(options):
    with pytest.raises(UserError):
        InceptionConfig(**options)
