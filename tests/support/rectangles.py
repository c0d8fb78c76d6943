"""Pictures made on the spot, and a folder of them."""

import numpy as np
from PIL import Image


def make_pictures(count, seed, side=16):
    """Coloured rectangles on white, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, side, side, 3), 255, np.uint8)
    for picture in pictures:
        (top, left), (high, wide) = rng.integers(0, side // 2, 2), rng.integers(2, side // 2, 2)
        picture[top : top + high, left : left + wide] = rng.integers(0, 256, 3)
    return pictures


def write_pictures(folder, pictures):
    folder.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{i:04d}.png")
    return folder
