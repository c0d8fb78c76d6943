"""The training loop: set up, resume, step, log, draw, checkpoint, export. Read it top to bottom."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
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
from jaxdiff.training.checkpoint import Checkpoints
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
from jaxdiff.training.sharding import abstract, place
from jaxdiff.training.step import (
    Metrics,
    Params,
    TrainState,
    init_state,
    make_train_step,
    several_steps,
)
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
    runner = make_runner(config)
    workdir, objective = _prepare(config)

    # -- state
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep)
    key = on_every_device(jax.random.key(config.seed), runner)
    state, start, examples = first_state(objective, optimizer, runner, checkpoints, key)
    frozen = place(objective.frozen, runner.shardings(objective.frozen))
    state, frozen, key = (runner.put(tree) for tree in (state, frozen, key))

    # -- step, data, where the numbers go
    throughput = Throughput(config.data.batch_size, config.num_steps)
    step_fn = _Step(config, runner, objective, optimizer, throughput)
    dispatches = _dispatches(start, config)
    feed = _feed(dispatches, objective.batches(examples, runner.share), runner, config)
    batch = next(feed, None)
    writer = MetricsWriter(workdir, config.num_steps, start)
    throughput.start(start)

    # -- the loop
    for before, step in dispatches:
        state, metrics = step_fn(state, frozen, batch, key, step - before)
        batch = next(feed, None)  # fetched while the devices work
        last = step == config.num_steps
        saves = last or step % config.checkpoint_every == 0
        if saves or before == start or step % config.log_every == 0:
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


def first_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    runner: Runner,
    checkpoints: Checkpoints,
    key: Key[Array, ""],
) -> tuple[TrainState, int, int]:
    """The newest checkpoint's state or a fresh one, its step, and the examples consumed so far.

    Either way every array is made where it shall lie, and is never whole on one device.
    """

    def fresh(key: Key[Array, ""], given: Params) -> TrainState:
        params = objective.init(jax.random.fold_in(key, INIT_STEP), given)
        return init_state(params, optimizer)

    shapes = jax.eval_shape(fresh, key, objective.given)
    places = runner.shardings(shapes)
    restored = checkpoints.restore(abstract(shapes, places))
    if restored is None:
        given = place(objective.given, runner.shardings(objective.given))
        return jax.jit(fresh, out_shardings=places)(key, given), 0, 0
    log.info("resuming at step %d from %s", restored.step, checkpoints.directory)
    return restored.state, restored.step, restored.examples


def on_every_device(key: Key[Array, ""], runner: Runner) -> Key[Array, ""]:
    """The key on the devices of all processes, each of which has it."""
    return jax.jit(lambda: jax.random.clone(key), out_shardings=runner.shardings(key))()


def _dispatches(start: int, config: TrainConfig) -> list[tuple[int, int]]:
    """(step before, last step) of every dispatch; all but the last end at a multiple."""
    every = config.steps_per_dispatch
    ends = [*range(start - start % every + every, config.num_steps, every), config.num_steps]
    return list(pairwise([start, *ends])) if start < config.num_steps else []


def _feed(
    dispatches: list[tuple[int, int]],
    batches: Iterator[dict[str, np.ndarray]],
    runner: Runner,
    config: TrainConfig,
) -> Iterator[dict[str, Any]]:
    """The batch of every dispatch, on the devices; where it takes several steps, one of each."""
    for before, step in dispatches:
        parts = [next(batches) for _ in range(step - before)]
        if config.steps_per_dispatch == 1:
            yield runner.put_batch(parts[0])
        else:
            yield runner.put_batch(jax.tree.map(lambda *each: np.stack(each), *parts))


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
        step = make_train_step(
            objective.loss,
            optimizer,
            learning_rate(config.optimizer, config.num_steps),
            config.ema,
            accumulate=config.optimizer.accumulate,
            axis_name=runner.axis_name,
        )
        self._run = step if config.steps_per_dispatch == 1 else several_steps(step)
        self._runner = runner

    def __call__(
        self,
        state: TrainState,
        frozen: Params,
        batch: dict[str, Any],
        key: Key[Array, "..."],
        steps: int,
    ) -> tuple[TrainState, Metrics]:
        """Take a dispatch's steps; counts their floating-point operations, not time to compile."""
        shapes = tuple((name, array.shape) for name, array in sorted(batch.items()))
        if shapes not in self._compiled:
            begin = time.perf_counter()
            lowered = self._runner.jit(self._run, state).lower(state, frozen, batch, key)
            flops = _flops(lowered, self._config)
            log.info("compiling a step of %.1f GFLOP", flops / 1e9)
            self._compiled[shapes] = lowered.compile(), flops
            self._throughput.leave_out(time.perf_counter() - begin)
        compiled, flops = self._compiled[shapes]
        self._throughput.count(flops * steps)
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
