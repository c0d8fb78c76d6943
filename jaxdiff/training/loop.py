"""The training loop: set up, resume, step, log, draw, checkpoint, export. Read it top to bottom."""

import functools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from PIL import Image

from jaxdiff.data.sources import captions_of, glimpse, make_source
from jaxdiff.data.synonyms import names_digest
from jaxdiff.errors import UserError
from jaxdiff.heap import keep_heap
from jaxdiff.models import count_parameters
from jaxdiff.training.autoencoder import autoencoder_objective
from jaxdiff.training.begin import Begun, begin
from jaxdiff.training.checkpoint import Checkpoints
from jaxdiff.training.config import (
    AutoencoderObjective,
    ContrastiveObjective,
    DiffusionObjective,
    FinetuneObjective,
    SentenceObjective,
    TrainConfig,
)
from jaxdiff.training.config_json import shared_facts
from jaxdiff.training.contrastive import contrastive_objective
from jaxdiff.training.diffusion import diffusion_objective
from jaxdiff.training.dispatch import Steps, dispatches, feed
from jaxdiff.training.export import check_export
from jaxdiff.training.finetune import finetune_objective
from jaxdiff.training.hosts import (
    Preemption,
    all_say,
    code_version,
    gather,
    require_agreement,
    wait_for_all,
)
from jaxdiff.training.metrics import MetricsWriter, Throughput
from jaxdiff.training.objective import Objective
from jaxdiff.training.optimizer import make_optimizer
from jaxdiff.training.parallel import Runner, make_runner
from jaxdiff.training.sentence import sentence_objective
from jaxdiff.training.step import Metrics, TrainState
from jaxdiff.training.workdir import (
    about_run,
    check_about,
    check_inputs,
    check_workdir,
    checkpoint_dir,
    write_config,
    writing,
)

log = logging.getLogger(__name__)

OBJECTIVES: dict[type, Callable[..., Objective]] = {
    AutoencoderObjective: autoencoder_objective,
    ContrastiveObjective: contrastive_objective,
    SentenceObjective: sentence_objective,
    DiffusionObjective: diffusion_objective,
    FinetuneObjective: finetune_objective,
}
"""(run, source, work directory) -> what the loop needs to know."""


class NotFiniteError(UserError):
    """The loss or the gradient became NaN or infinite."""


class _Run(NamedTuple):
    """What the loop works with."""

    config: TrainConfig
    workdir: Path
    objective: Objective
    runner: Runner
    checkpoints: Checkpoints
    writer: MetricsWriter
    throughput: Throughput


def train(config: TrainConfig) -> TrainState:
    """Train, or resume, the run of `config.workdir` until `config.num_steps`.

    Returns:
      The final state, one copy of it; its step is an earlier one if SIGTERM told the run to stop.

    Raises:
      UserError: something of the config cannot be used; nothing has been compiled then.
      NotFiniteError: the loss became NaN; names the last good checkpoint.
    """
    # -- what is trained, on what, where
    require_agreement({**code_version(), **shared_facts(config)})
    runner = make_runner(config)
    workdir, objective = _prepare(config)

    # -- state, steps, where the numbers go
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    checkpoints = _checkpoints(config, objective)
    begun = begin(config.seed, objective, optimizer, runner, checkpoints)
    keep_heap(count_parameters((begun.state.params, begun.frozen)))
    throughput = Throughput(config.data.batch_size, config.num_steps)
    take_steps = Steps(config, runner, objective, optimizer, throughput)
    writer = MetricsWriter(workdir, config.num_steps, begun.step)
    run = _Run(config, workdir, objective, runner, checkpoints, writer, throughput)

    # -- the loop, the end
    state, step = _loop(run, begun, take_steps)
    writer.close()
    if step < config.num_steps:
        log.info("told to stop: step %d is saved; the same command goes on from there", step)
        return state
    _export(config, objective, state)
    wait_for_all("end of training")
    return state


