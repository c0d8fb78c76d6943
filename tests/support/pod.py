"""One process of a run: `python pod.py CONFIG.pickle REPORT [--coordinator ...]`.

REPORT-p.npz gets the final state, if it is whole here, the numbers of the examples that this
process read, and the names of the files of the work directory that it opened to write.
"""

import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jaxdiff import platform  # noqa: E402

platform.configure()

import logging  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
from toy import toy_objective  # noqa: E402

from jaxdiff.cli import exit_code  # noqa: E402
from jaxdiff.training import dispatch, hosts, loop  # noqa: E402
from jaxdiff.training.config import AutoencoderObjective  # noqa: E402

written: set[str] = set()
read: list[np.ndarray] = []


def _note_writing(workdir: Path) -> None:
    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_ACCMODE:
            path = Path(arguments[0])
            if path.is_relative_to(workdir):
                written.add(str(path.relative_to(workdir)))

    sys.addaudithook(hook)


def _note_reading() -> None:
    feed = dispatch.feed

    def noting(spans, batches, runner, config):
        def noted():
            for batch in batches:
                read.append(batch["example"])
                yield batch

        return feed(spans, noted(), runner, config)

    loop.feed = noting


def main() -> None:
    flags, (config_path, report) = hosts.split_flags(sys.argv[1:])
    config = pickle.loads(Path(config_path).read_bytes())
    hosts.connect(flags)
    _note_writing(config.workdir)
    _note_reading()
    loop.OBJECTIVES[AutoencoderObjective] = toy_objective
    state = loop.train(config)
    leaves = jax.tree.leaves(hosts.gather(state))
    np.savez(
        f"{report}-{jax.process_index()}.npz",
        *leaves,
        read=np.array(read),
        written=np.array(sorted(written), str),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("jaxdiff").setLevel(logging.INFO)
    sys.exit(hosts.exit_together(lambda: exit_code(main)))
