"""Byte-level BPE in CLIP's form: the tokenizer of Stable Diffusion's text encoders, ours included.

Text is normalised (NFC, single spaces, lower case), split into words by CLIP's pattern, written in
256 byte symbols, the last one of a word marked `</w>`, and merged pair by pair. The 512 byte
symbols are always in the vocabulary, so that every text has an encoding and no word is unknown.

Source: Radford et al. 2021, "Learning transferable visual models from natural language
supervision", section 2.4; Sennrich et al. 2016 for BPE. The directory is the one that
`transformers.CLIPTokenizer` reads and writes, see `tokenizer_files`.

Axis legend: B texts, T tokens.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers

from jaxdiff.bpe_bytes import byte_symbols
from jaxdiff.data.tokenizer_files import (
    BOS,
    EOS,
    WORD_END,
    Files,
    read_files,
    write_files,
)
from jaxdiff.errors import UserError

_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Pieces(NamedTuple):
    """The tokens of a text, without the start and end tokens."""

    ids: list[int]
    """One per token."""
    starts: list[int]
    """Where each token's characters begin in the text."""


class Tokenizer:
    """Texts to token ids [B, T] int32: start token, text, end token, padding.

    An added token `<x>` stands for several ids where `<x>_1`, `<x>_2`, ... are there too: the
    vectors of one textual inversion.

    Args:
      vocab: token -> id; holds the start and end tokens.
      merges: pairs of tokens, first merged first.
      max_length: T; longer texts are cut, see `truncated`.
      pad: the token to pad with; CLIP's is the end token.
      added: tokens of the vocabulary that are found in a text before it is cut into words. Start,
        end and padding token are always among them.
    """

    kind = "clip"

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        max_length: int = 77,
        pad: str = EOS,
        added: Sequence[AddedToken] = (),
    ):
        names = {token.content for token in added}
        special = [AddedToken(t, special=True) for t in dict.fromkeys((BOS, EOS, pad))]
        self.added = (*added, *(token for token in special if token.content not in names))
        missing = [token.content for token in self.added if token.content not in vocab]
        if missing:
            raise UserError(f"the tokenizer's vocabulary lacks {', '.join(missing)}")
        if max_length < 2:
            raise UserError(f"a tokenizer's maximum length must be at least 2, not {max_length}")
        self.vocab, self.merges = dict(vocab), [tuple(pair) for pair in merges]
        self.max_length, self.pad = max_length, pad
        self.bos_id, self.eos_id, self.pad_id = vocab[BOS], vocab[EOS], vocab[pad]
        self._backend = _backend(self.vocab, self.merges)
        self._backend.add_tokens(list(self.added))
        self._groups = _groups(self.vocab, [token.content for token in self.added])

    @property
    def vocab_size(self) -> int:
        """Number of token ids: the rows of an embedding table."""
        return max(self.vocab.values()) + 1

    @property
    def digest(self) -> str:
        """A hash of all that decides which ids a text gets."""
        added = [token.content for token in self.added]
        parts = sorted(self.vocab.items()), self.merges, self.max_length, self.pad, added
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "B T"]:
        """Token ids [B, T] int32, T = max_length."""
        return np.array(
            [self.frame(pieces.ids) for pieces in self.pieces(texts)], np.int32
        ).reshape(len(texts), self.max_length)

    def frame(self, ids: Sequence[int]) -> list[int]:
        """T ids: start token, as many of `ids` as fit, end token, padding."""
        framed = [self.bos_id, *ids[: self.max_length - 2], self.eos_id]
        return framed + [self.pad_id] * (self.max_length - len(framed))

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """The tokens of each text, however many; no start token, no end token, no padding.

        Raises:
          UserError: a text holds half a character (a lone surrogate), as of bytes that are no
            UTF-8 on a command line.
        """
        require_characters(texts)
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [self._expanded(encoding) for encoding in encodings]

    def _expanded(self, encoding: tokenizers.Encoding) -> Pieces:
        """An encoding, with all ids of an added token that stands for several."""
        starts = [start for start, _ in encoding.offsets]
        if self._groups.keys().isdisjoint(encoding.ids):
            return Pieces(encoding.ids, starts)
        pairs = [
            (each, start)
            for index, start in zip(encoding.ids, starts, strict=True)
            for each in self._groups.get(index, (index,))
        ]
        return Pieces([index for index, _ in pairs], [start for _, start in pairs])

    def truncated(self, text: str) -> str:
        """The end of `text` that does not fit into max_length tokens; empty if all of it fits."""
        starts = self.pieces([text])[0].starts
        room = self.max_length - 2
        return text[starts[room] :] if len(starts) > room else ""

    def with_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """A tokenizer that knows more tokens, whose ids follow the highest one.

        A token that begins and ends with a letter or digit is found as a whole word only, any
        other one (`<x>`) anywhere.

        Raises:
          UserError: a token is empty or in the vocabulary already.
        """
        for token in tokens:
            if not token.strip() or token in self.vocab:
                raise UserError(
                    f"the tokenizer has a token {token!r} already; choose another name, such as "
                    f"'<{token.strip('<>')}-2>'"
                )
        start = self.vocab_size
        vocab = self.vocab | {token: start + index for index, token in enumerate(tokens)}
        new = [AddedToken(t, single_word=bool(re.fullmatch(r"\w(.*\w)?", t))) for t in tokens]
        return Tokenizer(vocab, self.merges, self.max_length, self.pad, (*self.added, *new))

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
        symbols = byte_symbols()
        base = symbols + [symbol + WORD_END for symbol in symbols]
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
            end_of_word_suffix=WORD_END,
            show_progress=False,
        )
        backend.train_from_iterator(captions, trainer)
        learned = json.loads(backend.to_str())["model"]["merges"]
        merges = [tuple(pair) for pair in learned]
        tokens = [*base, *("".join(pair) for pair in merges), BOS, EOS]
        return cls({token: index for index, token in enumerate(tokens)}, merges, max_length)

    def save(self, folder: Path | str) -> None:
        """Write vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json."""
        files = Files(self.vocab, self.merges, self.max_length, self.pad, self.added)
        write_files(folder, files)

    @classmethod
    def load(cls, folder: Path | str) -> "Tokenizer":
        """Read a tokenizer directory of Stable Diffusion's layout, or one with a tokenizer.json.

        Raises:
          UserError: a file is missing or damaged; the message names it.
        """
        return cls(*read_files(folder))


def require_characters(texts: Sequence[str]) -> None:
    """Refuse half a character (a lone surrogate) in a text.

    Raises:
      UserError: there is one.
    """
    for text in texts:
        if re.search("[\ud800-\udfff]", text):
            raise UserError(f"the text {text!r} holds bytes that are no UTF-8; remove them")


def _groups(vocab: dict[str, int], added: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """Ids of `<x>`, `<x>_1`, `<x>_2`, ... by the id of `<x>`, where there is more than one."""
    names, groups = set(added), {}
    for first in added:
        group = [vocab[first]]
        while f"{first}_{len(group)}" in names:
            group.append(vocab[f"{first}_{len(group)}"])
        if len(group) > 1:
            groups[group[0]] = tuple(group)
    return groups


def _backend(vocab: dict[str, int], merges: Sequence[tuple[str, str]]) -> tokenizers.Tokenizer:
    try:
        model = models.BPE(
            vocab=vocab,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
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
    return backend
