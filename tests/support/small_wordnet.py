"""A small WordNet, as if fetched."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

from jaxdiff.data import wordnet


def put(folder: Path, monkeypatch, **parts: str) -> None:
    """Make `folder` the data's, with an archive of the parts, which is then the pinned one."""
    monkeypatch.setenv("JAXDIFF_DATA_DIR", str(folder))
    path = folder / "downloads" / "npm" / wordnet.WORDNET.archive
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for part, text in parts.items():
            info = tarfile.TarInfo(f"package/dict/{part}.noun")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    pinned = wordnet.WORDNET._replace(integrity=f"sha512-{digest}")
    monkeypatch.setattr(wordnet, "WORDNET", pinned)
