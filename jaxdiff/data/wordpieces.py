"""BERT's tokenizer (WordPiece), with the methods of CLIP's by which prompts and captions are read.

Its folder holds one file, `tokenizer.json`, whose truncation says how many tokens a text has.

Source: Devlin et al. 2019, section 3. Axis legend: B texts, T tokens.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Int32

from jaxdiff.data.tokenizer import Pieces, Tokenizer, require_characters
from jaxdiff.errors import UserError

FILE = "tokenizer.json"
_PAD = "[PAD]"


class WordPieces:
    """Texts to token ids [B, T] int32: start token, text, end token, padding.

    Args:
      backend: the tokenizer of a BERT.
      max_length: T; longer texts are cut.
      source: where it comes from, for messages.

    Raises:
      UserError: T leaves no room, [PAD] is not token 0, or texts get other ends than one start
        token and one end token.
    """

    kind = "bert"

    def __init__(self, backend: tokenizers.Tokenizer, max_length: int, source: str = "its file"):
        self._backend = tokenizers.Tokenizer.from_str(backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        ends = self._backend.encode("").ids
        if max_length < 2 or len(ends) != 2 or self._backend.token_to_id(_PAD) != 0:
            raise UserError(
                f"the tokenizer of {source} is no BERT's: {len(ends)} tokens around a text of at "
                f"most {max_length}, padding is token {self._backend.token_to_id(_PAD)}"
            )
        self.max_length, (self.bos_id, self.eos_id), self.pad_id = max_length, ends, 0

    @property
    def vocab_size(self) -> int:
        """Number of token ids: the rows of an embedding table."""
        return max(self._backend.get_vocab().values()) + 1

    @property
    def digest(self) -> str:
        """A hash of all that decides which ids a text gets."""
        return hashlib.sha256(self._written().encode()).hexdigest()[:20]

    def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "B T"]:
        """Token ids [B, T] int32, T = max_length."""
        rows = [self.frame(pieces.ids) for pieces in self.pieces(texts)]
        return np.array(rows, np.int32).reshape(len(texts), self.max_length)

    def frame(self, ids: Sequence[int]) -> list[int]:
        """T ids: start token, as many of `ids` as fit, end token, padding."""
        framed = [self.bos_id, *ids[: self.max_length - 2], self.eos_id]
        return framed + [self.pad_id] * (self.max_length - len(framed))

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """The tokens of each text, however many; no start token, no end token, no padding.

        Raises:
          UserError: a text holds half a character.
        """
        require_characters(texts)
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [Pieces(each.ids, [start for start, _ in each.offsets]) for each in encodings]

    def with_tokens(self, tokens: Sequence[str]) -> "WordPieces":
        """Refuse new words, which a BERT that stays as it is has no vectors for.

        Raises:
          UserError: always.
        """
        raise UserError(f"a BERT learns no new words, such as {tokens[0]!r}: use another model")

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / FILE).write_text(self._written(), "utf-8")

    def _written(self) -> str:
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.enable_truncation(self.max_length)
        backend.enable_padding(length=self.max_length, pad_id=self.pad_id, pad_token=_PAD)
        return backend.to_str()


AnyTokenizer = Tokenizer | WordPieces


def load_tokenizer(folder: Path | str) -> AnyTokenizer:
    """Read a tokenizer's folder: a BERT's where a `tokenizer.json` says so, else CLIP's.

    Raises:
      UserError: a file is missing or damaged, or does not say how many tokens a text has.
    """
    path = Path(folder) / FILE
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception:  # the library raises nothing narrower; what is wrong is said below
        return Tokenizer.load(folder)
    if not isinstance(backend.model, tokenizers.models.WordPiece):
        return Tokenizer.load(folder)
    if backend.truncation is None:
        raise UserError(f"{path} does not say at how many tokens a text is cut (truncation)")
    return WordPieces(backend, backend.truncation["max_length"], str(path))
