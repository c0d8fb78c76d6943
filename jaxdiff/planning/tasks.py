"""What `train.py` can do with a run beside training it: plan it, or compute its caches."""

import argparse
from collections.abc import Sequence

from jaxdiff.errors import UserError
from jaxdiff.training.config import TrainConfig
from jaxdiff.training.options import EFFORTS


def split_task(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the options from a command line that say what to do with a run, not what it is.

    They are --plan TOPOLOGY, --plan-batches, --plan-effort, --precompute and --stopped-exit-code.

    Raises:
      UserError: they contradict each other, or one lacks its value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--precompute", action="store_true")
    parser.add_argument("--plan")
    parser.add_argument("--plan-batches", action="store_true")
    parser.add_argument("--plan-effort", choices=(*EFFORTS, "none"))
    parser.add_argument("--stopped-exit-code", type=int, default=0)
    try:
        asked, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if asked.plan is None and (asked.plan_batches or asked.plan_effort):
        raise UserError("--plan-batches and --plan-effort need --plan TOPOLOGY, say v5e:4x4")
    if asked.plan is not None and asked.precompute:
        raise UserError("--plan and --precompute are two different things; give one of them")
    return asked, rest


def print_plan(preset: str, run: TrainConfig, asked: argparse.Namespace) -> None:
    """Print what a run would need on a topology.

    Raises:
      UserError: there is no such topology, or the run does not divide over it.
    """
    from jaxdiff.planning.batches import recommend
    from jaxdiff.planning.compiled import make_plan
    from jaxdiff.planning.report import render

    make = recommend if asked.plan_batches else make_plan
    print(render(make(run, asked.plan, asked.plan_effort), preset))


def print_caches(run: TrainConfig) -> None:
    """Compute a run's caches, and print their hashes.

    Raises:
      UserError: no cache is named, or something of the run cannot be used.
    """
    from jaxdiff.training.precompute import precompute

    for name, value in precompute(run).items():
        print(name, value)
