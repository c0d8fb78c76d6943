"""Data sets of the TFDS format as sources, read without TensorFlow.

`tensorflow_datasets` is imported inside the functions: sampling and folders do without it.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

from jaxdiff.data.images import decode_image, square
from jaxdiff.data.sources import DataConfig, Example
from jaxdiff.errors import UserError, choose

_CAPTION_FIELDS = ("caption", "captions", "text", "prompt")


def prepare(builder: Any) -> None:
    """Build the data set unless it lies there ready.

    Raises:
      UserError: the folder can not be written.
    """
    import tensorflow_datasets as tfds

    if builder.data_path.exists():
        return
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    root = Path(builder.data_dir).parents[2]
    try:
        builder.download_and_prepare(download_dir=root / "downloads", file_format="array_record")
    except PermissionError as error:
        raise UserError(f"can not write the data set to {root}: {error.strerror}") from error


class TfdsSource:
    """A prepared data set with an image feature and a caption or label feature.

    Pictures are cropped to their central square and resized to `config.resolution`.

    Raises:
      UserError: the split or the features are not there, or the files allow no random access.
    """

    def __init__(self, builder: Any, config: DataConfig):
        import tensorflow_datasets as tfds

        self._name = builder.info.full_name
        choose(f"split of {self._name}", config.split.split("[")[0], builder.info.splits)
        features = builder.info.features
        self._image = _find_image(self._name, features)
        self._caption, self._labels = _find_caption(self._name, features, config.caption_field)
        self._template, self._resolution = config.label_template, config.resolution
        try:
            self._rows = builder.as_data_source(
                config.split, decoders={self._image: tfds.decode.SkipDecoding()}
            )
        except (NotImplementedError, ValueError) as error:
            raise UserError(
                f"data set {self._name} at {builder.data_dir} is not in the array_record format;"
                " prepare it with download_and_prepare(file_format='array_record')"
            ) from error

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        row = self._rows[index]
        example = {
            key: value.decode()
            for key, value in row.items()
            if isinstance(value, bytes) and key != self._image
        }
        name = example.setdefault("id", f"{self._name}:{index}")
        picture = decode_image(row[self._image], name)
        example["image"] = square(picture, self._resolution)
        example["caption"] = self._caption_of(row[self._caption])
        return example

    def _caption_of(self, value: Any) -> str:
        if self._labels is not None:
            name = self._labels.int2str(int(value)).replace("_", " ")
            return self._template.format(name=name)
        if not isinstance(value, (bytes, str)):  # several captions: the first
            value = value[0]
        return value.decode() if isinstance(value, bytes) else value


def _find_image(name: str, features: Any) -> str:
    import tensorflow_datasets as tfds

    for key, feature in features.items():
        if isinstance(feature, tfds.features.Image):
            return key
    raise UserError(f"data set {name} has no image feature, only: {', '.join(sorted(features))}")


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
        f"data set {name} has no caption or label feature, only: {', '.join(sorted(features))};"
        " name one with --data.caption-field"
    )


def find_builder(name: str, folder: Path) -> Any:
    """The prepared data set `name` ("mnist", "cifar10:3.0.2") under `folder`.

    Raises:
      UserError: TFDS knows no such data set, or it is not prepared.
    """
    import tensorflow_datasets as tfds

    missing = UserError(
        f"data set {name!r} is not prepared under {folder}; run: tfds build {name}"
        f" --file_format=array_record --data_dir={folder}"
    )
    with contextlib.suppress(tfds.core.DatasetNotFoundError):
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=str(folder))
        return builder
    try:
        tfds.builder_cls(name.split(":")[0].split("/")[0])
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS has no data set {name!r}, and none lies under {folder}") from None
    raise missing
