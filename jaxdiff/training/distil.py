"""Distillation: what is trained learns to draw in one to four steps what the model draws in many.

The model's UNet as it is, guided, is the teacher; the student is the same UNet trained on, whole or
by a LoRA, with the loss of `diffusion.consistency`. Guidance is then a part of the student, which
draws at scale 1, or the student is guided itself: two calls a step, and only the steps to learn.

Axis legend: B examples, T tokens, D context width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.diffusion.consistency import consistency_loss
from jaxdiff.diffusion.grids import make_grid
from jaxdiff.diffusion.guidance import classifier_free
from jaxdiff.diffusion.prediction import Denoise, denoiser
from jaxdiff.errors import UserError
from jaxdiff.models import Autoencoder
from jaxdiff.rng import named_keys
from jaxdiff.training.captions import encode_captions, text_inputs
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.latents import batch_latents
from jaxdiff.training.methods import STUDENT_SCHEDULE, Trained, make_unet
from jaxdiff.training.step import Batch, LossFn, Metrics, Params, StepKeys


def with_teacher(run: TrainConfig, trained: Trained) -> Trained:
    """The method with what its teacher needs: the UNet as it is, and the empty prompt's states.

    Raises:
      UserError: the model is told sizes, of which an empty prompt has none.
    """
    model = trained.model
    if model.unet_config.addition_embed_type is not None:
        raise UserError(
            f"objective.model={run.objective.model} is of the family {model.family}; only models "
            "without size conditioning can be distilled"
        )
    empty = encode_captions(run, model, {t.name: t.params for t in model.text}, [""])
    teacher = {"unet": model.unet_params, "empty": jax.device_get(empty.context)}
    return trained._replace(frozen={**trained.frozen, **teacher})


def distil_loss(run: TrainConfig, trained: Trained, vae: Autoencoder) -> LossFn:
    """The consistency loss per example, of a method `with_teacher`."""
    model, config = trained.model, run.objective.distil
    process, row = model.noise.process(), model.noise.prediction_row()
    grid, unet = make_grid(process, STUDENT_SCHEDULE, config.levels), make_unet(run, model)

    def loss(params: Params, frozen: Params, batch: Batch, keys: StepKeys) -> tuple[Array, Metrics]:
        each = jax.vmap(lambda key: named_keys(key, "z", "loss"))(keys.examples)
        z0 = batch_latents(vae, frozen["vae"], batch, each["z"])
        text, _ = text_inputs(run, trained, params, frozen, batch)
        nothing = jnp.broadcast_to(frozen["empty"], text.context.shape)

        def taught(context: Array) -> Denoise:
            def net(z: Array, t: Array) -> Array:
                return unet.apply({"params": frozen["unet"]}, z, t, context)

            return denoiser(net, process, row)

        def learning(context: Array) -> Denoise:
            def net(z: Array, t: Array) -> Array:
                return trained.predict(params, frozen, batch, z, t, context, None)

            return denoiser(net, process, row)

        def guided(of: Callable[[Array], Denoise]) -> Denoise:
            return classifier_free(of(text.context), of(nothing), config.guidance_scale)

        teacher = guided(taught)
        student = guided(learning) if config.keeps_guidance else learning(text.context)
        return consistency_loss(student, teacher, grid, z0, each["loss"], config.segments), {}

    return loss
