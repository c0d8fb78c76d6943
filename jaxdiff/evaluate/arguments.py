"""What `python -m jaxdiff.evaluate` understands: one dataclass for each command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, subcommand

from jaxdiff.evaluate.agreement import AT
from jaxdiff.evaluate.kernel import SUBSETS
from jaxdiff.evaluate.manifold import NEIGHBOURS
from jaxdiff.evaluate.memorisation import LEVEL


@dataclass(frozen=True)
class Compare:
    """Sets of pictures against a reference: Fréchet and kernel distances, precision and recall."""

    reference: Positional[str]
    """A folder, an .npz of pictures or of statistics, or SOURCE@SPLIT."""
    samples: Positional[tuple[str, ...]]
    """Folders, .npz, or SOURCE@SPLIT; several sets (one a seed) give mean and deviation."""
    extractor: str = "pixels"
    """pixels or pixels:SIDE, latents:MODEL, inception:FILE.safetensors, inception-torch:FILE, or
    clip:FOLDER."""
    measures: tuple[str, ...] = ()
    """frechet, kid, cmmd, manifold; by default all that the extractor has a meaning for."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""
    neighbours: int = NEIGHBOURS
    """Of precision, recall, density and coverage."""
    subsets: int = SUBSETS
    """Random subsets of the kernel distance."""
    subset_size: int | None = None
    """In a subset; by default 1000, or half of the smallest set, the reference included."""
    few_samples: bool = False
    """Take the Fréchet distance even of fewer pictures than a feature has numbers."""
    trust_reference: bool = False
    """Take statistics that name no extractor for this one's."""
    seed: int = 0
    """Of the random subsets."""
    json: Path | None = None
    """Also write the scores to this file."""


@dataclass(frozen=True)
class Statistics:
    """What a set of pictures is to an extractor, as an .npz to compare with later."""

    pictures: Positional[str]
    """A folder, an .npz of pictures, or SOURCE@SPLIT."""
    out: Positional[Path]
    """The .npz to write."""
    extractor: str = "pixels"
    """As for compare."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""
    keep_features: bool = False
    """Store all features too, for kernel distances, precision and recall."""


@dataclass(frozen=True)
class Agreement:
    """Do pictures show their captions? Contrastive score and retrieval among all captions."""

    samples: Positional[tuple[str, ...]]
    """Sets of pictures with captions: metadata.jsonl, .txt files, or recipes of sample.py."""
    extractor: str
    """clip:FOLDER."""
    captions: Path | None = None
    """Captions of every set, one in a line, instead of their own."""
    at: tuple[int, ...] = AT
    """How many captions a picture may retrieve."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""
    json: Path | None = None
    """Also write the scores to this file."""


@dataclass(frozen=True)
class Diversity:
    """How different the pictures of one prompt are, on average over prompts."""

    samples: Positional[tuple[str, ...]]
    """Sets of pictures with captions, several pictures of each."""
    extractor: str = "pixels"
    """As for compare."""
    captions: Path | None = None
    """Captions of every set, one in a line, instead of their own."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""
    json: Path | None = None
    """Also write the scores to this file."""


@dataclass(frozen=True)
class Audit:
    """Are pictures copies of training pictures? Nearest ones, and a test against unseen ones."""

    samples: Positional[str]
    """The generated pictures."""
    training: str
    """All pictures that the model was trained on."""
    held_out: str
    """Real pictures of the same kind that it was not trained on."""
    extractor: str = "pixels"
    """As for compare."""
    level: float = LEVEL
    """Share of real pictures that would be taken for copies."""
    page: Path | None = None
    """Write the closest pairs to this HTML file."""
    pairs: int = 50
    """How many pairs the page shows."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""
    json: Path | None = None
    """Also write the scores to this file."""


@dataclass(frozen=True)
class Bits:
    """How likely a model finds pictures, given their captions: bits per number of its latents."""

    model: Positional[str]
    """A model directory, a single file, or OWNER/NAME on the hub."""
    pictures: Positional[str]
    """Real pictures with captions, such as emoji/permissive@heldout."""
    captions: Path | None = None
    """Captions of the pictures, one in a line, instead of their own."""
    count: int = 64
    """How many of the pictures, the first ones."""
    steps: int = 32
    """Of the ODE's solver, four network calls and derivatives each."""
    probes: int = 1
    """Random probes of each picture's divergence."""
    batch_size: int = 16
    """Pictures at a time."""
    seed: int = 0
    """Of the first picture's noise and probes."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""
    json: Path | None = None
    """Also write the scores to this file."""


@dataclass(frozen=True)
class Captions:
    """The captions of a set of pictures as a file, one in a line: prompts for sample.py."""

    pictures: Positional[str]
    """A folder, an .npz with captions, or SOURCE@SPLIT."""
    out: Positional[Path]
    """The text file to write."""


@dataclass(frozen=True)
class Pack:
    """Pictures to a sample batch as OpenAI's evaluator reads it: an .npz with arr_0."""

    pictures: Positional[str]
    """A folder or SOURCE@SPLIT."""
    out: Positional[Path]
    """The .npz to write."""
    captions: bool = False
    """Store the captions too."""
    resolution: int | None = None
    """Crop and resize all pictures to squares of this side first."""


@dataclass(frozen=True)
class Unpack:
    """A sample batch to a folder of PNG files."""

    pictures: Positional[str]
    """The .npz, or SOURCE@SPLIT."""
    out: Positional[Path]
    """An empty or new folder."""
    resolution: int | None = None
    """As for pack, of a corpus."""


Arguments = (
    Annotated[Compare, subcommand("compare")]
    | Annotated[Statistics, subcommand("statistics")]
    | Annotated[Agreement, subcommand("agreement")]
    | Annotated[Diversity, subcommand("diversity")]
    | Annotated[Audit, subcommand("audit")]
    | Annotated[Bits, subcommand("bits")]
    | Annotated[Captions, subcommand("captions")]
    | Annotated[Pack, subcommand("pack")]
    | Annotated[Unpack, subcommand("unpack")]
)
"""Any one of the commands."""
