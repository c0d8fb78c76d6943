"""The rows of `recipes.py`: what each differs in from the preset."""

from dataclasses import dataclass, field
from typing import Any

PRESET = "emoji-small"


@dataclass(frozen=True)
class Row:
    """A recipe."""

    options: str = ""
    """Of `train.py`, in which its training differs from the preset's."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of drawing, in which it differs from what the model recommends."""

    @property
    def told(self) -> str:
        """Both, for a table; without the shape of a text encoder that is given."""
        options = self.options.replace(_SHAPE, "").strip()
        drawn = (f"{name} {value}" for name, value in self.settings.items())
        return ", ".join(f"`{each}`" for each in (options, *drawn) if each)


_FLOW = "--objective.noise.schedule flow --objective.noise.prediction flow"
# The text encoder of docs/training.md, and its shape.
_SHAPE = (
    " --objective.unet.cross-attention-dim 192 "
    "--objective.text-encoder.vocab-size 8192 --objective.text-encoder.eos-token-id 8191 "
    "--objective.text-encoder.hidden-size 192 --objective.text-encoder.intermediate-size 768 "
    "--objective.text-encoder.num-hidden-layers 3 --objective.text-encoder.num-attention-heads 3"
)
_SMALL_TEXT = f"--objective.text models/emoji-text{_SHAPE}"

ROWS: dict[str, Row] = {
    "base": Row(),
    "eps": Row("--objective.noise.prediction eps"),
    "x0": Row("--objective.noise.prediction x0"),
    "flow": Row(_FLOW),
    "flow as SD3": Row(f"{_FLOW} --objective.loss.level-mean 0.0 --objective.loss.level-std 1.0"),
    "edm": Row(
        "--objective.noise.schedule ve --objective.noise.prediction edm "
        "--objective.noise.sigma-data 1.0"
    ),
    "min-snr": Row("--objective.loss.weighting min_snr"),
    "sigmoid": Row("--objective.loss.weighting sigmoid"),
    "levels uniform": Row(
        "--objective.loss.levels stratified --objective.loss.level-mean None "
        "--objective.loss.level-std None"
    ),
    "levels mean 0": Row("--objective.loss.level-mean 0.0"),
    # The preset's average is warmed up: by step 1000 its decay is 0.991 and no more.
    "ema 0": Row("--ema.decay 0"),
    "ema 0.998": Row("--ema.decay 0.998 --ema.no-warmup"),
    "dropout 0": Row("--data.caption-dropout 0.0"),
    "dropout 0.2": Row("--data.caption-dropout 0.2"),
    "rate decays": Row("--optimizer.schedule linear"),
    "rate 5e-4": Row("--optimizer.learning-rate 5e-4"),
    "rate 2e-3": Row("--optimizer.learning-rate 2e-3"),
    "text distilled": Row(_SMALL_TEXT),
    "flow, text distilled": Row(f"{_FLOW} {_SMALL_TEXT}"),
    "flow, text learns on": Row(
        f"{_FLOW} {_SMALL_TEXT} --objective.text-learns --optimizer.text-encoder-rate 0.1"
    ),
    "text MiniLM": Row("--objective.text runs/minilm --objective.unet.cross-attention-dim 384"),
    "guidance 1": Row(settings={"guidance_scale": 1.0}),
    "guidance 3": Row(settings={"guidance_scale": 3.0}),
    "guidance 9": Row(settings={"guidance_scale": 9.0}),
    "guidance below 0.8": Row(settings={"guidance_interval": (0.0, 0.8)}),
    "guidance above 0.2": Row(settings={"guidance_interval": (0.2, 1.0)}),
}
