"""The training loop: set up, resume, step, log, draw, checkpoint, export. Read it top to bottom."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import jax
from PIL import Image

from jaxdiff.data.pipeline import make_source
from jaxdiff.errors import UserError
from jaxdiff.training.autoencoder import autoencoder_objective
from jaxdiff.training.begin import first_state, key_on_devices, on_devices
from jaxdiff.training.checkpoint import Checkpoints
from jaxdiff.training.config import (
    AutoencoderObjective,
    DiffusionObjective,
    FinetuneObjective,
    TrainConfig,
)
from jaxdiff.training.diffusion import diffusion_objective
from jaxdiff.training.dispatch import Steps, dispatches, feed
from jaxdiff.training.export import check_export
from jaxdiff.training.finetune import finetune_objective
from jaxdiff.training.hosts import (
    Preemption,
    code_version,
    gather,
    require_agreement,
    wait_for_all,
)
from jaxdiff.training.metrics import MetricsWriter, Throughput
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.parallel import make_runner
from jaxdiff.training.step import Params, TrainState
from jaxdiff.training.workdir import (
    check_inputs,
    check_workdir,
    checkpoint_dir,
    shared_facts,
    write_config,
)

log = logging.getLogger(__name__)

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
    require_agreement({**code_version(), **shared_facts(config)})
    runner = make_runner(config)
    workdir, objective = _prepare(config)

    # -- state
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    checkpoints = Checkpoints(checkpoint_dir(config), config.keep)
    key = key_on_devices(config.seed, runner)
    state, start, examples = first_state(objective, optimizer, runner, checkpoints, key)
    frozen = on_devices(objective.frozen, runner)
    state, frozen, key = (runner.put(tree) for tree in (state, frozen, key))

    # -- steps, data, where the numbers go
    throughput = Throughput(config.data.batch_size, config.num_steps)
    take_steps = Steps(config, runner, objective, optimizer, throughput)
    spans = dispatches(start, config)
    batches = feed(spans, objective.batches(examples, runner.share), runner, config)
    batch = next(batches, None)
    writer = MetricsWriter(workdir, config.num_steps, start)
    throughput.start(start)

    # -- the loop
    with Preemption() as preemption:
        for before, step in spans:
            state, metrics = take_steps(state, frozen, batch, key, step - before)
            batch = next(batches, None)  # fetched while the devices work
            last, stops = step == config.num_steps, preemption.reached(before, step)
            saves = last or stops or step % config.checkpoint_every == 0
            if saves or before == start or step % config.log_every == 0:
                values = {name: float(value) for name, value in runner.get(metrics).items()}
                _require_finite(step, values, checkpoints)
                writer.write(step, {**values, **throughput.measure(step)})
            if saves:
                seen = examples + (step - start) * config.data.batch_size
                checkpoints.save(step, runner.get(state), seen)
            if stops:
                break
            if config.preview.every and (last or step % config.preview.every == 0):
                _draw(step, objective, runner.get(state.ema_params), workdir, writer)
                throughput.start(step)
        checkpoints.close()

    # -- the end
    writer.close()
    state = runner.get(state)
    if spans and step < config.num_steps:
        log.info("told to stop: step %d is saved; the same command goes on from there", step)
        return state
    _export(config, objective, state)
    wait_for_all("end of training")
    return state


def _prepare(config: TrainConfig) -> tuple[Path, Objective]:
    """Check all that can be checked, open the data, build the objective, note what the run is."""
    workdir = check_workdir(config)
    check_export(config)
    source = make_source(config.data)
    objective = OBJECTIVES[type(config.objective)](config, source, workdir)
    check_inputs(config, objective.inputs)
    require_agreement(objective.inputs)
    workdir.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        write_config(config, objective.inputs)
        objective.keep(workdir)
    return workdir, objective


def _require_finite(step: int, values: dict[str, float], checkpoints: Checkpoints) -> None:
    """Stop at a loss or gradient that is none."""
    bad = [name for name in ("loss", "grad_norm") if not math.isfinite(values[name])]
    if bad:
        checkpoints.finish()
        raise NotFiniteError(
            f"{' and '.join(bad)} not finite at step {step}; training stopped, nothing was saved "
            f"since the last good checkpoint: {checkpoints.newest()}. Lower the learning rate or "
            "clip more, and run the command again"
        )


def _draw(
    step: int, objective: Objective, average: Params, workdir: Path, writer: MetricsWriter
) -> None:
    """Draw the preview from the averaged parameters, into `previews/` and TensorBoard."""
    average = gather(average)
    if jax.process_index() != 0:
        return
    picture = objective.preview(average)
    if picture is None:
        return
    folder = workdir / "previews"
    folder.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / f"{step:08d}.png")
    writer.picture(step, "preview", picture)


def _export(config: TrainConfig, objective: Objective, state: TrainState) -> None:
    """Write what was trained, averaged, where the config says."""
    if config.export is None:
        return
    average, step = gather(state.ema_params), int(state.step)
    if jax.process_index() != 0:
        return
    facts = {"step": step, "examples": step * config.data.batch_size}
    objective.export(config.export, average, facts)
    log.info("wrote the averaged parameters to %s", config.export)
