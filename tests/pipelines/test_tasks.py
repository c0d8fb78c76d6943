"""Every task: other values compile nothing, a picture is its own, and limits are what they say."""

import numpy as np
import pytest

from jaxdiff.errors import UserError
from jaxdiff.pipelines.pictures import Pictures

FEW = dict(num_steps=4, guidance_scale=4.0, sampler="euler_a")
PROMPTS = ["red heart", "cat face, noto style", "cat"]

# For each task, what may change without compiling: (arguments, others).
TASKS = {
    "image": (dict(init_images=0, strength=0.5), dict(init_images=1, strength=1.0)),
    "mask": (dict(init_images=0, masks=0, strength=0.8), dict(init_images=1, masks=1)),
    "inpaint": (dict(init_images=0, masks=0, strength=0.8), dict(init_images=1, masks=1)),
    "outpaint": (
        dict(init_images=0, outpaint=(2, 4, 0, 0)),
        dict(init_images=1, outpaint=(0, 0, 2, 4), strength=0.7),
    ),
    "control": (
        dict(control_images=(0, 1)),
        dict(
            control_images=(2, 0), control_weights=(0.5, 0.0), control_ranges=((0, 0.5), (0.5, 1))
        ),
    ),
    "hires": (
        dict(hires_scale=1.5, hires_strength=0.5),
        dict(hires_scale=1.5, hires_strength=0.75),
    ),
}


@pytest.fixture(scope="module")
def pipes(make_pipe):
    """Name of a task -> its pipeline, made once."""
    made = {}

    def get(task):
        name = task if task in ("inpaint", "control") else "plain"
        return made.setdefault(name, make_pipe(name))

    return get


@pytest.fixture
def given(photo, mask):
    """Arguments of `TASKS` with the pictures that their numbers stand for."""
    masks = [mask, mask[::-1].copy()]

    def fill(arguments):
        filled = dict(arguments)
        if "init_images" in filled:
            filled["init_images"] = photo[filled["init_images"]]
        if "masks" in filled:
            filled["masks"] = masks[filled["masks"]]
        if "control_images" in filled:
            filled["control_images"] = [photo[i] for i in filled["control_images"]]
        return filled

    return fill


