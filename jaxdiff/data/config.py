"""What to train on and how to serve it, as one frozen dataclass."""

from dataclasses import dataclass

from jaxdiff.errors import UserError

_LEAST = {
    "resolution": 1,
    "batch_size": 1,
    "prefetch": 1,
    "memory_mb": 0,
    "num_threads": 0,
    "workers": 0,
    "seed": 0,
    "bucket_step": 0,
    "max_aspect": 1,
}


@dataclass(frozen=True)
class DataConfig:
    """What to train on and how to serve it."""

    source: str = "emoji/permissive"
    """emoji/STYLE, folder:PATH (pictures with captions), tfds:NAME (a prepared TFDS data set),
    shapes (coloured shapes drawn on the spot), or, for what reads texts alone, text:FILE (a caption
    in each line)."""
    split: str = "train"
    """Which split; emoji has train and heldout, a folder only train."""
    resolution: int = 64
    """Side of the square pictures, in pixels."""
    bucket_step: int = 0
    """Keep a folder's pictures oblong: in batches of one size each, whose sides are multiples of
    this and whose area is at most resolution^2; 0: central squares only."""
    max_aspect: float = 2.0
    """Longest side over shortest of the sizes that `bucket_step` makes."""
    batch_size: int = 64
    """Examples in a batch, over all processes."""
    flip: bool = True
    """Mirror half of the pictures whose caption allows it."""
    caption: str = ""
    """Caption of those pictures of a folder that have none; empty: they are left out."""
    caption_dropout: float = 0.1
    """Share of examples whose caption becomes empty, for classifier-free guidance."""
    loosen_captions: float = 0.0
    """Share of examples whose caption is put as people type it: with an article, or no style."""
    synonyms: str = ""
    """File of other names for what captions speak of, lines SYNONYM = SUBJECT, such as
    `jaxdiff.data.other_names` writes; a subject is all that stands before a caption's first comma.
    Empty: none."""
    synonym_share: float = 0.2
    """Share of examples whose caption says another name, where there is one."""
    conditioning: bool = False
    """Read the picture that the column `conditioning` of a folder's metadata.jsonl names too."""
    cache: str = ""
    """Keep what frozen networks make of the pictures and captions in this folder, once computed;
    empty: compute it at every step."""
    seed: int = 0
    """Decides the order, the flips and the dropped captions."""
    strict: bool = False
    """Stop at a corrupt picture instead of naming and skipping it."""
    label_template: str = "a photo of {name}"
    """Caption of a data set that has class labels and no captions; {name} is the class."""
    caption_field: str = ""
    """Feature that holds the captions of a TFDS data set; empty: caption, text or the label."""
    memory_mb: int = 2048
    """Hold the decoded pictures in memory if they fit in so many megabytes; 0: never."""
    num_threads: int = 0
    """Threads that prepare batches ahead; 0: in the training thread, best for data in memory."""
    workers: int = 0
    """Further processes that prepare the same batches ahead, where threads hold each other up; each
    has a copy of what the source holds in memory, and num_threads of its own."""
    prefetch: int = 2
    """Batches prepared ahead by threads, and by each worker."""
    data_dir: str = ""
    """Where TFDS data sets lie; empty: $JAXDIFF_DATA_DIR or ~/.cache/jaxdiff/tfds."""

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and options that the source would ignore."""
        for field, bound in _LEAST.items():
            if (value := getattr(self, field)) < bound:
                raise UserError(f"data.{field} must be at least {bound}, not {value}")
        if self.seed >= 2**32:
            raise UserError(f"data.seed must be below 2^32, not {self.seed}")
        for field in ("caption_dropout", "loosen_captions", "synonym_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"data.{field} must be in [0, 1], not {getattr(self, field)}")
        if not self.synonyms and self.synonym_share != type(self).synonym_share:
            raise UserError(
                "data.synonym_share is of data.synonyms: name the file, or leave it out"
            )
        if self.workers and self.cache:
            raise UserError(
                "data.workers decode pictures, which data.cache spares; leave one of them out"
            )
        if "{name}" not in self.label_template:
            raise UserError(f"data.label_template must hold {{name}}: {self.label_template!r}")
        if self.bucket_step and self.resolution % self.bucket_step:
            raise UserError(
                f"data.bucket_step={self.bucket_step} must divide data.resolution={self.resolution}"
            )
        for field in ("bucket_step", "caption", "conditioning"):
            if getattr(self, field) and not self.source.startswith("folder:"):
                raise UserError(
                    f"data.{field} is for folders (data.source folder:PATH), "
                    f"not for {self.source!r}"
                )
