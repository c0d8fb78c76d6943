"""Train a preset: `python train.py PRESET --workdir DIR [--field.subfield VALUE ...]`.

The same command again resumes. `python train.py PRESET --help` explains every field. Processes of
one run find each other on TPU pods, SLURM and Kubernetes; elsewhere start each with
--coordinator HOST:PORT --num-processes P --process-id p. With --plan v5e:16x16 (or another
topology) it says what the run would need there instead of training, and with --plan-batches too
which batch and mesh would be best; no accelerator is needed for that. With --precompute it fills
--data.cache with latents and text states, and trains nothing. Told to stop by SIGTERM, it saves and
exits with 0, or N with --stopped-exit-code N, for clusters that take 0 for a finished run.
"""

import logging
import sys

from jaxdiff import platform
from jaxdiff.cli import exit_code, or_exit, parse_or_explain

PLANS = any(word.startswith("--plan") for word in sys.argv)
or_exit(lambda: platform.configure(accelerator=not PLANS))

import tyro  # noqa: E402

from jaxdiff.errors import choose  # noqa: E402
from jaxdiff.planning.tasks import print_caches, print_plan, split_task  # noqa: E402
from jaxdiff.presets import PRESETS  # noqa: E402
from jaxdiff.training.config import TrainConfig  # noqa: E402
from jaxdiff.training.hosts import connect, exit_together, split_flags  # noqa: E402


def parse(arguments: list[str]) -> TrainConfig:
    """The config of a command line: a preset's name, then fields that differ from it.

    Raises:
      UserError: the preset or a field is unknown, or a value does not fit.
    """
    _, arguments = split_task(arguments)
    if arguments and not arguments[0].startswith("-"):
        choose("preset", arguments[0], PRESETS)
    return parse_or_explain(
        lambda: tyro.extras.overridable_config_cli(
            PRESETS, prog="train.py", description=__doc__, args=arguments
        )
    )


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input.

    Raises:
      SystemExit: training was told to stop, and another code was asked for then.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("jaxdiff").setLevel(logging.INFO)

    def run() -> None:
        hosts, options = split_flags(arguments)
        (asked, rest), config = split_task(options), parse(options)
        if asked.plan is not None:
            return print_plan(rest[0], config, asked)
        connect(hosts, stops_together=not asked.precompute)
        if asked.precompute:
            return print_caches(config)
        from jaxdiff.training.loop import train

        state = train(config)
        if asked.stopped_exit_code and int(state.step) < config.num_steps:
            sys.exit(asked.stopped_exit_code)  # no failure: it ends as usual

    return exit_together(lambda: exit_code(run))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
