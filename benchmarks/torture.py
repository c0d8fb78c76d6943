"""What happens to machines happens to one run: is its end that of a run that nobody disturbed?

`python benchmarks/torture.py [--kills 20] [--terms 5] [--damages 3] [--full 1]` prints a table.
One small run is ended so many times: by SIGKILL (every second time while a checkpoint is being
written), by SIGTERM, by SIGKILL with its newest checkpoint cut off or one bit of it flipped, and by
a full disk. After each end the same command goes on, after SIGKILL from at most two intervals of
checkpoints before. At last the checksums of its state, and all of its losses, are compared with
those of a run that was left alone; the exit code is 0 if they are equal.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVERY = 5  # steps between checkpoints
DISK = 64  # megabytes of the small disk that checkpoints go to
RUN = """emoji64-vae --data.source shapes --data.resolution 16 --data.batch-size 8
    --objective.autoencoder.sample-size 16 --objective.autoencoder.latent-channels 4
    --objective.autoencoder.block-out-channels 8 --objective.autoencoder.norm-num-groups 4
    --optimizer.schedule constant --preview.every 0 --log-every 1 --keep 3""".split()


class Run:
    """A work directory, its checkpoints, and the command that trains there."""

    def __init__(self, home: Path, name: str, steps: int):
        self.workdir, self.checkpoints = home / name, home / f"{name}-checkpoints"
        self.checkpoints.mkdir()
        paths = ["--workdir", str(self.workdir), "--checkpoints", str(self.checkpoints)]
        length = ["--num-steps", str(steps), "--checkpoint-every", str(EVERY)]
        self._command = [sys.executable, str(ROOT / "train.py"), *RUN, *paths, *length]
        self._log = home / f"{name}.log"

    def start(self) -> subprocess.Popen:
        """Begin or go on."""
        return subprocess.Popen(
            self._command, cwd=ROOT, stdout=self._log.open("w"), stderr=subprocess.STDOUT
        )

    def said(self) -> str:
        """What the last process printed."""
        return self._log.read_text()

    def resumed(self) -> int:
        """The step that the last process went on from."""
        found = re.search(r"resuming at step (\d+)", self.said())
        return int(found[1]) if found else 0

    def losses(self) -> dict[int, float]:
        """Step -> loss."""
        path = self.workdir / "metrics.jsonl"
        found = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # cut off by a kill
                continue
            found[row["step"]] = row["loss"]
        return found

    def step(self) -> int:
        """The last step that was logged."""
        return max(self.losses(), default=0)

    def finished(self) -> list[Path]:
        """The finished checkpoints."""
        return [path for path in self.checkpoints.iterdir() if path.name.isdigit()]

    def newest(self) -> Path:
        """The newest of them."""
        return max(self.finished(), key=lambda path: int(path.name))

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(path.name.endswith("-tmp") for path in self.checkpoints.iterdir())

    def checksums(self) -> list[int]:
        """Those of the newest checkpoint's state."""
        return json.loads((self.newest() / "data" / "metadata").read_text())["checksums"]


def wait(process: subprocess.Popen, until: Callable[[], bool]) -> bool:
    """Poll until something holds; False if the process has ended before."""
    while not until():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def let_it_work(run: Run, draw: random.Random) -> subprocess.Popen:
    """Start, and return at a random moment within the steps of two checkpoints."""
    process = run.start()
    wait(process, lambda: re.search(r"^step \d+/", run.said(), re.MULTILINE) is not None)
    goal = run.resumed() + draw.randrange(1, 2 * EVERY)
    wait(process, lambda: run.step() >= goal)
    time.sleep(draw.random() * 0.05)
    return process


def kill(run: Run, draw: random.Random, number: int) -> str:
    """SIGKILL; every second time while saving."""
    process = let_it_work(run, draw)
    while_saving = number % 2 == 0 and wait(process, run.saving)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    assert code == -signal.SIGKILL, run.said()
    return "while saving" if while_saving and run.saving() else ""


