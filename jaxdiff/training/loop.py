"""The training loop: set up, resume, step, log, draw, checkpoint, export. Read it top to bottom."""

import logging
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key
from PIL import Image

from jaxdiff.convert.model_dir import check_writable
from jaxdiff.data.pipeline import make_batches, make_source
from jaxdiff.data.sources import Source
from jaxdiff.errors import UserError
from jaxdiff.training.autoencoder import autoencoder_objective
from jaxdiff.training.checkpoint import Checkpoints, abstract_state
from jaxdiff.training.config import AutoencoderObjective, TrainConfig
from jaxdiff.training.diffusion import diffusion_objective
from jaxdiff.training.metrics import MetricsWriter, Throughput
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import learning_rate, make_optimizer
from jaxdiff.training.parallel import make_runner
from jaxdiff.training.step import Params, TrainState, init_state, make_train_step
from jaxdiff.training.workdir import check_workdir, write_config

log = logging.getLogger(__name__)


SAMPLES = 512  # pictures that an autoencoder's latents are measured on
INIT_STEP = np.uint32(2**32 - 1)  # folded into the seed for parameters; no step has this number


class NotFiniteError(UserError):
    """The loss or the gradient became NaN or infinite."""


def train(config: TrainConfig) -> TrainState:
    """Train, or resume, the run of `config.workdir` until `config.num_steps`.

    Returns:
      The final state, one copy of it.

    Raises:
      UserError: something of the config cannot be used; nothing has been compiled then.
      NotFiniteError: the loss became NaN; names the last good checkpoint.
    """
    # -- what is trained, on what, where
    runner = make_runner(config.parallel, config.data.batch_size, config.optimizer.accumulate)
    workdir = check_workdir(config)
    if config.export is not None:
        check_writable(config.export, getattr(config.objective, "noise", None))
    source = make_source(config.data)
    objective = _make_objective(config, source, workdir)
    if jax.process_index() == 0:
        write_config(config)
        objective.keep(workdir)

    # -- state
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
    key = jax.random.key(config.seed)
    state, start, examples = _first_state(objective, optimizer, checkpoints, key)
    state, frozen, key = (runner.put(tree) for tree in (state, objective.frozen, key))

    # -- step and data
    step_fn = make_train_step(
        objective.loss,
        optimizer,
        learning_rate(config.optimizer, config.num_steps),
        config.ema,
        accumulate=config.optimizer.accumulate,
        axis_name=runner.axis_name,
    )
    batches = make_batches(
        source,
        config.data,
        objective.tokenize,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        start=examples,
    )
    if start < config.num_steps:
        batch = runner.put_batch(next(batches))
        lowered = runner.jit(step_fn).lower(state, frozen, batch, key)
        flops = _flops(lowered, config)
        log.info("compiling a step of %.1f GFLOP", flops / 1e9)
        compiled = lowered.compile()
        throughput = Throughput(config.data.batch_size, flops, config.num_steps)
        throughput.start(start)
    writer = MetricsWriter(workdir, config.num_steps, start)

    # -- the loop
    batch_size = config.data.batch_size
    for step in range(start + 1, config.num_steps + 1):
        state, metrics = compiled(state, frozen, batch, key)
        if step < config.num_steps:  # fetch while the devices work
            batch = runner.put_batch(next(batches))
        last = step == config.num_steps
        saves = last or step % config.checkpoint_every == 0
        if saves or step == start + 1 or step % config.log_every == 0:
            values = {name: float(value) for name, value in runner.get(metrics).items()}
            _require_finite(step, values, checkpoints)
            writer.write(step, {**values, **throughput.measure(step)})
        if saves:
            checkpoints.save(step, runner.get(state), examples + (step - start) * batch_size)
        if config.preview.every and (last or step % config.preview.every == 0):
            _draw(step, objective, runner.get(state.ema_params), workdir, writer)
            throughput.start(step)

    # -- the end
    checkpoints.close()
    writer.close()
    state = runner.get(state)
    if config.export is not None and jax.process_index() == 0:
        step = int(state.step)
        facts = {"step": step, "examples": step * config.data.batch_size}
        objective.export(config.export, jax.device_get(state.ema_params), facts)
        log.info("wrote the averaged model to %s", config.export)
    return state


def _make_objective(config: TrainConfig, source: Source, workdir: Path) -> Objective:
    """The objective that `config.objective` describes."""
    dtype = jnp.dtype(config.dtype)
    if isinstance(config.objective, AutoencoderObjective):
        spread = np.linspace(0, len(source) - 1, min(SAMPLES, len(source))).astype(int)
        samples = np.stack([source[int(i)]["image"] for i in spread])
        return autoencoder_objective(config.objective, dtype, samples)
    return diffusion_objective(config.objective, config, source, dtype, workdir)


def _first_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    key: Key[Array, ""],
) -> tuple[TrainState, int, int]:
    """The newest checkpoint's state or a fresh one, its step, and the examples consumed so far."""
    params = objective.init(jax.random.fold_in(key, INIT_STEP))
    fresh = jax.device_put(init_state(params, optimizer), jax.local_devices()[0])
    restored = checkpoints.restore(abstract_state(fresh))
    if restored is None:
        return fresh, 0, 0
    log.info("resuming at step %d from %s", restored.step, checkpoints.directory)
    return restored.state, restored.step, restored.examples


def _flops(lowered: jax.stages.Lowered, config: TrainConfig) -> float:
    """Floating-point operations of a step over all devices.

    The compiler's count sees a scan's body once, and under pmap one device's part.
    """
    cost = lowered.cost_analysis() or {}
    per_part = config.optimizer.accumulate
    parts = jax.device_count() if config.parallel == "pmap" else 1
    return cost.get("flops", math.nan) * per_part * parts


def _require_finite(step: int, values: dict[str, float], checkpoints: Checkpoints) -> None:
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
    if bad:
        raise NotFiniteError(
            f"{' and '.join(bad)} not finite at step {step}; training stopped, nothing was saved "
            f"since the last good checkpoint: {checkpoints.newest()}. Lower the learning rate or "
            "clip more, and run the command again"
        )


def _draw(
    step: int, objective: Objective, average: Params, workdir: Path, writer: MetricsWriter
) -> None:
    """Draw the preview from the averaged parameters, into `previews/` and TensorBoard."""
    if jax.process_index() != 0:
        return
    picture = objective.preview(jax.device_get(average))
    if picture is None:
        return
    folder = workdir / "previews"
    folder.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / f"{step:08d}.png")
    writer.picture(step, "preview", picture)
