"""Pictures to features: every extractor by name, on one device or on eight."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from rectangles import make_pictures

from jaxdiff.errors import UserError
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.evaluate.features import Extractor


def test_eight_devices_see_what_one_sees():
    """Batches of any length, in their order, whatever the number of devices."""
    pictures = make_pictures(45, 0)
    extractor = open_extractor("pixels")
    whole = extractor([pictures])
    assert whole.shape == (45, 768) and len(jax.local_devices()) == 8
    parts = extractor([pictures[:7], pictures[7:8], pictures[8:]])
    np.testing.assert_array_equal(parts, whole)
    one = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    alone = Extractor(extractor.name, extractor.embed, mesh=one)([pictures])
    np.testing.assert_allclose(alone, whole, atol=1e-6)


def test_features_lie_on_every_device():
    """The work is cut: each device embeds its own rows."""
    seen = []

    def embed(_, images):
        jax.debug.inspect_array_sharding(images, callback=seen.append)
        return images.reshape(images.shape[0], -1).astype(np.float32)

    Extractor("test", embed)([make_pictures(16, 0)])
    assert len(seen[0].device_set) == 8 and not seen[0].is_fully_replicated


def test_latents(tiny_model_dir):
    extractor = open_extractor(f"latents:{tiny_model_dir}")
    assert extractor([make_pictures(3, 0)]).shape == (3, 8 * 8 * 4)
    with pytest.raises(UserError, match="15 x 15 have no latents"):
        extractor([make_pictures(3, 0, side=15)])


def test_clip(clip_folder):
    """Embeds pictures and captions into one space; the name tells weights apart."""
    extractor = open_extractor(f"clip:{clip_folder}")
    assert extractor([make_pictures(5, 0, side=24)]).shape == (5, 12)
    texts, own = extractor.texts(["red heart", "cat face", "red  heart"])
    assert texts.shape == (2, 12) and own[0] == own[2] != own[1]  # by tokens, not by letters
    assert np.abs(texts[0] - texts[1]).max() > 0.01
    assert extractor.name.startswith("clip-16-")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inceptionv4:x", "unknown extractor 'inceptionv4'"),
        ("clip", "wants a path: clip:PATH"),
        ("pixels:x", "takes a side, such as pixels:8"),
        ("inception:weights.pth", "weights.pth is a pickle"),
        ("inception:weights.safetensors", "weights.safetensors does not exist"),
        ("clip:nowhere", "nowhere/config.json is missing"),
    ],
)
def test_bad_names_are_refused(name, said):
    with pytest.raises(UserError, match=said):
        open_extractor(name)


def test_weights_of_another_network_are_refused(clip_folder):
    """CLIP's weights given for Inception's."""
    with pytest.raises(UserError) as caught:
        open_extractor(f"inception:{clip_folder / 'model.safetensors'}")
    print(caught.value)
    assert "missing (Conv2d_1a_3x3" in str(caught.value) and "\n" not in str(caught.value)


def test_features_that_are_no_numbers_are_refused():
    def embed(_, images):
        return images.reshape(images.shape[0], -1).astype(np.float32) / 0

    with pytest.raises(UserError, match="test gives features that are not finite"):
        Extractor("test", embed)([make_pictures(3, 0)])


def test_no_picture_is_refused():
    with pytest.raises(UserError, match="at least 1 pictures, not 0"):
        open_extractor("pixels")([])
