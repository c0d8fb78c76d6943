"""`python -m jaxdiff.evaluate`, from pictures on disk to the table."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rectangles import make_pictures, write_pictures

from jaxdiff.evaluate import commands, extractors, samples
from jaxdiff.models import count_parameters


def _row(lines, name):
    """Mean, std, sets, pictures and note of a row."""
    row = next(line for line in lines if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_compare(folder, evaluate):
    """Mean and deviation over two sets, every row with its counts, also as JSON."""
    real, first, second = folder("real", 120, 0), folder("first", 60, 1), folder("second", 60, 2)
    code, out, err = evaluate(
        "compare", real, first, second, "--few-samples", "--json", "scores.json"
    )
    assert code == 0 and err == [
        f"{real}: 120 pictures",
        f"{first}: 60 pictures",
        f"{second}: 60 pictures",
    ]
    mean, std, sets, pictures, note = _row(out, "Fréchet distance")
    assert (sets, pictures) == ("2", "60") and "N = 60" in note
    scores = json.loads(open("scores.json").read())
    values = [each["value"] for each in scores["scores"]["Fréchet distance"]]
    assert float(mean) == pytest.approx(np.mean(values), rel=1e-3)
    assert float(std) == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert scores["sample pictures"] == [60, 60] and scores["reference pictures"] == 120
    assert [x["value"] for x in scores["scores"]["Fréchet distance, N to infinity"]] == [None] * 2
    assert scores["options"]["seed"] == 0 and scores["options"]["subset_size"] == 30
    assert _row(out, "Fréchet distance, N to infinity")[-1] == "needs 1538 pictures of both"
    assert scores["options"]["trust_reference"] is False and scores["options"]["resolution"] is None
    assert _row(out, "KID x 1000")[-1] == "unbiased; 100 subsets of 30"  # of both sets
    assert all(each["std"] > 0 for each in scores["scores"]["KID x 1000"])
    assert scores["scores"]["precision"][0]["std"] is None
    assert out[-1] == f"extractor pixels-16, reference {real}, reference pictures 120"


def test_compare_with_statistics(folder, evaluate):
    """The same numbers as from the pictures; without features only the Fréchet distance."""
    real, drawn = folder("real", 50, 0), folder("drawn", 40, 1)
    code, out, _ = evaluate("statistics", real, "real.npz", "--keep-features")
    assert code == 0 and out == ["wrote real.npz: 50 pictures, 768 features by pixels-16"]
    _, from_pictures, _ = evaluate("compare", real, drawn, "--few-samples")
    _, from_file, _ = evaluate("compare", "real.npz", drawn, "--few-samples")
    assert from_pictures[:-1] == from_file[:-1]
    evaluate("statistics", real, "small.npz")
    code, _, err = evaluate("compare", "small.npz", drawn, "--measures", "kid")
    assert code == 2 and "hold no features" in err[-1]


def test_sets_of_several_sizes_are_measured_alike(folder, evaluate):
    """One size of subsets, and a note that others differ."""
    for name, count in (("real", 60), ("few", 20), ("many", 60)):
        folder(name, count, count)
    _, out, _ = evaluate(
        "compare", "real", "many", "few", "--measures", "kid", "frechet", "kid", "--few-samples"
    )
    assert "100 subsets of 10" in _row(out, "KID x 1000")[-1]
    assert sum(line.startswith("| KID") for line in out) == 1
    note = _row(out, "Fréchet distance")[-1]
    assert note == "too large by about c / N at N = 60 (of the first set; --json has all)"


def test_a_reference_with_pictures_and_statistics(folder, evaluate, tmp_path):
    """As OpenAI's files: statistics of a whole set and some of its pictures."""
    drawn, real = folder("drawn", 40, 1), folder("real", 30, 0)
    _, whole, _ = evaluate("compare", "real", drawn, "--few-samples")
    evaluate("pack", real, "real.npz")
    with np.load(tmp_path / "real.npz") as archive:
        pictures = archive["arr_0"]
    zero = {"mu": np.zeros(768), "sigma": np.eye(768)}
    np.savez(tmp_path / "both.npz", pictures, **zero, mu_s=np.zeros(9))
    words = ("compare", "both.npz", drawn, "--few-samples")
    code, out, err = evaluate(*words)
    assert code == 0 and out[:-1] == whole[:-1] and "--trust-reference" in err[0]
    code, out, _ = evaluate(*words, "--trust-reference")
    assert code == 0 and _row(out, "KID x 1000") == _row(whole, "KID x 1000")
    assert float(_row(out, "Fréchet distance")[0]) > 700  # from a unit Gaussian of 768 numbers
    counts = "reference both.npz, reference pictures 30, pictures behind its mu and sigma"
    assert out[-1].endswith(f"{counts} ?")
    np.savez(tmp_path / "both.npz", pictures, **zero, count=5000)
    code, out, _ = evaluate(*words, "--trust-reference", "--json", "x.json")
    told = json.loads((tmp_path / "x.json").read_text())
    assert out[-1].endswith(f"{counts} 5000") and told["reference pictures"] == 30
    assert told["pictures behind its mu and sigma"] == 5000
    # As many as there are pictures of, not as the samples are or as the moments are of.
    for measure, needs in (("kid --subset-size 31", 31), ("manifold --neighbours 30", 31)):
        code, out, err = evaluate(*words, "--trust-reference", "--measures", *measure.split())
        assert code == 2 and f"needs at least {needs} reference pictures, not 30" in err[-1]
        assert len(err) == 1  # and before any feature is extracted


