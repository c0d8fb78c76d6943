"""`python -m jaxdiff.evaluate`, from pictures on disk to the table."""

import json

import numpy as np
import pytest
from rectangles import make_pictures, write_pictures


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
    values = scores["scores"]["Fréchet distance"]
    assert float(mean) == pytest.approx(np.mean(values), rel=1e-3)
    assert float(std) == pytest.approx(np.std(values, ddof=1), rel=1e-3)
    assert scores["sample pictures"] == [60, 60] and scores["reference pictures"] == 120
    assert scores["scores"]["Fréchet distance, N to infinity"] == [None, None]
    assert _row(out, "Fréchet distance, N to infinity")[-1] == "needs 1538 pictures of both"
    assert "100 subsets of 30" in _row(out, "KID x 1000")[-1]
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


def test_pack_and_unpack(folder, evaluate):
    source = folder("real", 5, 0)
    assert evaluate("pack", source, "x.npz")[1] == ["wrote x.npz: arr_0 uint8 [5, 16, 16, 3]"]
    assert evaluate("unpack", "x.npz", "back")[1] == ["wrote 5 pictures to back"]
    code, _, err = evaluate("unpack", "x.npz", "back")
    assert code == 2 and "back exists and is not empty" in err[0]
    code, out, _ = evaluate("compare", source, "back", "--few-samples", "--measures", "frechet")
    assert abs(float(_row(out, "Fréchet distance")[0])) < 1e-4


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


def test_diversity(folder, evaluate, tmp_path):
    folder("drawn", 6, 0)
    (tmp_path / "captions.txt").write_text("a\na\na\nb\nb\nc\n")
    code, out, _ = evaluate("diversity", "drawn", "--captions", "captions.txt")
    assert code == 0 and "2 prompts with 2.5 pictures each" in "\n".join(out)


def test_bits(folder, evaluate, tiny_model_dir, tmp_path):
    """The likelihood of pictures under a model, in batches of one size."""
    folder("real", 3, 0)
    (tmp_path / "captions.txt").write_text("red heart\ncat face\nred heart\n")
    words = ("bits", tiny_model_dir, "real", "--captions", "captions.txt", "--steps", 2)
    code, out, _ = evaluate(*words, "--batch-size", 2)
    mean, _, sets, pictures, _ = _row(out, "bits per latent number")
    assert code == 0 and (sets, pictures) == ("1", "3") and np.isfinite(float(mean))


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
    ],
)
def test_bad_input_is_one_line(words, said, folder, evaluate, tmp_path):
    folder("real", 9, 0), folder("drawn", 4, 1), folder("few", 3, 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    code, _, err = evaluate(*words.split())
    print(err[-1])
    assert code == 2 and said in err[-1]
    assert sum(line.startswith("error:") for line in err) == 1
