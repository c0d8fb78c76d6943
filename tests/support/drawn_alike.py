"""diffusers' pipelines of random networks, made to draw from the same noise as ours."""

import numpy as np
from families import make_pipeline

PROMPTS = ["red heart", "cat face, noto style"]
SHAPE = (2, 8, 8, 4)
STEPS = 10  # divides 1000: see test_diffusers.py
NEGATIVE = "blue"
LEVELS = 2
NOISE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def reference(name, folder, **scheduler):
    """A family's pipeline in float32 with DDIM, saved in `folder`.

    Its autoencoder's latents have hardly any variance, since ours takes the mean where diffusers
    draws a sample, and DDIM ends at clean latents, as every grid of ours does.
    """
    import diffusers
    import torch

    pipe = make_pipeline(name, folder.with_name(f"{folder.name}-tokenizers"))
    with torch.no_grad():
        for part in (pipe.vae.quant_conv.weight, pipe.vae.quant_conv.bias):
            part[part.shape[0] // 2 :] = 0.0
        pipe.vae.quant_conv.bias[4:] = -30.0
        pipe.vae.decoder.conv_out.weight.mul_(3.0)  # pictures of some contrast
    config = {key: value for key, value in pipe.scheduler.config.items() if key[0] != "_"}
    options = {key: config[key] for key in ("beta_schedule", "beta_start", "beta_end")}
    options |= {"prediction_type": config.get("prediction_type", "epsilon"), **scheduler}
    if name != "lcm":
        pipe.scheduler = diffusers.DDIMScheduler(
            **{"clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1, **options}
        )
    pipe.save_pretrained(folder, safe_serialization=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.float()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def as_task(pipe, cls, **extra):
    """The same networks as another of diffusers' pipelines."""
    import inspect

    wanted = inspect.signature(cls.__init__).parameters
    parts = {key: part for key, part in pipe.components.items() if key in wanted}
    for option in ("requires_aesthetics_score", "force_zeros_for_empty_prompt"):
        if option in wanted and option in pipe.config:
            parts[option] = pipe.config[option]
    if "requires_safety_checker" in wanted:
        parts["requires_safety_checker"] = False
    task = cls(**parts, **extra)
    task.set_progress_bar_config(disable=True)
    return task


def nchw(x):
    """[B H W C] as a torch tensor [B C H W]."""
    import torch

    return torch.tensor(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def pil(pictures):
    """Pictures uint8 as a list of PIL's."""
    from PIL import Image

    return [Image.fromarray(picture) for picture in pictures]


def drawn(pipe, *args, noise=NOISE, monkeypatch=None, steps=STEPS, **options):
    """Pictures of theirs, uint8 [B H W 3], from this noise, as latents or as what they draw."""
    import sys

    if monkeypatch is None:
        options["latents"] = nchw(noise)
    else:
        module = sys.modules[type(pipe).__module__]
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: nchw(noise))
    images = pipe(*args, num_inference_steps=steps, output_type="np", **options).images
    return np.round(images * 255).astype(np.uint8)


def assert_alike(ours, theirs, name):
    """Within two of 255 levels, of pictures that show something."""
    levels = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    print(f"{name}: {levels} of 255 levels apart")
    assert ours.shape == theirs.shape
    assert levels <= LEVELS
    assert ours.std() > 5 and _differ(ours)


def _differ(pictures):
    return len(pictures) == 1 or np.abs(pictures[0].astype(int) - pictures[1]).max() > 5


def settings(**changes):
    """Ours, for the same."""
    return dict(sampler="ddim", schedule="leading", num_steps=STEPS, **changes)