def test_the_size_of_a_set_is_compared_first(folder, evaluate, tiny_model_dir, monkeypatch):
    """Before the width of its features, which another size makes; it is read but once."""
    folder("real", 9, 0), folder("large", 9, 3, 24), folder("odd", 9, 4, 15)
    words = "--extractor", f"latents:{tiny_model_dir}", "--measures", "kid"
    evaluate("statistics", "real", "real.npz", "--keep-features", *words[:2])
    for name, size in (("large", "24 x 24"), ("odd", "15 x 15")):
        code, _, err = evaluate("compare", "real.npz", name, *words)
        assert code == 2 and f"are 16 x 16 and those of {name} {size}" in err[-1]
    read = []
    decode = samples.decode_image
    monkeypatch.setattr(samples, "decode_image", lambda file: read.append(file) or decode(file))
    code, _, _ = evaluate("compare", "real", "real", *words)
    assert code == 0 and len(read) == 4 * 9  # each set once for its size and once for its features


def test_pack_and_unpack(folder, evaluate):
    source = folder("real", 5, 0)
    assert evaluate("pack", source, "x.npz")[1] == ["wrote x.npz: arr_0 uint8 [5, 16, 16, 3]"]
    assert evaluate("unpack", "x.npz", "back")[1] == ["wrote 5 pictures to back"]
    code, _, err = evaluate("unpack", "x.npz", "back")
    assert code == 2 and "back exists and is not empty" in err[0]
    code, out, _ = evaluate("compare", source, "back", "--few-samples", "--measures", "frechet")
    assert abs(float(_row(out, "Fréchet distance")[0])) < 1e-4


def test_a_name_that_is_no_utf8(folder, tmp_path):
    """It is printed with escapes, as a whole command."""
    out = os.fsdecode(b"caf\xe9.npz")
    command = [sys.executable, "-m", "jaxdiff.evaluate", "pack", folder("real", 2, 0), out]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote caf\\udce9.npz: arr_0 uint8 [2, 16, 16, 3]\n"


def test_audit(tmp_path, evaluate):
    """Copies are found and shown, beside what they are copies of."""
    training = make_pictures(150, 0)
    drawn = make_pictures(40, 2)
    drawn[:6] = np.clip(training[20:26].astype(int) + 2, 0, 255)
    for name, pictures in (
        ("training", training),
        ("held", make_pictures(120, 1)),
        ("drawn", drawn),
    ):
        write_pictures(tmp_path / name, pictures)
    words = ("--training", "training", "--held-out", "held", "--page", "pairs.html", "--pairs", "8")
    code, out, _ = evaluate("audit", "drawn", *words)
    print("\n".join(out))
    assert code == 0 and out[-1] == "wrote pairs.html: 8 pairs"
    assert float(_row(out, "share nearer than unseen ones")[0]) >= 6 / 40
    assert float(_row(out, "p-value of the set")[0]) < 0.01
    page = (tmp_path / "pairs.html").read_text()
    assert page.count("<img") == 8 * 4 and page.count("class=f") >= 6
    assert all(f"no. {place}, " in page for place in range(6))
    assert all(f"no. {near}, 0.0" in page for near in range(20, 26))


def test_agreement(folder, evaluate, clip_folder, tmp_path):
    """Scores among the captions of a set, of equal tokens one, with the options beside them."""
    folder("drawn", 4, 0)
    (tmp_path / "captions.txt").write_text("red heart\ncat face\nred  heart\nred cat\n")
    words = ("--captions", "captions.txt", "--at", 1, 2, "--json", "x.json")
    code, out, _ = evaluate("agreement", "drawn", "--extractor", f"clip:{clip_folder}", *words)
    assert code == 0 and _row(out, "retrieval at 2")[-1] == "of 3 captions; chance 0.6667"
    told = json.loads((tmp_path / "x.json").read_text())["options"]
    assert told == {"captions": "captions.txt", "at": [1, 2], "resolution": None}


