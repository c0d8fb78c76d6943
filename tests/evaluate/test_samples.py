"""Sets of pictures in and out: folders, OpenAI's `.npz`, corpora; captions; statistics."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.errors import UserError
from jaxdiff.evaluate.captions import read_captions, write_captions
from jaxdiff.evaluate.files import require_writable
from jaxdiff.evaluate.measures import Score
from jaxdiff.evaluate.report import tell
from jaxdiff.evaluate.samples import open_samples, write_folder, write_npz
from jaxdiff.evaluate.statistics import (
    contents,
    read_statistics,
    statistics_of,
    write_statistics,
)


def _all(samples):
    return np.concatenate(list(samples.batches()))


def test_npz_both_ways(folder, tmp_path):
    """A folder as OpenAI's batch, which numpy reads, and back to the same pictures."""
    source = open_samples(folder("a", 70, 0))  # more than one batch
    pictures = _all(source)
    assert write_npz(tmp_path / "a.npz", source, ["é" * i for i in range(70)]) == (70, 16, 16, 3)
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(archive["arr_0"], pictures)
    packed = open_samples(tmp_path / "a.npz")
    assert packed.count == 70 and packed.captions()[3] == "ééé"
    np.testing.assert_array_equal(_all(packed), pictures)
    assert write_folder(tmp_path / "back", packed) == 70
    np.testing.assert_array_equal(_all(open_samples(tmp_path / "back")), pictures)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_numpy(save, tmp_path):
    """As guided-diffusion writes them, with labels behind."""
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    save(tmp_path / "x.npz", pictures, np.arange(5))
    samples = open_samples(tmp_path / "x.npz")
    np.testing.assert_array_equal(_all(samples), pictures)
    taken = samples.take([4, 1, 4])
    assert sorted(taken) == [1, 4]
    np.testing.assert_array_equal(taken[4], pictures[4])


def test_a_batch_whose_captions_do_not_fit(folder, tmp_path):
    """Too few, or damaged: named, and no half of a file is left behind."""
    source = open_samples(folder("a", 5, 0))
    write_npz(tmp_path / "a.npz", source, ["one", "two"])
    with pytest.raises(UserError, match="a.npz holds no list of 5 captions"):
        open_samples(tmp_path / "a.npz").captions()
    write_npz(tmp_path / "b.npz", source, ["five"] * 5)
    data = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(data.replace(b'"five"', b'"fine"', 1))
    with pytest.raises(UserError, match="b.npz is damaged"):
        open_samples(tmp_path / "b.npz").captions()


