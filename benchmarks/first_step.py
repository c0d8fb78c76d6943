"""What passes between `train.py PRESET` and its first step, lap by lap, by the real parts.

Nothing is imported before its lap.
"""

import dataclasses
import importlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measuring


def stages(what: dict[str, Any], source: str | None, began: float) -> dict[str, Any]:
    """Seconds of each stage; called first in a process of its own.

    Args:
      what: a combination of `train_step`.
      source: what to train on, or None for the preset's.
      began: `time.time()` when the process was asked for.
    """
    laps = measuring.Laps(began)
    laps("start Python")
    importlib.import_module("jax")
    laps("import jax")
    importlib.import_module("train")  # what the command itself imports
    from benchmarks.train_step import configured
    from jaxdiff.training import loop

    laps("import jaxdiff")
    place = measuring.place()
    laps("start the devices")
    run = configured(what)
    if source is not None:
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, source=source))
    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(run, workdir=Path(folder))
        examples = loop.make_source(run.data)
        laps("open the data")
        objective = loop.OBJECTIVES[type(run.objective)](run, examples, run.workdir)
        laps("build the objective")
        _first_step(run, objective, laps)
    return {"seconds": laps.seconds, "place": place}


def _first_step(run: Any, objective: Any, laps: measuring.Laps) -> None:
    """The loop's way to its first step and through it."""
    import jax

    from jaxdiff.training import loop
    from jaxdiff.training.optimizer import learning_rate
    from jaxdiff.training.step import make_train_step

    runner, optimizer = loop.make_runner(run), loop.make_optimizer(run.optimizer, run.num_steps)
    key = loop.key_on_devices(run.seed, runner)
    checkpoints = loop.Checkpoints(loop.checkpoint_dir(run), run.keep)
    state, _, seen = loop.first_state(objective, optimizer, runner, checkpoints, key)
    frozen = jax.block_until_ready(loop.on_devices(objective.frozen, runner))
    jax.block_until_ready(state)
    laps("make the state")
    spans, batches = loop.dispatches(0, run), objective.batches(seen, runner.share)
    batch = next(loop.feed(spans, batches, runner, run))
    laps("first batch")
    rate = learning_rate(run.optimizer, run.num_steps)
    accumulate = run.optimizer.accumulate
    step = make_train_step(objective.loss, optimizer, rate, run.ema, accumulate=accumulate)
    lowered = runner.jit(step, state).lower(state, frozen, batch, key)
    laps("trace and lower")
    compiled = lowered.compile()
    laps("compile")
    jax.block_until_ready(compiled(state, frozen, batch, key))
    laps("first step")
    checkpoints.close()
