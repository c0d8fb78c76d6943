"""Models by name from the Hugging Face hub, through `huggingface_hub` and its cache.

What is in the cache is used without asking the hub: a name draws the same pictures tomorrow, and
without a network. `hf download NAME` brings a newer version.
"""

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from jaxdiff.convert.tensors import PICKLES
from jaxdiff.convert.weight_files import DIFFUSERS_STEM, SHARD, STEMS, all_weight_files, choose_file
from jaxdiff.errors import UserError

_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"  # OWNER/NAME
# What a model is made of besides weights; nothing that could be a pickle.
_DESCRIPTION = ("*.json", "tokenizer/*.txt", "tokenizer_2/*.txt")
_FILES = (".safetensors", *PICKLES)  # what ends so is no repository
_PATIENCE = 20  # seconds
_PARTS = {"": DIFFUSERS_STEM, **STEMS}  # "": a ControlNet's, which has no parts


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
            "on the Hugging Face hub"
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
    """The cached directory of a repository's model, fetched if it is not there or not whole."""
    try:
        import huggingface_hub as library
        from huggingface_hub.errors import RepositoryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{name} is no path here; to fetch it from the Hugging Face hub, pip install "
            "'jaxdiff[hub]'"
        ) from error
    cached = _cached(name, variant)
    if cached is not None:
        return cached
    try:
        listed = library.HfApi().model_info(name, timeout=_PATIENCE).siblings or []
        weights = choose_weights([file.rfilename for file in listed], variant, name)
        patterns = [*_DESCRIPTION, *weights]
        return Path(library.snapshot_download(name, allow_patterns=patterns))
    except UserError:
        raise
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the Hugging Face hub has no {name}, or shows it only to some: accept its licence on "
            f"https://huggingface.co/{name}, then hf auth login"
        ) from error
    except Exception as error:  # offline: the errors of its HTTP client come through as they are
        files = f"*.{variant}.safetensors" if variant else "*.safetensors"
        raise UserError(
            f"{name} is not in the Hugging Face cache, and the hub cannot be reached "
            f"({type(error).__name__}); where it can, run: hf download {name} --include '*.json' "
            f"'*.txt' '{files}' --local-dir DIR; then copy DIR here and give DIR instead"
        ) from error


def _cached(name: str, variant: str | None) -> Path | None:
    """The cached directory of a repository, if all weights of the model are there."""
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        all_weight_files(folder, variant)
    except (OSError, ValueError):  # a UserError, too, is a ValueError
        return None
    return folder


def _folder(name: str) -> str:
    folder = str(PurePosixPath(name).parent)
    return "" if folder == "." else folder


def _is_shard(name: str) -> bool:
    return name.endswith(".safetensors") and re.search(SHARD, name) is not None


def _kind(name: str) -> set[str]:
    """Stem and variant of a file of weights, of a shard, or of an index."""
    return set(re.sub(SHARD, "", name).split(".")) - {"index", "json"}
