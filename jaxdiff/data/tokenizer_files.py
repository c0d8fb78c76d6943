"""A tokenizer's directory, in and out: the files that `transformers.CLIPTokenizer` reads.

    vocab.json   merges.txt   tokenizer_config.json   special_tokens_map.json

Read too: `tokenizer.json`, which holds vocabulary, merges and added tokens and counts before the
others, and `added_tokens.json`, where older versions list the tokens that a user has added.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken

from jaxdiff.bpe_bytes import byte_symbols
from jaxdiff.errors import UserError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


class Files(NamedTuple):
    """What the files of a tokenizer say."""

    vocab: dict[str, int]
    """Token -> id, added tokens included."""
    merges: list[tuple[str, str]]
    """Pairs of tokens, first merged first."""
    max_length: int
    """Tokens of an encoded text."""
    pad: str
    """The token to pad with."""
    added: tuple[AddedToken, ...]
    """Tokens that are found in a text before it is cut into words; start and end are such."""


def read_files(folder: Path | str) -> Files:
    """Read a tokenizer's directory.

    Raises:
      UserError: a file is missing or damaged; the message names it.
    """
    folder = Path(folder)
    source = folder / "tokenizer.json"
    if source.exists():
        vocab, merges, listed = _read_whole(source)
    else:
        source = folder / "vocab.json"
        vocab, merges, listed = _read_json(source), _read_merges(folder / "merges.txt"), {}
    if not all(map(_is_id, vocab.values())):
        raise UserError(f"the tokenizer's file {source} is damaged: an id is no number")
    config = _read_json(folder / "tokenizer_config.json", optional=True)
    if "added_tokens_decoder" in config:
        listed |= _read_listed(config["added_tokens_decoder"], folder / "tokenizer_config.json")
    else:  # older versions: two more files, of which the first counts before the config
        config |= _read_json(folder / "special_tokens_map.json", optional=True)
        more = _read_json(folder / "added_tokens.json", optional=True)
        listed |= {index: AddedToken(token) for token, index in more.items()}
    named = [token for key in _NAMED if (token := _named(config.get(key))) is not None]
    _number(vocab, listed, folder)
    pad = _named(config.get("pad_token")) or AddedToken(EOS)
    added = {token.content: token for token in [*named, *listed.values()]}  # the last one counts
    _require_merges(vocab, merges, {BOS, EOS, pad.content, *added}, source)
    known = sorted(added.keys() & vocab.keys(), key=vocab.__getitem__)
    return Files(
        vocab,
        merges,
        _max_length(config, folder),
        pad.content,
        tuple(added[name] for name in known),
    )


def write_files(folder: Path | str, files: Files) -> None:
    """Write vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    flags = {token.content: _flags(token) for token in files.added}
    names = dict(zip(_NAMED, (BOS, EOS, EOS, files.pad), strict=True))
    special = {key: _short(flags[name]) for key, name in names.items()}
    config: dict[str, Any] = {
        "model_max_length": files.max_length,
        "do_lower_case": True,
        "errors": "replace",
        "add_prefix_space": False,
        "tokenizer_class": "CLIPTokenizer",
    }
    for key, value in special.items():
        config[key] = value if isinstance(value, str) else {"__type": "AddedToken", **value}
    users = flags.keys() - set(names.values())
    if users:
        config["added_tokens_decoder"] = {str(files.vocab[name]): flags[name] for name in flags}
    vocab = {token: index for token, index in files.vocab.items() if token not in users}
    merges = "".join(f"{first} {second}\n" for first, second in files.merges)
    for name, text in (
        ("vocab.json", json.dumps(vocab, ensure_ascii=False)),
        ("merges.txt", f"#version: 0.2\n{merges}"),
        ("tokenizer_config.json", json.dumps(config, indent=2) + "\n"),
        ("special_tokens_map.json", json.dumps(special, indent=2) + "\n"),
    ):
        (folder / name).write_text(text, "utf-8")


def _flags(token: AddedToken) -> dict[str, Any]:
    return {flag: getattr(token, flag) for flag in _FLAGS}


def _short(flags: dict[str, Any]) -> str | dict[str, Any]:
    """A special token as its text alone, where its flags are what that text would get."""
    if not flags["normalized"]:
        return flags["content"]
    return {flag: value for flag, value in flags.items() if flag != "special"}


def _named(value: Any) -> AddedToken | None:
    """A special token as a config gives it: its text, or an object with flags."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return AddedToken(**{k: v for k, v in value.items() if k in _FLAGS} | {"special": True})
    return AddedToken(value, special=True) if isinstance(value, str) and value else None


def _number(vocab: dict[str, int], listed: dict[int, AddedToken], folder: Path) -> None:
    """Enter the listed tokens into the vocabulary."""
    taken = set(vocab.values())
    for index, token in listed.items():
        if token.content in vocab:
            continue
        if not _is_id(index) or index in taken:
            raise UserError(
                f"the tokenizer in {folder} is damaged: the id {index!r} of the added token "
                f"{token.content!r} is taken or no number"
            )
        vocab[token.content] = index


def _max_length(config: dict[str, Any], folder: Path) -> int:
    length = config.get("model_max_length", 77)
    if isinstance(length, bool) or not isinstance(length, int | float):
        raise UserError(
            f"the tokenizer's file {folder / 'tokenizer_config.json'} is damaged:"
            f" model_max_length is {length!r}, no number"
        )
    return int(length) if length < 10**6 else 77


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"the tokenizer lacks the file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the tokenizer's file {path} is damaged: {error}") from error


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"the tokenizer's file {path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"the tokenizer's file {path} is damaged: it holds no JSON object")
    return content


def _read_merges(path: Path) -> list[tuple[str, str]]:
    lines = _read_text(path).split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return _pairs(pairs, path)


def _read_whole(path: Path) -> tuple[dict, list[tuple[str, str]], dict[int, AddedToken]]:
    """Vocabulary, merges (pairs or "a b") and added tokens of a `tokenizer.json`."""
    content = _read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise UserError(f"{path} is no byte-pair tokenizer")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise UserError(f"the tokenizer's file {path} is damaged: it lacks vocab or merges")
    pairs = _pairs([m.split(" ") if isinstance(m, str) else m for m in merges], path)
    added = content.get("added_tokens", [])
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise UserError(f"the tokenizer's file {path} is damaged: added_tokens is no list")
    return vocab, pairs, _read_listed({entry.get("id"): entry for entry in added}, path)


def _read_listed(entries: Any, path: Path) -> dict[int, AddedToken]:
    """{id: flags} of added tokens; JSON writes an id as text where it is a key."""
    try:
        return {
            int(index): AddedToken(**{k: v for k, v in entry.items() if k in _FLAGS})
            for index, entry in entries.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"the tokenizer's file {path} is damaged: added tokens: {error}") from error


def _pairs(merges: list, path: Path) -> list[tuple[str, str]]:
    if any(len(pair) != 2 for pair in merges):
        raise UserError(f"the tokenizer's file {path} is damaged: a merge is not two tokens")
    return [tuple(pair) for pair in merges]


def _require_merges(
    vocab: dict[str, int], merges: list[tuple[str, str]], special: set[str], source: Path
) -> None:
    """Refuse merges cut short: every token is a byte symbol, special, or what a merge makes."""
    symbols = byte_symbols()
    made = {first + second for first, second in merges}
    unmade = set(vocab) - made - special - {s + end for s in symbols for end in ("", WORD_END)}
    if unmade:
        raise UserError(
            f"the tokenizer's merges are cut short: no merge makes {len(unmade)} tokens of"
            f" {source}, such as {min(unmade)!r}"
        )
