"""Models by name from the Hugging Face hub, through `huggingface_hub` and its cache."""

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from jaxdiff.convert.tensors import PICKLES
from jaxdiff.convert.weight_files import DIFFUSERS_STEM, TRANSFORMERS_STEM, choose_file
from jaxdiff.errors import UserError

_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"  # OWNER/NAME
# What a model is made of besides weights; nothing that could be a pickle.
_DESCRIPTION = ("*.json", "tokenizer/*.txt", "tokenizer_2/*.txt")
_FILES = (".safetensors", *PICKLES)  # what ends so is no repository
_SHARD = r"-\d{5}-of-\d{5}"
_PARTS = {
    "": DIFFUSERS_STEM,  # a ControlNet, which has no parts
    "unet": DIFFUSERS_STEM,
    "vae": DIFFUSERS_STEM,
    "text_encoder": TRANSFORMERS_STEM,
    "text_encoder_2": TRANSFORMERS_STEM,
}


def locate(where: str | Path, variant: str | None = None) -> Path:
    """A path that exists, or the directory that a name on the hub was fetched to.

    Args:
      where: a directory, a file, or OWNER/NAME.
      variant: of the weight files to fetch.

    Raises:
      UserError: there is nothing of that name, or the hub cannot be reached.
    """
    path = Path(where)
    if path.exists():
        return path
    if not re.fullmatch(_NAME, str(where)) or path.parent.is_dir() or path.suffix in _FILES:
        raise UserError(
            f"{where} does not exist; give a model directory, a .safetensors file or OWNER/NAME "
            "on the Hugging Face hub with --model"
        )
    return _fetch(str(where), variant)


def cached_file(name: str, file: str) -> Path | None:
    """A file of a repository, if it is in the cache; asks nobody."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None


def choose_weights(names: Collection[str], variant: str | None, source: str) -> list[str]:
    """The safetensors files to fetch, among all files of a repository.

    Args:
      names: paths in the repository.
      variant: as for `weight_files`.
      source: the repository, for messages.

    Raises:
      UserError: a part has only pickles, or no such variant.
    """
    chosen = []
    for folder, stem in _PARTS.items():
        inside = [Path(name).name for name in names if _folder(name) == folder]
        if not (folder in map(_folder, names) if folder else "config.json" in inside):
            continue
        file = choose_file(inside, stem, variant, f"{source}/{folder}".rstrip("/"))
        kind = _kind(file)
        files = [
            name for name in inside if name == file or (_is_shard(name) and _kind(name) == kind)
        ]
        chosen += [str(PurePosixPath(folder, name)) for name in files]
    return chosen


def _fetch(name: str, variant: str | None) -> Path:
    """Fetch a repository's model into the cache, or find it there."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{name} is no path here; to fetch it from the Hugging Face hub, pip install "
            "'jaxdiff[hub]'"
        ) from error
    try:
        names = huggingface_hub.list_repo_files(name)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the Hugging Face hub has no {name}, or shows it only to some: accept its licence on "
            f"https://huggingface.co/{name}, then hf auth login"
        ) from error
    except Exception as error:  # offline; the library lets the errors of its HTTP client through
        return _cached(name, variant, error)
    patterns = [*_DESCRIPTION, *choose_weights(names, variant, name)]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise UserError(
            f"{name} could not be fetched from the Hugging Face hub: {error}"
        ) from error


def _cached(name: str, variant: str | None, reason: Exception) -> Path:
    """What the cache has of a repository."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        files = f"*.{variant}.safetensors" if variant else "*.safetensors"
        raise UserError(
            f"{name} is not in the Hugging Face cache, and the hub cannot be reached "
            f"({type(reason).__name__}); where it can, run: hf download {name} --include '*.json' "
            f"'*.txt' '{files}' --local-dir DIR; then copy DIR here and give it with --model DIR"
        ) from error


def _folder(name: str) -> str:
    folder = str(PurePosixPath(name).parent)
    return "" if folder == "." else folder


def _is_shard(name: str) -> bool:
    return name.endswith(".safetensors") and re.search(_SHARD, name) is not None


def _kind(name: str) -> set[str]:
    """Stem and variant of a file of weights, of a shard, or of an index."""
    return set(re.sub(_SHARD, "", name).split(".")) - {"index", "json"}
