"""Pictures of several shapes: sizes, fitting, and an order of batches of one shape each."""

import collections
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data.buckets import bucket_sizes, centre_crop, nearest_bucket, size_conditioning
from jaxdiff.data.pipeline import DataConfig, make_batches, make_source

BATCH = 4
CONFIG = DataConfig(batch_size=BATCH, resolution=8, caption_dropout=0.0)


def shapes(*counts):
    kinds = np.array([[8, 8], [10, 6], [6, 10]])
    mixed = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return kinds[mixed]


@pytest.mark.parametrize(("resolution", "step", "aspect"), [(512, 64, 2.0), (64, 16, 3.0)])
def test_sizes_are_multiples_within_area_and_aspect(resolution, step, aspect):
    sizes = bucket_sizes(resolution, step, aspect)
    assert [resolution, resolution] in sizes.tolist()
    assert (sizes % step == 0).all() and (sizes.prod(1) <= resolution**2).all()
    assert (sizes.max(1) / sizes.min(1) <= aspect).all()
    assert sorted(sizes.tolist()) == sorted(sizes[:, ::-1].tolist())
    # None could be a step longer.
    assert ((sizes.max(1) + step) * sizes.min(1) > resolution**2).all()


def test_a_picture_goes_where_its_aspect_is_nearest():
    sizes = bucket_sizes(64, 16, 2.0)
    chosen = nearest_bucket(np.array([[100, 100], [300, 180], [10, 90], [90, 100]]), sizes)
    assert chosen.tolist() == [[64, 64], [80, 48], [48, 80], [64, 64]]


@pytest.mark.parametrize("old", [(100, 100), (300, 101), (77, 191), (5, 5)])
@pytest.mark.parametrize("new", [(64, 64), (48, 80)])
def test_a_crop_is_central_and_as_large_as_can_be(old, new):
    top, left, high, wide = centre_crop(old, new)
    assert high == old[0] or wide == old[1]
    assert abs(high / wide * new[1] / new[0] - 1) <= 1 / min(high, wide)
    assert abs(old[0] - high - 2 * top) <= 1 and abs(old[1] - wide - 2 * left) <= 1
    original_height, original_width, crop_top, crop_left, *target = size_conditioning(old, new)
    assert (original_height, original_width) == old and tuple(target) == new
    assert crop_top == pytest.approx(top * new[0] / high, abs=0.5)
    assert crop_left == pytest.approx(left * new[1] / wide, abs=0.5 + left / 50)


def test_every_batch_has_one_shape_and_an_epoch_has_every_picture(toy, tokenize):
    source = toy(sum((9, 5, 1)), shapes=shapes(9, 5, 1))
    batches = make_batches(source, CONFIG, tokenize)
    per_epoch = 3 + 2 + 1  # short batches are filled up
    for _ in range(3):
        seen = collections.Counter()
        for _ in range(per_epoch):
            image = next(batches)["image"]
            seen.update(image.max((1, 2, 3)).tolist())
        assert seen.keys() == set(range(1, 16))
        # Of 9 pictures and of 5 three are seen twice, and the one of the third shape four times.
        assert collections.Counter(seen.values()) == {1: 8, 2: 6, BATCH: 1}


def test_the_order_resumes_splits_and_depends_on_the_seed(toy, tokenize):
    source = toy(15, shapes=shapes(9, 5, 1))

    def take(count, start=0, config=CONFIG, **process):
        batches = make_batches(source, config, tokenize, start=start, **process)
        return [next(batches)["image"] for _ in range(count)]

    whole = take(14)
    for a, b in zip(whole[9:], take(5, start=9 * BATCH), strict=True):
        np.testing.assert_array_equal(a, b)
    parts = [take(14, process_index=i, process_count=2) for i in range(2)]
    for together, *halves in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(together, np.concatenate(halves))
    other = take(14, config=dataclasses.replace(CONFIG, seed=1))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(whole, other, strict=True))


@pytest.fixture
def oblong(tmp_path):
    """Six pictures, of 60 x 100 and of 100 x 60 pixels; the left edge of each is black."""
    lines = []
    for index in range(6):
        size = (100, 60) if index % 2 else (60, 100)
        image = np.full((size[1], size[0], 3), 40 * index + 10, np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": f"cat {index}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_a_folder_in_buckets(oblong, tokenize, memory_mb):
    config = DataConfig(
        source=f"folder:{oblong}",
        resolution=32,
        bucket_step=8,
        batch_size=3,
        memory_mb=memory_mb,
    )
    source = make_source(config)
    assert source.shapes.tolist() == [[40, 24], [24, 40]] * 3
    batch = next(make_batches(source, config, tokenize))
    height, width = batch["image"].shape[1:3]
    assert {height, width} == {24, 40}
    original = [100, 60] if height == 40 else [60, 100]
    np.testing.assert_array_equal(batch["size"], [[*original, 0, 0, height, width]] * 3)


@pytest.mark.parametrize("left", [60, 10])
def test_a_corrupt_picture_gives_its_place_to_one_of_a_shape(oblong, tokenize, left):
    """Cut short after the header that tells its shape, or before."""
    (oblong / "2.png").write_bytes((oblong / "2.png").read_bytes()[:left])
    (oblong / "1.png").write_bytes((oblong / "0.png").read_bytes())
    config = DataConfig(source=f"folder:{oblong}", resolution=32, bucket_step=8, memory_mb=0)
    source = make_source(config)
    assert source[2]["id"] == "4.png" and source[2]["index"] == 4
    held = make_source(dataclasses.replace(config, memory_mb=100))
    assert len(held) == 5
    assert held.shapes.tolist() == [list(held[i]["image"].shape[:2]) for i in range(5)]