def test_a_damaged_picture_leaves_no_half_of_a_folder(folder, tmp_path):
    """Nor one that stands in the way of the next attempt."""
    source = folder("a", 70, 0)
    data = (source / "0069.png").read_bytes()
    (source / "0069.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="0069.png"):
        write_folder(tmp_path / "out", open_samples(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
    (source / "0069.png").write_bytes(data)
    assert write_folder(tmp_path / "out", open_samples(source)) == 70


def test_a_link_stays_and_what_it_leads_to_is_written(folder, tmp_path):
    """A file or an empty folder, there already or not."""
    source = open_samples(folder("a", 3, 0))
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "empty").mkdir()
    for name in ("empty", "new", "c.txt"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    for _ in range(2):
        write_captions(tmp_path / "c.txt", ["one"])
    for name in ("empty", "new"):
        assert write_folder(tmp_path / name, source) == 3
        assert len(list((tmp_path / "far" / name).iterdir())) == 3
    assert all((tmp_path / name).is_symlink() for name in ("empty", "new", "c.txt"))
    assert (tmp_path / "far" / "c.txt").read_text() == "one\n"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["c.txt", "empty", "new"]


def test_the_current_folder_is_filled(folder, tmp_path, monkeypatch):
    """By its own name, and after an attempt that failed or was killed."""
    source = folder("a", 70, 0)
    data = (source / "0069.png").read_bytes()
    (source / "0069.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "here" / ".unfinished.tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="0069.png"):
        write_folder(Path(), open_samples(source))
    assert not list(Path().iterdir())
    (source / "0069.png").write_bytes(data)
    assert write_folder(Path(), open_samples(source)) == len(list(Path().iterdir())) == 70


def test_devices_and_pipes_are_not_replaced(tmp_path):
    """Nor what the command prints to, by whatever name."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    names = (tmp_path / "pipe", tmp_path / "null", tmp_path / "loop", Path("/dev/stdout"))
    for path in names:
        for write in (require_writable, lambda path: write_captions(path, ["one"])):
            with pytest.raises(UserError, match="is a device, a pipe or what this command prints"):
                write(path)
    assert (tmp_path / "pipe").is_fifo() and Path(os.devnull).is_char_device()


def test_corpus():
    samples = open_samples("shapes@heldout", 16)
    first = next(samples.batches())
    assert first.shape[1:] == (16, 16, 3) and len(samples.captions()) == samples.count


def test_captions_of_a_file(tmp_path):
    write_captions(tmp_path / "c.txt", ["a  b\nc", "é"])
    assert read_captions(tmp_path / "c.txt", 2) == ["a b c", "é"]
    with pytest.raises(UserError, match="has 2 captions for 3 pictures"):
        read_captions(tmp_path / "c.txt", 3)


def test_half_a_character(folder, tmp_path):
    """A batch and scores hold it as JSON's escape; a text file cannot, and the line is named."""
    captions = ["one", "caf\udce9"]  # how Python reads a Latin-1 file name
    write_npz(tmp_path / "a.npz", open_samples(folder("a", 2, 0)), captions)
    assert open_samples(tmp_path / "a.npz").captions() == captions
    tell([[Score("x", 1.0)]], {"samples": captions, "sample pictures": [2]}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["samples"] == captions
    with pytest.raises(UserError, match=r"c.txt cannot be written: its line 2 would hold '.udce9'"):
        write_captions(tmp_path / "c.txt", captions)
    assert not (tmp_path / "c.txt").exists()


def test_pictures_of_several_sizes(folder):
    """Refused by name, unless all are to be cropped and resized."""
    path = folder("a", 3, 0)
    Image.new("RGB", (20, 30)).save(path / "0002.png")
    with pytest.raises(UserError, match=r"0002.png is 20 x 30 pixels .* 16 x 16: give --resol"):
        _all(open_samples(path))
    assert _all(open_samples(path, 8)).shape == (3, 8, 8, 3)


def _truncated(path):
    path.mkdir()
    Image.new("RGB", (64, 64)).save(path / "whole.png")
    data = (path / "whole.png").read_bytes()
    (path / "half.png").write_bytes(data[: len(data) // 2])
    return path


def _no_pictures(path):
    path.mkdir()
    (path / "notes.txt").write_text("none")
    return path


def _npz(**arrays):
    def write(path):
        np.savez(path.with_suffix(".npz"), **arrays)
        return path.with_suffix(".npz")

    return write


def _cut_npz(path):
    path = _npz(arr_0=np.zeros((9, 8, 8, 3), np.uint8))(path)
    path.write_bytes(path.read_bytes()[:900])
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_no_pictures, "holds no pictures"),
        (_truncated, "can not read the picture .*half.png"),
        (lambda path: path, "is no folder, no .npz and no SOURCE@SPLIT"),
        (_npz(x=np.zeros(3)), "holds no arr_0"),
        (_npz(arr_0=np.zeros((2, 4, 4, 3), np.float32)), r"should be uint8 .* not float32"),
        (_npz(arr_0=np.zeros((2, 4, 4), np.uint8)), r"not uint8 \[2, 4, 4\]"),
        (_cut_npz, "is damaged or no .npz"),
    ],
)
def test_bad_sets_are_refused(make, said, tmp_path):
    """One line that names the folder or the file."""
    path = make(tmp_path / "x")
    with pytest.raises(UserError, match=said) as caught:
        _all(open_samples(path))
    print(caught.value)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_captions_of_a_folder(folder, tmp_path, tiny_model):
    """From metadata.jsonl, from .txt files, or from the recipes of `sample.py`."""
    path = folder("a", 2, 0)
    with pytest.raises(UserError, match="carries no recipe"):
        open_samples(path).captions()
    for i in range(2):
        (path / f"000{i}.txt").write_text(f"caption {i}\n")
    assert open_samples(path).captions() == ["caption 0", "caption 1"]
    rows = [{"file_name": f"000{i}.png", "text": f"row {i}"} for i in (1, 0)]
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_samples(path).captions() == ["row 0", "row 1"]
    (path / "metadata.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(UserError, match="0000.png has no caption"):
        open_samples(path).captions()


# ------------------------------------------------------------------------------------ statistics


def test_statistics_both_ways(tmp_path):
    features = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    statistics = statistics_of(features, "pixels-16")
    for keep in (False, True):
        write_statistics(tmp_path / "s.npz", statistics, keep)
        again = read_statistics(tmp_path / "s.npz", "pixels-16")
        assert again.moments.count == 20 and (again.features is not None) == keep
        np.testing.assert_array_equal(again.moments.covariance, statistics.moments.covariance)
    assert contents(tmp_path / "s.npz") == (False, True)


def test_statistics_of_another_extractor_are_refused(tmp_path):
    features = np.random.default_rng(0).normal(size=(20, 4))
    write_statistics(tmp_path / "s.npz", statistics_of(features, "inception-tf1-0123abcd"))
    for trusted in (False, True):
        with pytest.raises(UserError, match="of the extractor inception-tf1-0123abcd .* pixels-16"):
            read_statistics(tmp_path / "s.npz", "pixels-16", trusted)


def test_statistics_of_other_tools(tmp_path):
    """They name no extractor: taken only by one who says so."""
    np.savez(tmp_path / "s.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(UserError, match="does not say which extractor .* --trust-reference"):
        read_statistics(tmp_path / "s.npz", "inception-tf1-0123abcd")
    found = read_statistics(tmp_path / "s.npz", "inception-tf1-0123abcd", trusted=True)
    assert found.moments.count == 0 and found.moments.mean.dtype == np.float64


def test_features_say_how_many_they_are(tmp_path):
    """Where a file of another tool gives no count."""
    np.savez(tmp_path / "s.npz", mu=np.zeros(4), sigma=np.eye(4), features=np.ones((7, 4)))
    found = read_statistics(tmp_path / "s.npz", "pixels-16", trusted=True)
    assert found.moments.count == len(found.features) == 7 and found.size is None


_GOOD = {"mu": np.zeros(4), "sigma": np.eye(4)}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(4)}, "sigma is missing"),
        ({"mu": np.zeros(4), "sigma": np.eye(5)}, "do not fit"),
        ({"mu": np.zeros(4), "sigma": np.full((4, 4), np.nan)}, "sigma holds .* no finite"),
        (_GOOD | {"features": np.full((2, 4), np.inf)}, "features holds what is no finite"),
        (_GOOD | {"features": np.full((2, 4), "x")}, "features holds what is no finite"),
        (_GOOD | {"features": np.zeros(4)}, r"4 pictures have no features \[4\]"),
        (_GOOD | {"size": 64}, "size should be 2 whole numbers, not 64"),
        (_GOOD | {"count": [3, 4]}, r"count should be a whole number, not \[3, 4\]"),
        (_GOOD | {"count": -1}, "count should be a whole number, not -1"),
        (_GOOD | {"count": 2.5}, "count should be a whole number, not 2.5"),
        (
            {"mu": np.zeros(4), "sigma": np.eye(4), "count": 3, "features": np.zeros((2, 4))},
            r"3 pictures have no features \[2, 4\]",
        ),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "cannot be read as statistics"),  # pickled
    ],
)
def test_bad_statistics_are_refused(arrays, said, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    assert zipfile.is_zipfile(tmp_path / "s.npz")
    with pytest.raises(UserError, match=said):
        read_statistics(tmp_path / "s.npz", "pixels-16", trusted=True)
