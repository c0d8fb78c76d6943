"""The training loop: set up, resume, step, log, draw, checkpoint, export. Read it top to bottom."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Key
from PIL import Image

from jaxdiff.data.pipeline import make_source
from jaxdiff.errors import UserError
from jaxdiff.training.autoencoder import autoencoder_objective
from jaxdiff.training.checkpoint import Checkpoints, abstract_state
from jaxdiff.training.config import (
    AutoencoderObjective,
    DiffusionObjective,
    FinetuneObjective,
    TrainConfig,
)
from jaxdiff.training.diffusion import diffusion_objective
from jaxdiff.training.export import check_export
from jaxdiff.training.finetune import finetune_objective
from jaxdiff.training.metrics import MetricsWriter, Throughput
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import learning_rate, make_optimizer
from jaxdiff.training.parallel import Runner, make_runner
from jaxdiff.training.step import Metrics, Params, TrainState, init_state, make_train_step
from jaxdiff.training.workdir import check_inputs, check_workdir, write_config

log = logging.getLogger(__name__)

INIT_STEP = np.uint32(2**32 - 1)  # folded into the seed for parameters; no step has this number

OBJECTIVES: dict[type, Callable[..., Objective]] = {
    AutoencoderObjective: autoencoder_objective,
    DiffusionObjective: diffusion_objective,
    FinetuneObjective: finetune_objective,
}
"""(run, source, work directory) -> what the loop needs to know."""


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
    workdir, objective = _prepare(config)

    # -- state
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
    key = jax.random.key(config.seed)
    state, start, examples = _first_state(objective, optimizer, checkpoints, key)
    state, frozen, key = (runner.put(tree) for tree in (state, objective.frozen, key))

    # -- step, data, where the numbers go
    throughput = Throughput(config.data.batch_size, config.num_steps)
    step_fn = _Step(config, runner, objective, optimizer, throughput)
    batches = objective.batches(examples)
    batch = runner.put_batch(next(batches)) if start < config.num_steps else None
    writer = MetricsWriter(workdir, config.num_steps, start)
    throughput.start(start)

    # -- the loop
    for step in range(start + 1, config.num_steps + 1):
        state, metrics = step_fn(state, frozen, batch, key)
        if step < config.num_steps:  # fetch while the devices work
            batch = runner.put_batch(next(batches))
        last = step == config.num_steps
        saves = last or step % config.checkpoint_every == 0
        if saves or step == start + 1 or step % config.log_every == 0:
            values = {name: float(value) for name, value in runner.get(metrics).items()}
            _require_finite(step, values, checkpoints)
            writer.write(step, {**values, **throughput.measure(step)})
        if saves:
            seen = examples + (step - start) * config.data.batch_size
            checkpoints.save(step, runner.get(state), seen)
        if config.preview.every and (last or step % config.preview.every == 0):
            _draw(step, objective, runner.get(state.ema_params), workdir, writer)
            throughput.start(step)

    # -- the end
    checkpoints.close()
    writer.close()
    state = runner.get(state)
    _export(config, objective, state)
    return state


def _prepare(config: TrainConfig) -> tuple[Path, Objective]:
    """Check all that can be checked, open the data, build the objective, note what the run is."""
    workdir = check_workdir(config)
    check_export(config)
    source = make_source(config.data)
    objective = OBJECTIVES[type(config.objective)](config, source, workdir)
    check_inputs(config, objective.inputs)
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        write_config(config, objective.inputs)
        objective.keep(workdir)
    return workdir, objective


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


class _Step:
    """The train step, compiled once for each size of pictures that comes."""

    def __init__(
        self,
        config: TrainConfig,
        runner: Runner,
        objective: Objective,
        optimizer: optax.GradientTransformation,
        throughput: Throughput,
    ):
        self._config, self._throughput = config, throughput
        self._compiled: dict[tuple, tuple[Any, float]] = {}
        self._jitted = runner.jit(
            make_train_step(
                objective.loss,
                optimizer,
                learning_rate(config.optimizer, config.num_steps),
                config.ema,
                accumulate=config.optimizer.accumulate,
                axis_name=runner.axis_name,
            )
        )

    def __call__(
        self, state: TrainState, frozen: Params, batch: dict[str, Any], key: Key[Array, "..."]
    ) -> tuple[TrainState, Metrics]:
        """Take a step; counts its floating-point operations, and not the time to compile."""
        shapes = tuple((name, array.shape) for name, array in sorted(batch.items()))
        if shapes not in self._compiled:
            begin = time.perf_counter()
            lowered = self._jitted.lower(state, frozen, batch, key)
            flops = _flops(lowered, self._config)
            log.info("compiling a step of %.1f GFLOP", flops / 1e9)
            self._compiled[shapes] = lowered.compile(), flops
            self._throughput.leave_out(time.perf_counter() - begin)
        compiled, flops = self._compiled[shapes]
        self._throughput.count(flops)
        return compiled(state, frozen, batch, key)


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


def _export(config: TrainConfig, objective: Objective, state: TrainState) -> None:
    """Write what was trained, averaged, where the config says."""
    if config.export is None or jax.process_index() != 0:
        return
    step = int(state.step)
    facts = {"step": step, "examples": step * config.data.batch_size}
    objective.export(config.export, jax.device_get(state.ema_params), facts)
    log.info("wrote the averaged parameters to %s", config.export)
