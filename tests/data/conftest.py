"""A small corpus made on the spot: icon sets in the packages' own form, and folders of pictures."""

import base64
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

SHARED = [f"thing-{index}" for index in range(40)]
OWN = {style: [f"{style}-own-{index}" for index in range(5)] for style in ("noto", "twemoji")}


def drawing(name):
    """A rectangle whose colour and place depend on the name."""
    number = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    colour = f"#{number % 2**24:06x}"
    return {"body": f'<rect x="{number % 5}" y="1" width="9" height="11" fill="{colour}"/>'}


def icon_sets_content():
    """style -> icons.json, with every oddity that the real ones have."""
    plain = {name: drawing(name) for name in SHARED}
    sets = {
        style: {name: drawing(f"{style}{name}") for name in [*SHARED, *OWN.get(style, [])]}
        for style in ("noto", "fluent", "twemoji", "emojione")
    }
    sets["noto"] |= {
        "waving-hand": drawing("w"),
        "waving-hand-dark-skin-tone": drawing("w1"),
        "waving-hand-tone3": drawing("w2"),
        "old-secret": drawing("w3") | {"hidden": True},
        "flag-japan": drawing("f"),
        "grinning-cat": drawing("g"),
        "police-car": drawing("p1"),
        "police-car-light": drawing("p2"),
    }
    sets["fluent"] |= {
        "detective": drawing("d"),
        "detective-dark": drawing("d1"),
        "detective-medium-dark": drawing("d2"),
    }
    sets["emojione"] |= {"flag-for-japan": drawing("f2"), "smiling-cat": drawing("s")}
    sets["fxemoji"] = {name.replace("-", ""): drawing(f"fx{name}") for name in SHARED} | {
        "grinningcat": drawing("g2"),
        "japanflag": drawing("f3"),
        "clock1oclock": drawing("c"),
    }
    sets["openmoji"] = plain
    contents = {style: {"icons": icons, "width": 16, "height": 16} for style, icons in sets.items()}
    contents["noto"]["aliases"] = {"smiling-cat": {"parent": "grinning-cat"}}
    return contents


def pack(path, files):
    """Write {name: text} as an npm archive and return its integrity."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    digest = hashlib.sha512(path.read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


@pytest.fixture(scope="session")
def icon_packages(tmp_path_factory):
    """(data folder with the archives as if fetched, the table of sets that they stand for)."""
    from jaxdiff.data.icons import ICON_SETS

    folder = tmp_path_factory.mktemp("tfds")
    packages = folder / "downloads" / "npm"
    packages.mkdir(parents=True)
    table = {}
    for style, content in icon_sets_content().items():
        files = {
            "icons.json": json.dumps(content),
            "info.json": json.dumps({"author": {"name": f"{style} artist"}}),
        }
        integrity = pack(packages / ICON_SETS[style].archive, files)
        table[style] = ICON_SETS[style]._replace(integrity=integrity)
    return folder, table


@pytest.fixture
def emoji_dir(icon_packages, monkeypatch):
    """Data folder in which the emoji corpus is built from the small icon sets."""
    pytest.importorskip("resvg_py")
    from jaxdiff.data import emoji

    folder, table = icon_packages
    monkeypatch.setattr(emoji, "ICON_SETS", table)
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    """Folder with eight captioned pictures; their sides and colours differ."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(8):
        image = rng.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": f"cat number {index}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path


class Toy:
    """A source of n pictures; picture i is asymmetric and holds the number i."""

    def __init__(self, n=23, caption="cat face, noto style", shapes=None):
        self.n, self.text, self.shapes = n, caption, shapes

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        height, width = (4, 4) if self.shapes is None else self.shapes[index]
        image = np.zeros((height, width, 3), np.uint8)
        image[:, : width // 2] = index % 255 + 1
        return {"image": image, "caption": self.text, "id": str(index)}


@pytest.fixture
def toy():
    """The class of toy sources."""
    return Toy


def letters(captions):
    """Tokens that say only whether there is a caption."""
    return {"tokens": np.array([[len(caption)] for caption in captions], np.int32)}


@pytest.fixture
def tokenize():
    """A tokenizer that gives the length of each caption."""
    return letters