def test_diversity(folder, evaluate, tmp_path):
    folder("drawn", 6, 0)
    (tmp_path / "captions.txt").write_text("a\na\na\nb\nb\nc\n")
    folder("again", 6, 1)
    words = ("--captions", "captions.txt", "--resolution", 8, "--json", "x.json")
    code, out, _ = evaluate("diversity", "drawn", "again", *words)
    assert code == 0
    assert _row(out, "Vendi score of a prompt")[-1] == "2 prompts with 2.5 pictures each"  # of both
    told = json.loads((tmp_path / "x.json").read_text())
    assert told["options"] == {"captions": "captions.txt", "resolution": 8}
    assert all(each["std"] > 0 for each in told["scores"]["distance within a prompt"])


@pytest.fixture
def counted(monkeypatch):
    """The sizes of networks that the heap was kept by."""
    found = []
    for each in (commands, extractors):
        monkeypatch.setattr(each, "keep_heap", found.append)
    return found


def test_the_heap_is_kept_by_the_network(folder, evaluate, tiny_model, tiny_model_dir, counted):
    real, extractor = folder("real", 4, 0), f"latents:{tiny_model_dir}"
    assert evaluate("statistics", real, "real.npz", "--extractor", extractor)[0] == 0
    assert counted == [count_parameters(tiny_model.vae_params)]


def test_bits(folder, evaluate, tiny_model, tiny_model_dir, tmp_path, counted):
    """The likelihood of pictures under a model, in batches of one size."""
    folder("real", 3, 0)
    (tmp_path / "captions.txt").write_text("red heart\ncat face\nred heart\n")
    words = ("bits", tiny_model_dir, "real", "--captions", tmp_path / "captions.txt", "--steps", 2)
    code, out, _ = evaluate(*words, "--batch-size", 2, "--json", "x.json")
    options = json.loads((tmp_path / "x.json").read_text())["options"]
    assert options["captions"] == str(tmp_path / "captions.txt") and options["batch_size"] == 2
    mean, _, sets, pictures, _ = _row(out, "bits per latent number")
    assert code == 0 and (sets, pictures) == ("1", "3") and np.isfinite(float(mean))
    assert counted == [tiny_model.num_parameters]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare real drawn", "the Fréchet distance needs at least 769 reference pictures, not 9"),
        ("compare real drawn --measures fid", "unknown measure 'fid'"),
        ("compare real drawn --measures cmmd", "cmmd is of CLIP's embeddings"),
        ("compare real few --measures kid", "the kernel distance needs at least 4 samples, not 3"),
        ("compare real drawn --measures kid --subset-size 50", "needs at least 50 reference"),
        ("compare real drawn --measures manifold --neighbours 9", "at least 10 reference"),
        ("compare real", "name at least one set of samples"),
        ("compare nowhere drawn", "nowhere is no folder"),
        ("compare real empty", "the folder empty holds no pictures"),
        ("audit drawn --training real --held-out drawn", "at least 99 held out pictures, not 4"),
        ("agreement drawn --extractor pixels --captions two.txt", "has 2 captions for 4 pictures"),
        ("agreement drawn --extractor pixels --captions four.txt", "reads no texts"),
        ("diversity drawn --captions four.txt", "at least 2 pictures of a prompt, not 1"),
        ("compare real drawn --neighbours 0", "neighbours must be at least 1, not 0"),
        ("bits nowhere drawn --captions four.txt", "nowhere"),
        ("pack real x.zip", "x.zip should end in .npz"),
        ("compar real drawn", "compar"),
        ("compare real drawn --measures kid --seed -1", "seed must be at least 0, not -1"),
        ("compare real large --measures kid", "of real are 16 x 16 and those of large 24 x 24"),
        ("compare real drawn --measures kid --json no/x.json", "no is no folder to write to"),
        ("audit drawn --training real --held-out real --page empty", "empty is a folder"),
        ("statistics real x", "x should end in .npz"),
        ("compare s.npz drawn --few-samples --trust-reference", "is of 4 numbers for each picture"),
        ("compare bad.npz drawn", "bad.npz is damaged or no .npz"),
        ("unpack few two.txt/x", "two.txt/x cannot be made"),
    ],
)
def test_bad_input_is_one_line(words, said, folder, evaluate, tmp_path):
    folder("real", 9, 0), folder("drawn", 4, 1), folder("few", 3, 2)
    folder("large", 9, 3, 24)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "s.npz", mu=np.zeros(4), sigma=np.eye(4))
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    code, _, err = evaluate(*words.split())
    print(err[-1])
    assert code == 2 and said in err[-1]
    assert sum(line.startswith("error:") for line in err) == 1
