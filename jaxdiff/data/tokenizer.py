"""Byte-level BPE in CLIP's form: the tokenizer of Stable Diffusion's text encoders, ours included.

Text is normalised (NFC, single spaces, lower case), split into words by CLIP's pattern, written in
256 byte symbols, the last one of a word marked `</w>`, and merged pair by pair. The 512 byte
symbols are always in the vocabulary, so that every text has an encoding and no word is unknown.

Source: Radford et al. 2021, "Learning transferable visual models from natural language
supervision", section 2.4; Sennrich et al. 2016 for BPE. The directory is the one that
`transformers.CLIPTokenizer` reads and writes.

Axis legend: B texts, T tokens.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from jaxdiff.errors import UserError

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# CLIP numbers the bytes in this order: printable ones first.
_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256),
          *range(33), *range(127, 161), 173)  # fmt: skip


def _byte_symbols() -> list[str]:
    """The character that stands for each byte, in CLIP's order of numbers."""
    printable = 188
    return [chr(byte) for byte in _BYTES[:printable]] + [
        chr(256 + index) for index in range(256 - printable)
    ]


class Tokenizer:
    """Texts to token ids [B, T] int32: start token, text, end token, padding.

    Args:
      vocab: token -> id; holds the start and end tokens.
      merges: pairs of tokens, first merged first.
      max_length: T; longer texts are cut, see `truncated`.
      pad: the token to pad with; CLIP's is the end token.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        max_length: int = 77,
        pad: str = EOS,
    ):
        missing = [token for token in (BOS, EOS, pad) if token not in vocab]
        if missing:
            raise UserError(f"the tokenizer's vocabulary lacks {', '.join(missing)}")
        if max_length < 2:
            raise UserError(f"a tokenizer's maximum length must be at least 2, not {max_length}")
        self.vocab, self.merges = dict(vocab), [tuple(pair) for pair in merges]
        self.max_length, self.pad = max_length, pad
        self.bos_id, self.eos_id, self.pad_id = vocab[BOS], vocab[EOS], vocab[pad]
        self._backend = _backend(self.vocab, self.merges)
        self._backend.add_special_tokens([BOS, EOS] + ([pad] if pad != EOS else []))

    @property
    def vocab_size(self) -> int:
        """Number of token ids: the rows of an embedding table."""
        return max(self.vocab.values()) + 1

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "B T"]:
        """Token ids [B, T] int32, T = max_length."""
        ids = np.full((len(texts), self.max_length), self.pad_id, np.int32)
        for row, encoding in zip(ids, self._backend.encode_batch(list(texts)), strict=True):
            tokens = encoding.ids
            if len(tokens) > self.max_length:
                tokens = [*tokens[: self.max_length - 1], self.eos_id]
            row[: len(tokens)] = tokens
        return ids

    def truncated(self, text: str) -> str:
        """The end of `text` that does not fit into max_length tokens; empty if all of it fits."""
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        room = self.max_length - 2
        return text[offsets[room][0] :] if len(offsets) > room else ""

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, max_length: int = 77) -> "Tokenizer":
        """Learn the merges from captions.

        Args:
          captions: the texts to compress.
          vocab_size: 512 byte symbols, the merges, and the start and end tokens.
          max_length: tokens of an encoded text.

        Raises:
          UserError: `vocab_size` is below 514.
        """
        symbols = _byte_symbols()
        base = symbols + [symbol + _WORD_END for symbol in symbols]
        if vocab_size < len(base) + 2:
            raise UserError(
                f"a tokenizer's vocabulary needs at least {len(base) + 2} entries for"
                f" the bytes, start and end, not {vocab_size}"
            )
        backend = _backend({symbol: index for index, symbol in enumerate(base)}, [])
        # "Special" only fixes the numbers of the symbols, and with them the order of equal counts.
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            special_tokens=base,
            end_of_word_suffix=_WORD_END,
            show_progress=False,
        )
        backend.train_from_iterator(captions, trainer)
        learned = json.loads(backend.to_str())["model"]["merges"]
        merges = [tuple(pair) for pair in learned]
        tokens = [*base, *("".join(pair) for pair in merges), BOS, EOS]
        return cls({token: index for index, token in enumerate(tokens)}, merges, max_length)

    def save(self, folder: Path | str) -> None:
        """Write vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {"bos_token": BOS, "eos_token": EOS, "pad_token": self.pad, "unk_token": EOS}
        config = {
            "model_max_length": self.max_length,
            "do_lower_case": True,
            "errors": "replace",
            "add_prefix_space": False,
            "tokenizer_class": "CLIPTokenizer",
            **special,
        }
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        for name, text in (
            ("vocab.json", json.dumps(self.vocab, ensure_ascii=False)),
            ("merges.txt", f"#version: 0.2\n{merges}"),
            ("tokenizer_config.json", json.dumps(config, indent=2) + "\n"),
            ("special_tokens_map.json", json.dumps(special, indent=2) + "\n"),
        ):
            (folder / name).write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read a tokenizer directory of Stable Diffusion's layout, or one with a tokenizer.json.

        Raises:
          UserError: a file is missing or damaged; the message names it.
        """
        folder = Path(folder)
        if (folder / "vocab.json").exists():
            source = folder / "vocab.json"
            vocab, merges = _read_json(source), _read_merges(folder / "merges.txt")
        else:
            source = folder / "tokenizer.json"
            vocab, merges = _read_whole(source)
        if not all(isinstance(index, int) and index >= 0 for index in vocab.values()):
            raise UserError(f"the tokenizer's file {source} is damaged: an id is no number")
        config, special = (
            _read_json(folder / name) if (folder / name).exists() else {}
            for name in ("tokenizer_config.json", "special_tokens_map.json")
        )
        pad = config.get("pad_token") or special.get("pad_token") or EOS
        pad = pad["content"] if isinstance(pad, dict) else pad
        length = config.get("model_max_length", 77)
        if isinstance(length, bool) or not isinstance(length, int | float):
            raise UserError(
                f"the tokenizer's file {folder / 'tokenizer_config.json'} is damaged:"
                f" model_max_length is {length!r}, no number"
            )
        tokenizer = cls(vocab, merges, int(length) if length < 10**6 else 77, pad)
        _require_merges(vocab, merges, {BOS, EOS, pad}, source)
        return tokenizer


def _backend(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    try:
        model = models.BPE(
            vocab=vocab,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=_WORD_END,
            fuse_unk=False,
            unk_token=EOS if EOS in vocab else None,
        )
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"the tokenizer's merges do not fit its vocabulary: {error}") from error
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    if EOS in vocab:
        backend.post_processor = processors.RobertaProcessing(
            (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
        )
    return backend


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"the tokenizer lacks the file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the tokenizer's file {path} is damaged: {error}") from error


def _read_json(path: Path) -> dict:
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


def _read_whole(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a `tokenizer.json`, whose merges are pairs or "a b"."""
    model = _read_json(path).get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise UserError(f"{path} is no byte-pair tokenizer")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise UserError(f"the tokenizer's file {path} is damaged: it lacks vocab or merges")
    return vocab, _pairs([m.split(" ") if isinstance(m, str) else m for m in merges], path)


def _pairs(merges: list, path: Path) -> list[tuple[str, str]]:
    if any(len(pair) != 2 for pair in merges):
        raise UserError(f"the tokenizer's file {path} is damaged: a merge is not two tokens")
    return [tuple(pair) for pair in merges]


def _require_merges(
    vocab: dict[str, int], merges: list[tuple[str, str]], special: set[str], source: Path
) -> None:
    """Refuse merges cut short: every token is a byte symbol, special, or what a merge makes."""
    symbols = _byte_symbols()
    made = {first + second for first, second in merges}
    unmade = set(vocab) - made - special - {s + end for s in symbols for end in ("", _WORD_END)}
    if unmade:
        raise UserError(
            f"the tokenizer's merges are cut short: no merge makes {len(unmade)} tokens of"
            f" {source}, such as {min(unmade)!r}"
        )
