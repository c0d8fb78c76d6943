"""Sets of pictures in and out: folders, OpenAI's `.npz`, corpora; captions; statistics."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.errors import UserError
from jaxdiff.evaluate.captions import read_captions, write_captions
from jaxdiff.evaluate.samples import open_samples, write_folder, write_npz
from jaxdiff.evaluate.statistics import (
    holds_statistics,
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


def test_corpus():
    samples = open_samples("shapes@heldout", 16)
    first = next(samples.batches())
    assert first.shape[1:] == (16, 16, 3) and len(samples.captions()) == samples.count


def test_captions_of_a_file(tmp_path):
    write_captions(tmp_path / "c.txt", ["a  b\nc", "é"])
    assert read_captions(tmp_path / "c.txt", 2) == ["a b c", "é"]
    with pytest.raises(UserError, match="has 2 captions for 3 pictures"):
        read_captions(tmp_path / "c.txt", 3)


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
    assert holds_statistics(tmp_path / "s.npz")


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


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(4)}, "sigma is missing"),
        ({"mu": np.zeros(4), "sigma": np.eye(5)}, "do not fit"),
        ({"mu": np.array([None]), "sigma": np.eye(1)}, "cannot be read as statistics"),  # pickled
    ],
)
def test_bad_statistics_are_refused(arrays, said, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    assert zipfile.is_zipfile(tmp_path / "s.npz")
    with pytest.raises(UserError, match=said):
        read_statistics(tmp_path / "s.npz", "pixels-16", trusted=True)
