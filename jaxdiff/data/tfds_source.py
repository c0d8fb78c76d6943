"""Data sets of the TFDS format as sources, read without TensorFlow.

`tensorflow_datasets` is imported inside the functions: sampling and folders do without it.
"""

import contextlib
import fcntl
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdiff.data.config import DataConfig
from jaxdiff.data.corpus import Example
from jaxdiff.data.images import decode_image, square
from jaxdiff.errors import UserError, choose

_CAPTION_FIELDS = ("caption", "captions", "text", "prompt")


def data_folder(data_dir: str = "") -> Path:
    """The folder of TFDS data sets: `data_dir`, else $JAXDIFF_DATA_DIR, else a cache folder."""
    chosen = data_dir or os.environ.get("JAXDIFF_DATA_DIR") or "~/.cache/jaxdiff/tfds"
    return Path(chosen).expanduser()


def prepared_emoji(style: str, resolution: int, data_dir: str = "") -> Any:
    """The TFDS builder of the emoji corpus, which is fetched and rendered if it is missing.

    One process at a time builds; others that want the same wait for it.

    Raises:
      UserError: there is no such style, a package can not be fetched, or the folder not written.
    """
    from jaxdiff.data.emoji import emoji_builder

    folder = data_folder(data_dir)
    builder = emoji_builder(style, resolution, folder)
    if builder.data_path.exists():
        return builder
    if importlib.util.find_spec("resvg_py") is None:
        raise UserError("building the emoji corpus needs resvg-py: pip install 'jaxdiff[emoji]'")
    try:
        with _lock(folder / ".emoji.lock"):
            builder = emoji_builder(style, resolution, folder)
            _build(builder, folder)
    except OSError as error:
        raise UserError(f"can not build the emoji corpus in {folder}: {error}") from error
    return builder


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` among the processes of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(builder: Any, folder: Path) -> None:
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it does
        builder.download_and_prepare(download_dir=folder / "downloads", file_format="array_record")


class TfdsSource:
    """A prepared data set with an image feature and a caption or label feature.

    Pictures are cropped to their central square and resized to `config.resolution`.

    Raises:
      UserError: the split or the features are not there, or the files allow no random access.
    """

    def __init__(self, builder: Any, config: DataConfig):
        import tensorflow_datasets as tfds

        self.skipped: list[str] = []
        self._name = builder.info.full_name
        choose(f"split of {self._name}", config.split.split("[")[0], builder.info.splits)
        features = builder.info.features
        self._image = _find_image(self._name, features)
        self._caption, self._labels = _find_caption(self._name, features, config.caption_field)
        self._template, self._resolution = config.label_template, config.resolution
        decoders = {self._image: tfds.decode.SkipDecoding()}
        try:
            self._rows = builder.as_data_source(config.split, decoders=decoders)
        except (NotImplementedError, ValueError, AssertionError) as error:
            raise UserError(
                f"can not read split {config.split!r} of {self._name} in {builder.data_dir} at"
                " random; was it prepared with file_format='array_record'?"
                f" ({str(error).splitlines()[0]})"
            ) from error

    def __len__(self) -> int:
        """Number of examples in the split."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """The example with every text feature; `CorruptImage` if its picture is damaged."""
        row = dict(self._rows[index])
        example = self._texts(row, index)
        picture = decode_image(row[self._image], example["id"], at_least=2 * self._resolution)
        return {"image": square(picture, self._resolution), **example}

    def _texts(self, row: dict[str, Any], index: int) -> Example:
        texts = {key: value for key, value in row.items() if isinstance(value, bytes)}
        example = {key: texts[key].decode() for key in texts if key != self._image}
        return {
            "id": f"{self._name}:{index}",
            **example,
            "caption": self._caption_of(row[self._caption]),
        }

    def row(self, index: int) -> Example:
        """The example without its picture, which is not decoded."""
        return self._texts(dict(self._rows[index]), index)

    def _caption_of(self, value: Any) -> str:
        if self._labels is not None:
            name = self._labels.int2str(int(value)).replace("_", " ")
            return self._template.format(name=name)
        if not isinstance(value, (bytes, str)):  # several captions: the first
            value = value[0]
        return value.decode() if isinstance(value, bytes) else value


def _find_image(name: str, features: Any) -> str:
    import tensorflow_datasets as tfds

    images = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    if not images:
        raise UserError(f"data set {name} has no image feature, only {', '.join(sorted(features))}")
    return "image" if "image" in images else images[0]


def _find_caption(name: str, features: Any, wanted: str) -> tuple[str, Any]:
    """The feature that captions come from and, where it is a class label, that feature."""
    import tensorflow_datasets as tfds

    if wanted:
        choose(f"feature of {name}", wanted, features)
    labels = [key for key, value in features.items() if isinstance(value, tfds.features.ClassLabel)]
    for key in [wanted] if wanted else [*_CAPTION_FIELDS, *labels]:
        if key in features:
            return key, features[key] if key in labels else None
    raise UserError(
        f"data set {name} has no caption or label feature, only {', '.join(sorted(features))};"
        " name one with data.caption_field"
    )


def find_builder(name: str, data_dir: str = "") -> Any:
    """The prepared data set `name` ("mnist", "emoji/noto-64", "cifar10:3.0.2").

    Looked for in `data_folder(data_dir)` and, unless `data_dir` is given, where TFDS itself puts
    data sets.

    Raises:
      UserError: TFDS knows no such data set, or it is not prepared.
    """
    import tensorflow_datasets as tfds

    folder = data_folder(data_dir)
    for place in (folder,) if data_dir else (folder, None):
        with contextlib.suppress(tfds.core.DatasetNotFoundError):
            return tfds.core.read_only_builder.builder_from_files(
                name, data_dir=place and os.fspath(place)
            )
    try:
        tfds.builder_cls(name.partition("/")[0].partition(":")[0])
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS has no data set {name!r}, and none lies in {folder}") from None
    raise UserError(
        f"data set {name!r} is not prepared in {folder}; prepare it with:"
        f" tfds build {name} --file_format=array_record --data_dir={folder}"
    )
