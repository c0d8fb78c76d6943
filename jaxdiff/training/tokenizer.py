"""The tokenizer of a run: given, kept from its beginning, or trained on its captions."""

from pathlib import Path

from jaxdiff.data.sources import Source, captions_of
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError
from jaxdiff.models import TextEncoderConfig


def run_tokenizer(
    text: TextEncoderConfig,
    given: Path | None,
    source: Source,
    workdir: Path,
    name: str = "text_encoder",
) -> Tokenizer:
    """The tokenizer of the config or of the run so far, or one trained on the captions.

    Training it again gives the same one, but it is kept in case the captions change.

    Args:
      text: the text encoder that reads its ids.
      given: a model directory whose `tokenizer/` is used; None: that of the run, or a new one.
      source: the data, for its captions.
      workdir: where the run keeps it.
      name: the field of the objective that `text` is.

    Raises:
      UserError: it does not fit the text encoder.
    """
    kept = workdir / "tokenizer"
    if given is not None:
        tokenizer = Tokenizer.load(given / "tokenizer")
    elif kept.is_dir():
        tokenizer = Tokenizer.load(kept)
    else:
        captions = sorted(set(captions_of(source)))
        tokenizer = Tokenizer.train(captions, text.vocab_size, text.max_position_embeddings)
    wrong = [
        f"objective.{name}.{field}={ours}, the tokenizer's is {theirs}"
        for field, ours, theirs in (
            ("vocab_size", text.vocab_size, tokenizer.vocab_size),
            ("eos_token_id", text.eos_token_id, tokenizer.eos_id),
            ("max_position_embeddings", text.max_position_embeddings, tokenizer.max_length),
        )
        if ours != theirs
    ]
    if wrong:
        raise UserError(f"{'; '.join(wrong)}; set the fields to the tokenizer's")
    return tokenizer