def term(run: Run, draw: random.Random, number: int) -> str:
    """SIGTERM: saves and exits with 0."""
    process = let_it_work(run, draw)
    process.send_signal(signal.SIGTERM)
    begin, code = time.monotonic(), process.wait()
    assert code == 0, run.said()
    saved = re.search(r"step (\d+) is saved", run.said())
    return f"saved step {saved[1]} in {time.monotonic() - begin:.1f} s" if saved else "was done"


def damage(run: Run, draw: random.Random, number: int) -> str:
    """SIGKILL, and the newest checkpoint is cut off or has one bit flipped."""
    process = let_it_work(run, draw)
    wait(process, lambda: len(run.finished()) > 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = run.newest()
    cut = number % 2 == 0  # of the index, all of which is read; bits, of the numbers it points at
    files = step.glob("state/d/*" if cut else "state/ocdbt.process_*/d/*")
    file = max(files, key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if cut:
        content = content[: draw.randrange(len(content))]
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(bytes(content))
    return f"checkpoint {step.name} {'cut off' if cut else 'with a bit flipped'}"


def full(run: Run, draw: random.Random, number: int) -> str:
    """The disk that checkpoints go to is filled: the run stops, and says so."""
    process = let_it_work(run, draw)
    ballast = run.checkpoints / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    code = process.wait()
    ballast.unlink()
    assert code == 2 and "No space left on device" in run.said(), run.said()
    said = re.search(r"^error: (.*?);", run.said(), re.MULTILINE)  # among what Orbax says
    assert said, run.said()
    return said[1]


ENDS = {"SIGKILL": kill, "SIGTERM": term, "damaged": damage, "full disk": full}


def torture(run: Run, ends: list[str], draw: random.Random) -> Iterator[tuple]:
    """End the run in all these ways; yields (way, ended at, went on from, what happened)."""
    counts = dict.fromkeys(ENDS, 0)
    happened: tuple | None = None
    for way in [*ends, None]:
        note = ENDS[way](run, draw, counts[way]) if way else _finish(run)
        if happened:
            if happened[0] == "damaged" and "is damaged" in run.said():
                happened = (*happened[:2], happened[2] + ", noticed")
            yield happened[0], happened[1], run.resumed(), happened[2]
        if way:
            counts[way] += 1
            happened = way, run.step(), note


def _finish(run: Run) -> str:
    code = run.start().wait()
    assert code == 0, run.said()
    return ""


def main() -> int:
    """Run, print the table, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("kills", 20), ("terms", 5), ("damages", 3), ("full", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    counts = options.kills, options.terms, options.damages, options.full
    ends = [way for way, count in zip(ENDS, counts, strict=True) for _ in range(count)]
    draw = random.Random(options.seed)
    draw.shuffle(ends)
    home = Path(tempfile.mkdtemp(prefix="torture-"))
    steps = 4 * EVERY * (len(ends) + 1)
    calm, run = Run(home, "calm", steps), Run(home, "tortured", steps)
    disk = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "torture", str(run.checkpoints)]
    if options.full and (os.geteuid() or subprocess.run(disk, check=False).returncode):
        sys.exit("a full disk needs a small one, which only root can mount; give --full 0")
    try:
        _finish(calm)
        print(f"{'':9}  {'ended at':>8}  {'went on from':>12}  {'lost':>4}", flush=True)
        for way, ended, went_on, note in torture(run, ends, draw):
            lost = max(ended - went_on, 0)
            print(f"{way:9}  {ended:8}  {went_on:12}  {lost:4}  {note}", flush=True)
            # Two: a checkpoint is begun when the one before is whole, which a kill may prevent.
            assert way != "SIGKILL" or lost <= 2 * EVERY
        state, losses = run.checksums() == calm.checksums(), run.losses() == calm.losses()
        words = {True: "the same", False: "OTHERS"}
        print(f"after {steps} steps and {len(ends)} ends: ", end="")
        print(f"{words[state]} {len(calm.checksums())} arrays, ", end="")
        print(f"{words[losses]} {len(calm.losses())} losses as of the run left alone")
        return 0 if state and losses else 1
    finally:
        if options.full:
            subprocess.run(["umount", str(run.checkpoints)], check=False)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