def _levels_apart(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_other_values_compile_nothing(task, pipes, given, compilations):
    pipe, (arguments, others) = pipes(task), map(given, TASKS[task])
    first = pipe(PROMPTS[:2], [1, 2], **arguments, **FEW)
    with compilations() as compiled:
        second = pipe(PROMPTS[1:], [3, 4], **others, **FEW | {"guidance_scale": 2.0})
        pipe(PROMPTS[:2], [1, 2], **arguments, negative_prompt="cat", schedule="karras", **FEW)
    assert not compiled
    assert first.shape == second.shape
    assert _levels_apart(first, second) > 2
    assert first.std() > 5


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_batch_and_position_do_not_change_a_picture(task, pipes, given):
    pipe, settings = pipes(task), given(TASKS[task][0]) | FEW
    together = pipe(PROMPTS, [7, 8, 9], **settings)
    for i in (0, 2):
        alone = pipe(PROMPTS[i], [7 + i], **settings)
        assert _levels_apart(alone[0], together[i]) <= 1
    turned = pipe(PROMPTS[::-1], [9, 8, 7], **settings)
    assert _levels_apart(turned[::-1], together) <= 1
    assert _levels_apart(together[0], together[2]) > 2


def test_a_picture_for_each_seed(pipes, photo):
    pipe = pipes("image")
    together = pipe("cat", [1, 2, 3], init_images=photo, strength=0.5, **FEW)
    alone = pipe("cat", [2], init_images=photo[1], strength=0.5, **FEW)
    assert _levels_apart(alone[0], together[1]) <= 1
    with pytest.raises(UserError, match="2 of init for 3 pictures"):
        pipe("cat", [1, 2, 3], init_images=photo[:2], **FEW)


def test_strength_zero_is_the_autoencoder_alone(pipes, photo):
    pipe = pipes("image")
    none = pipe(PROMPTS[:2], [1, 2], init_images=photo[0], strength=0.0, **FEW)
    other = pipe(PROMPTS[1], [5], init_images=photo[0], strength=0.0, **FEW | {"guidance_scale": 1})
    assert _levels_apart(none[0], none[1]) <= 1
    assert _levels_apart(none[0], other[0]) <= 1
    some = pipe(PROMPTS[:2], [1, 2], init_images=photo[0], strength=0.5, **FEW)
    assert _levels_apart(none, some) > 2


@pytest.mark.slow
def test_fewer_steps_for_less_strength(pipes, photo):
    """int(N strength) of N steps: 0.49 of 4 is one step, as is 0.25."""
    pipe = pipes("image")
    one = pipe("cat", [1], init_images=photo[0], strength=0.25, **FEW)
    np.testing.assert_array_equal(one, pipe("cat", [1], init_images=photo[0], strength=0.49, **FEW))
    two = pipe("cat", [1], init_images=photo[0], strength=0.5, **FEW)
    assert _levels_apart(one, two) > 0


@pytest.mark.parametrize("task", ["mask", "inpaint"])
def test_known_pixels_are_the_users_own(task, pipes, photo, mask):
    drawn = pipes(task)("cat", [1, 2], init_images=photo[0], masks=mask, **FEW)
    known = mask == 0
    np.testing.assert_array_equal(drawn[:, known], np.stack([photo[0][known]] * 2))
    assert _levels_apart(drawn[0], photo[0]) > 2
    assert _levels_apart(drawn[0], drawn[1]) > 2
    grey = np.where(mask > 0, np.uint8(128), np.uint8(0))
    soft = pipes(task)("cat", [1, 2], init_images=photo[0], masks=grey, **FEW)
    between = (drawn.astype(float) + photo[0]) / 2
    assert np.abs(soft - between).max() <= 2


@pytest.mark.slow
def test_a_black_mask_draws_nothing_and_a_white_one_all(pipes, photo):
    pipe, nothing = pipes("mask"), np.zeros((16, 16), np.uint8)
    kept = pipe("cat", [1], init_images=photo[0], masks=nothing, **FEW)
    np.testing.assert_array_equal(kept[0], photo[0])
    drawn = pipe("cat", [1], init_images=photo[0], masks=nothing + 255, **FEW)
    assert _levels_apart(drawn, pipe("cat", [1], **FEW)) <= 1  # from noise alone


@pytest.mark.slow
def test_outpainting_keeps_the_picture_in_its_place(pipes, photo):
    drawn = pipes("outpaint")("cat", [1], init_images=photo[0], outpaint=(0, 4, 2, 0), **FEW)[0]
    assert drawn.shape == (20, 18, 3)
    np.testing.assert_array_equal(drawn[4:, :16], photo[0])
    assert drawn[:4].std() > 5


@pytest.mark.slow
def test_an_inpainting_network_draws_from_prompts_alone(pipes, photo):
    pipe = pipes("inpaint")
    plain = pipe(PROMPTS[:2], [1, 2], **FEW)
    assert _levels_apart(plain[0], plain[1]) > 2
    white = np.full((16, 16), 255, np.uint8)
    masked = pipe(PROMPTS[:2], [1, 2], init_images=photo[0] * 0 + 128, masks=white, **FEW)
    assert _levels_apart(plain, masked) <= 1


@pytest.mark.slow
def test_control_weights_and_ranges(pipes, photo):
    pipe, images = pipes("control"), [photo[0], photo[1]]
    off = pipe("cat", [1], control_images=images, control_weights=(0.0, 0.0), **FEW)
    never = pipe("cat", [1], control_images=images, control_ranges=((0, 0), (1, 1)), **FEW)
    np.testing.assert_array_equal(off, never)
    assert _levels_apart(off, pipes("image")("cat", [1], **FEW)) <= 1
    first = pipe("cat", [1], control_images=images, control_weights=(1.0, 0.0), **FEW)
    half = pipe(
        "cat",
        [1],
        control_images=images,
        control_weights=(1.0, 0.0),
        control_ranges=((0, 0.5), (0, 1)),
        **FEW,
    )
    turned = pipe("cat", [1], control_images=images[::-1], control_weights=(0.0, 1.0), **FEW)
    assert _levels_apart(first, off) > 2
    assert 0 < _levels_apart(half, first)
    assert _levels_apart(turned, first) <= 1  # the two networks are one and the same


@pytest.mark.slow
def test_hires_is_larger_and_its_strength_says_how_much_is_drawn_again(pipes, photo):
    pipe = pipes("hires")
    drawn = pipe("cat", [1, 2], hires_scale=2.0, **FEW)
    assert drawn.shape == (2, 32, 32, 3)
    nothing = dict(init_images=photo[0], strength=0.0, hires_scale=2.0)
    kept = pipe(PROMPTS[:2], [1, 2], hires_strength=0.0, **nothing, **FEW)
    assert _levels_apart(kept[0], kept[1]) <= 1  # the photograph's latents, enlarged
    again = pipe(PROMPTS[:2], [1, 2], hires_strength=0.5, **nothing, **FEW)
    assert _levels_apart(again[0], again[1]) > 2


@pytest.mark.slow
def test_width_and_height(pipes, photo):
    width, height = 20, 8
    drawn = pipes("image")("cat", [1], width=width, height=height, **FEW)
    assert drawn.shape == (1, height, width, 3)
    resized = pipes("image")("cat", [1], init_images=photo[0], width=width, height=height, **FEW)
    assert resized.shape == (1, height, width, 3)


@pytest.mark.slow
def test_tiles(pipes, photo):
    pipe = pipes("image")
    settings = FEW | {"init_images": photo[0], "strength": 0.5}
    whole = pipe("cat", [1], **settings)
    assert _levels_apart(whole, pipe("cat", [1], tile=16, **settings)) <= 1
    tiled = pipe("cat", [1], tile=8, **settings)
    assert 0 < _levels_apart(whole, tiled)
    assert tiled.std() > 5


@pytest.mark.slow
def test_a_longer_prompt_beside_it_changes_no_picture(pipes):
    pipe, long = pipes("image"), "red heart " * 12
    together = pipe([long, "cat", long], [1, 2, 3], **FEW)
    assert _levels_apart(pipe("cat", [2], **FEW)[0], together[1]) <= 1
    assert _levels_apart(pipe(long, [3], **FEW)[0], together[2]) <= 1
    assert _levels_apart(pipe(long, [3], max_chunks=1, **FEW)[0], together[2]) > 2


@pytest.mark.slow
def test_steps_of_a_part(pipes, photo):
    pipe = pipes("image")
    pixels, steps = pipe.with_steps("cat", [1], Pictures.of(photo[0]), strength=0.5, **FEW)
    assert steps.shape == (1, 2, 16, 16, 3)
    plain = pipe("cat", [1], init_images=photo[0], strength=0.5, **FEW)
    assert _levels_apart(pixels, plain) <= 1
    assert _levels_apart(steps[:, -1], pixels) <= 1


BAD = {
    "strength": (dict(init_images=0, strength=1.5), "strength is 1.5; give 0 to 1"),
    "negative strength": (dict(init_images=0, strength=-0.1), "strength is -0.1"),
    "mask alone": (dict(masks=0), "give that with --init-image"),
    "width": (dict(width=17), "17x16 is no multiple of the 2 pixels"),
    "outpaint and width": (dict(init_images=0, outpaint=(1, 0, 0, 0), width=32), "sets the size"),
    "outpaint alone": (dict(outpaint=(2, 0, 0, 0)), "around a picture"),
    "odd outpaint": (dict(init_images=0, outpaint=(1, 0, 0, 0)), "borders that make it 16x16"),
    "hires and mask": (dict(init_images=0, masks=0, hires_scale=2.0), "leave out one of them"),
    "hires scale": (dict(hires_scale=0.5), "hires scale is 0.5; give at least 1"),
    "tile": (dict(tile=3), "give a multiple of 2"),
    "clip skip": (dict(clip_skip=2), "clip skip is 2; text_encoder has layers for 0 to 1"),
    "control image": (dict(control_images=(0,)), "1 control images for 0 ControlNets"),
    "control weights": (dict(control_weights=(1.0,)), "1 weights for 0 ControlNets"),
    "control range": (dict(control_ranges=((0.5, 0.2),)), "run from 0.5 to 0.2"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_compiled(name, pipes, given, compilations):
    arguments, message = BAD[name]
    pipe = pipes("image")
    with compilations() as compiled, pytest.raises(UserError, match=message):
        pipe("cat", [0], **given(arguments))
    assert not compiled


def test_pictures_of_other_sizes_and_types_are_refused(pipes, photo, mask):
    pipe = pipes("image")
    for arguments, message in (
        (dict(init_images=photo[0], masks=mask[:, :14]), "mask is 14x16, but its picture is 16x16"),
        (dict(init_images=photo[0].astype(float)), "init image should be uint8"),
        (dict(init_images=photo[0][..., 0]), "init image should be uint8"),
    ):
        with pytest.raises(UserError, match=message):
            pipe("cat", [0], **arguments)