def _loop(run: _Run, begun: Begun, take_steps: Steps) -> tuple[TrainState, int]:
    """Take steps until the last one, or SIGTERM; returns the state, one copy, and its step."""
    config, runner, start = run.config, run.runner, begun.step
    rows = run.objective.batches(begun.examples, runner.share)
    batches = feed(dispatches(start, config), rows, runner, config)
    state, batch, step = begun.state, next(batches, None), start
    with Preemption() as preemption:
        if _draws(config, start) and not _is_drawn(run, start):  # it was told to stop there
            _draw(run, start, state)
        run.throughput.start(start)
        for before, step in dispatches(start, config):
            state, metrics = take_steps(state, begun.frozen, batch, begun.key, step - before)
            batch = next(batches, None)  # fetched while the devices work
            last, stops = step == config.num_steps, preemption.reached(before, step)
            saves = last or stops or step % config.checkpoint_every == 0
            if saves or before == start or step % config.log_every == 0:
                _log(run, step, metrics)
            if saves:
                seen = begun.examples + (step - start) * config.data.batch_size
                run.checkpoints.save(step, runner.get(state), seen)
            if stops and not last:
                break
            if _draws(config, step):
                _draw(run, step, state)
                run.throughput.start(step)
        run.checkpoints.close()
    return runner.get(state), step


def _prepare(config: TrainConfig) -> tuple[Path, Objective]:
    """Check all that can be checked, open the data, build the objective, note what the run is."""
    workdir = check_workdir(config)
    check_export(config)
    source = make_source(config.data)
    names = names_digest(config.data, lambda: captions_of(source))
    objective = OBJECTIVES[type(config.objective)](config, source, workdir)
    objective = objective._replace(inputs={**objective.inputs, **names})
    check_inputs(config, objective.inputs)
    require_agreement({**objective.inputs, **glimpse(source)})
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write_config(config, objective.inputs)
            objective.keep(workdir)
    return workdir, objective


def _checkpoints(config: TrainConfig, objective: Objective) -> Checkpoints:
    """Those of the run, each of which says what run it is of."""
    about = about_run(config, objective.inputs)
    check = functools.partial(check_about, config, objective.inputs)
    return Checkpoints(checkpoint_dir(config), config.keep, about, check)


def _log(run: _Run, step: int, metrics: Metrics) -> None:
    """Write what a step found, if it is finite; notice a checkpoint that could not be written."""
    values = {name: float(value) for name, value in run.runner.get(metrics).items()}
    _require_finite(step, values, run.checkpoints)
    run.writer.write(step, {**values, **run.throughput.measure(step)})
    run.checkpoints.check_writing()


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


def _draws(config: TrainConfig, step: int) -> bool:
    """Whether a preview is drawn after a step."""
    every = config.preview.every
    return bool(every and step and (step == config.num_steps or step % every == 0))


def _preview_path(run: _Run, step: int) -> Path:
    return run.workdir / "previews" / f"{step:08d}.png"


def _is_drawn(run: _Run, step: int) -> bool:
    """Whether the first process, which draws, has the preview of a step."""
    return all_say(jax.process_index() != 0 or _preview_path(run, step).exists())


def _draw(run: _Run, step: int, state: TrainState) -> None:
    """Draw the preview from the averaged parameters, into `previews/` and TensorBoard."""
    average = gather(run.runner.get(state.ema_params))
    if jax.process_index() != 0:
        return
    picture = run.objective.preview(average)
    if picture is None:
        return
    path = _preview_path(run, step)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    run.writer.picture(step, "preview", picture)


def _export(config: TrainConfig, objective: Objective, state: TrainState) -> None:
    """Write what was trained, averaged, where the config says."""
    if config.export is None:
        return
    average, step = gather(state.ema_params), int(state.step)
    if jax.process_index() != 0:
        return
    facts = {"step": step, "examples": step * config.data.batch_size}
    with writing(config.export):
        objective.export(config.export, average, facts)
    log.info("wrote the averaged parameters to %s", config.export)
