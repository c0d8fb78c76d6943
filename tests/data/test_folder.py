"""Folders of pictures and TFDS data sets: what is read, what is refused, and in which words."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import folder
from jaxdiff.data.images import CorruptImage, decode_image, encode_png, square
from jaxdiff.data.pipeline import DataConfig, make_batches, make_source
from jaxdiff.data.sources import captions_of
from jaxdiff.errors import UserError


def config(folder, **changes):
    return DataConfig(source=f"folder:{folder}", resolution=8, **changes)


def test_metadata_in_its_order(pictures):
    source = make_source(config(pictures))
    assert captions_of(source) == [f"cat number {index}" for index in range(8)]
    assert source[3]["id"] == "3.png"
    assert source[3]["image"].shape == (8, 8, 3) and source[3]["image"].dtype == np.uint8


def test_caption_is_another_word_for_text(pictures):
    (pictures / "metadata.jsonl").write_text('{"file_name": "1.png", "caption": " a dog "}\n\n')
    assert captions_of(make_source(config(pictures))) == ["a dog"]


def test_sidecars_in_sorted_order(pictures):
    (pictures / "metadata.jsonl").unlink()
    (pictures / "sub").mkdir()
    (pictures / "5.png").rename(pictures / "sub" / "a.PNG")
    (pictures / "sub" / "a.txt").write_text("a horse\n")
    (pictures / "0.txt").write_text("a cow")
    source = make_source(config(pictures))
    assert captions_of(source) == ["a cow", "a horse"]
    assert len(source.skipped) == 6 and "has no caption" in source.skipped[0]


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_corrupt_picture_is_named_skipped_and_counted(pictures, caplog, memory_mb):
    whole = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "7.png").write_text("no picture")
    with caplog.at_level(logging.WARNING):
        source = make_source(config(pictures, memory_mb=memory_mb))
        ids = [source[index]["id"] for index in range(len(source))]
    assert set(ids) == {f"{index}.png" for index in (0, 1, 3, 4, 5, 6)}
    assert len(source.skipped) == 2
    assert "2.png" in source.skipped[0] and "7.png: no known format" in source.skipped[1]
    assert "2.png" in caplog.text
    if memory_mb:
        assert "skipped 2 of 8 pictures" in caplog.text
    else:  # the next readable one stands in
        assert source.skipped[1].endswith("(2 of 8 pictures so far)")
        assert ids[2] == "3.png" and ids[7] == "0.png"


def test_strict_stops_at_a_corrupt_picture(pictures):
    (pictures / "2.png").write_text("no picture")
    with pytest.raises(UserError, match=r"can not read the picture .*2\.png: no known format"):
        make_source(config(pictures, strict=True))


def test_strict_reads_all_before_the_first_batch(pictures):
    for name in ("2.png", "5.png"):
        (pictures / name).write_text("no picture")
    with pytest.raises(UserError, match=r"^2 of 8 pictures can not be read; .*2\.png"):
        make_source(config(pictures, strict=True, memory_mb=0))


def test_all_corrupt(pictures):
    for path in pictures.glob("*.png"):
        path.write_text("no picture")
    with pytest.raises(UserError, match="no picture can be read"):
        make_source(config(pictures))


def test_missing_file_is_named(pictures):
    (pictures / "4.png").unlink()
    assert "names 4.png, which is not there" in make_source(config(pictures)).skipped[0]
    with pytest.raises(UserError, match=r"4\.png"):
        make_source(config(pictures, strict=True))


@pytest.mark.parametrize("line", ["{", "[1, 2]", '{"text": "no name"}', "7"])
def test_damaged_metadata_names_the_line(pictures, line):
    (pictures / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "x"}\n' + line)
    with pytest.raises(UserError, match=r"metadata.jsonl, line 2: expected"):
        make_source(config(pictures))


def test_separators_of_unicode_stay_in_a_caption(pictures):
    text = "a\u2028b\x85c"
    row = json.dumps({"file_name": "1.png", "text": text}, ensure_ascii=False)
    (pictures / "metadata.jsonl").write_bytes(f"{row}\r\n".encode())
    assert captions_of(make_source(config(pictures))) == [text]


def test_files_that_are_no_text_are_named(pictures):
    metadata = pictures / "metadata.jsonl"
    metadata.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"metadata\.jsonl cannot be read: it is no UTF-8"):
        make_source(config(pictures))
    metadata.unlink()
    (pictures / "0.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"0\.txt cannot be read: it is no UTF-8"):
        make_source(config(pictures))
    metadata.mkdir()
    with pytest.raises(UserError, match=r"metadata\.jsonl cannot be read: Is a directory"):
        make_source(config(pictures))


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        make_source(config(tmp_path))
    with pytest.raises(UserError, match="not there"):
        make_source(config(tmp_path / "nowhere"))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 pictures"):
        make_source(config(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("foldre:x", "did you mean 'folder'"),
        ("folder:", "names nothing"),
        ("emoji", "names nothing"),
        ("tfds:no_such_data_set", "TFDS has no data set"),
    ],
)
def test_unknown_sources(source, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make_source(DataConfig(source=source, data_dir=str(tmp_path)))


def test_crop_takes_the_middle_and_resize_averages():
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 200
    np.testing.assert_array_equal(square(Image.fromarray(wide), 8), np.full((8, 8, 3), 200))
    checks = np.indices((64, 64)).sum(0)[..., None] % 2 * np.full(3, 255, np.uint8)
    small = square(Image.fromarray(checks.astype(np.uint8)), 8)
    assert np.abs(small.astype(int) - 127).max() <= 2  # antialiased


def test_transparency_becomes_white():
    for mode, colour in (("RGBA", (9, 9, 9, 0)), ("LA", (9, 0))):
        assert (np.asarray(decode_image(png(Image.new(mode, (3, 3), colour)))) == 255).all()
    palette = Image.new("P", (3, 3), 0)
    palette.putpalette([10, 20, 30])
    assert decode_image(png(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode_image(png(palette)).getpixel((0, 0)) == (10, 20, 30)


def test_deep_grey_keeps_its_brightness():
    grey = Image.fromarray(np.full((3, 3), 128 * 257, np.uint16))
    assert decode_image(png(grey)).getpixel((1, 1)) == (128, 128, 128)


def test_pictures_stand_upright_by_their_exif():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned = decode_image(png(image, exif=exif))
    assert turned.size == (2, 4)
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


def test_png_round_trip_and_errors():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(decode_image(encode_png(image))), image)
    with pytest.raises(CorruptImage, match="the picture mine: "):
        decode_image(encode_png(image)[:50], "mine")


def png(image, **options):
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


@pytest.fixture
def labelled(tmp_path):
    """A prepared TFDS data set with an image and a class label."""
    import tensorflow_datasets as tfds

    class Shapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["big_cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index in range(4):
                image = encode_png(np.full((9 + index, 9, 3), 60 * index, np.uint8))
                yield index, {"image": io.BytesIO(image), "label": index % 2}

    tfds.disable_progress_bar()
    builder = Shapes(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    return builder


def test_tfds_labels_become_captions(labelled, tmp_path):
    base = DataConfig(source="tfds:shapes", resolution=8, data_dir=str(tmp_path))
    source = make_source(base)
    assert sorted(captions_of(source)) == ["a photo of big cat"] * 2 + ["a photo of dog"] * 2
    assert source.images.shape == (4, 8, 8, 3)
    template = DataConfig(
        source="tfds:shapes",
        resolution=8,
        data_dir=str(tmp_path),
        label_template="{name}!",
        memory_mb=0,
        split="train[:1]",
    )
    assert captions_of(make_source(template))[0] in ("big cat!", "dog!")
    wrong = DataConfig(source="tfds:shapes", data_dir=str(tmp_path), caption_field="labell")
    with pytest.raises(UserError, match="did you mean 'label'"):
        make_source(wrong)


def test_tfds_in_another_format_is_refused(labelled, tmp_path):
    path = labelled.data_path / "dataset_info.json"
    info = json.loads(path.read_text()) | {"fileFormat": "tfrecord"}
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="array_record"):
        make_source(DataConfig(source="tfds:shapes", resolution=8, data_dir=str(tmp_path)))


def test_tfds_unprepared_says_how_to_prepare(tmp_path):
    with pytest.raises(UserError, match="tfds build mnist --file_format=array_record"):
        make_source(DataConfig(source="tfds:mnist", data_dir=str(tmp_path)))


def test_a_caption_for_pictures_that_have_none(pictures):
    (pictures / "metadata.jsonl").unlink()
    (pictures / "3.txt").write_text("a horse")
    source = make_source(config(pictures, caption="a photo of a toy"))
    assert captions_of(source) == ["a photo of a toy"] * 3 + ["a horse"] + ["a photo of a toy"] * 4


@pytest.fixture
def conditioned(pictures):
    """`pictures`, each steered by its own negative at twice the size."""
    lines = []
    for index in range(8):
        image = Image.open(pictures / f"{index}.png")
        negative = Image.fromarray(255 - np.asarray(image)).resize((60, 2 * image.height))
        negative.save(pictures / f"n{index}.png")
        row = {"file_name": f"{index}.png", "text": "a cat", "conditioning": f"n{index}.png"}
        lines.append(json.dumps(row))
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    return pictures


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_conditioning_pictures_are_cropped_and_mirrored_alike(conditioned, memory_mb):
    data = config(conditioned, conditioning=True, memory_mb=memory_mb, batch_size=32)
    batch = next(make_batches(make_source(data), data, lambda captions: {}))
    image, steering = (batch[name].astype(int) for name in ("image", "conditioning"))
    assert np.corrcoef(image.ravel(), -steering.ravel())[0, 1] > 0.9
    assert len({image.tobytes() for image in batch["image"]}) > 8  # some are mirrored


def test_conditioning_that_is_missing_or_of_another_shape_is_named(conditioned):
    Image.new("RGB", (30, 90)).save(conditioned / "n2.png")
    (conditioned / "n5.png").unlink()
    rows = (conditioned / "metadata.jsonl").read_text().splitlines()
    rows[7] = json.dumps({"file_name": "7.png", "text": "x"})
    (conditioned / "metadata.jsonl").write_text("\n".join(rows))
    source = make_source(config(conditioned, conditioning=True))
    assert len(source) == 5
    skipped = " ".join(source.skipped)
    assert "n5.png, which is not there" in skipped and "30 x 90 pixels" in skipped
    assert "no conditioning picture for 7.png" in skipped
    (conditioned / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match=r"metadata\.jsonl is missing"):
        make_source(config(conditioned, conditioning=True))


def test_size_is_that_of_the_file(pictures):
    Image.new("RGB", (300, 200)).save(pictures / "1.png")
    np.testing.assert_array_equal(make_source(config(pictures))[1]["size"], [200, 300, 0, 2, 8, 8])


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_a_fingerprint_changes_with_a_pixel_and_with_the_order(pictures, memory_mb):
    def fingerprint(**changes):
        return make_source(config(pictures, memory_mb=memory_mb, **changes)).fingerprint()

    before = fingerprint()
    assert fingerprint() == before
    image = np.asarray(Image.open(pictures / "3.png")).copy()
    image[:, :, 0] = 255 - image[:, :, 0]
    Image.fromarray(image).save(pictures / "3.png")
    after = fingerprint()
    lines = (pictures / "metadata.jsonl").read_text().splitlines()
    (pictures / "metadata.jsonl").write_text("\n".join(reversed(lines)))
    assert len({before, after, fingerprint()}) == 3


def test_a_fingerprint_does_not_depend_on_where_pictures_are_kept(pictures):
    def fingerprints():
        opened = [make_source(config(pictures, memory_mb=mb)) for mb in (0, 100)]
        return [source.fingerprint() for source in opened]

    lazy, memory = fingerprints()
    assert lazy == memory
    (pictures / "2.png").write_bytes(b"no picture")  # left out in memory, replaced otherwise
    lazy, memory = fingerprints()
    assert lazy != memory


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_a_conditioning_picture_is_read_alone(conditioned, memory_mb, monkeypatch):
    source = make_source(config(conditioned, conditioning=True, memory_mb=memory_mb))
    expected, read = source[3]["conditioning"], []
    decode = folder.decode_image
    monkeypatch.setattr(
        folder, "decode_image", lambda path, **kw: read.append(path.name) or decode(path, **kw)
    )
    np.testing.assert_array_equal(source.conditioning(3), expected)
    assert len(read) == (0 if memory_mb else 1)
