"""Concept hit rate: does a generated picture show the subject that was asked for?

A picture hits if one of its ten nearest real pictures has the prompted subject; nearest by the
cosine of the autoencoder's latent means, flattened. The real pictures are the whole corpus, train
and heldout, in every style. Four rates are printed, each with its count and its 95% interval
(Wilson 1927): generated pictures of training pairs, generated pictures of held-out pairs, real
held-out pictures (each excluded from its own neighbours: what is there to reach), and the generated
pictures of training pairs scored against shuffled prompts (what chance reaches).

    python benchmarks/concept_hit_rate.py --model models/emoji64

Axis legend: N pictures, G real pictures, D latent elements, H W pixels.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff import platform
from jaxdiff.cli import or_exit

or_exit(platform.configure)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402
from jaxtyping import Float, UInt8  # noqa: E402

from jaxdiff.data.sources import DataConfig, make_source  # noqa: E402
from jaxdiff.errors import UserError  # noqa: E402
from jaxdiff.evaluate.counts import share_interval  # noqa: E402
from jaxdiff.models import Autoencoder  # noqa: E402
from jaxdiff.models.autoencoder import from_uint8  # noqa: E402
from jaxdiff.pipelines import TextToImage  # noqa: E402

Encode = Callable[[UInt8[np.ndarray, "N H W 3"]], Float[np.ndarray, "N D"]]
_ENCODED_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure a model's concept hit rate."""

    model: Path = Path("models/emoji64")
    """Model directory."""
    source: str = "emoji/permissive"
    """Corpus with splits train and heldout, whose examples have a subject."""
    count: int = 500
    """Generated pictures of training pairs, and of held-out pairs."""
    neighbours: int = 10
    """How many of the nearest real pictures may show the subject."""
    seed: int = 0
    """Chooses the pairs; picture i is drawn with seed `seed` + i."""
    steps: int | None = None
    """Sampling steps; by default what the model recommends, as in the next two."""
    sampler: str | None = None
    """Sampler."""
    guidance_scale: float | None = None
    """Guidance."""
    json: Path | None = None
    """Also write the four rates to this file."""


class Rate(NamedTuple):
    """Hits out of a number of pictures."""

    name: str
    hits: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of a binomial share (Wilson 1927)."""
        return share_interval(self.hits, self.count)

    def row(self) -> str:
        """One line of the README's table."""
        low, high = self.interval
        share = self.hits / self.count
        return (
            f"| {self.name} | {self.hits} of {self.count} | {share:.1%} | {low:.1%} to {high:.1%} |"
        )


class Gallery(NamedTuple):
    """The real pictures: unit latents and what each shows."""

    latents: Float[np.ndarray, "G D"]
    subjects: np.ndarray

    def hits(
        self,
        latents: Float[np.ndarray, "N D"],
        subjects: Sequence[str],
        neighbours: int,
        *,
        own: Sequence[int] | None = None,
    ) -> int:
        """How many of N pictures have a neighbour that shows their subject.

        Args:
          latents: unit latents of the pictures.
          subjects: what each should show.
          neighbours: how many of the nearest real pictures count.
          own: index of each picture in the gallery, to be left out.
        """
        similarity = latents @ self.latents.T
        if own is not None:
            similarity[np.arange(len(own)), own] = -np.inf
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]
        return int((self.subjects[nearest] == np.asarray(subjects)[:, None]).any(axis=1).sum())


def make_encoder(pipe: TextToImage) -> Encode:
    """Pictures -> latent means of unit length."""
    vae = Autoencoder(pipe.model.vae_config)

    @jax.jit
    def mean(params: Any, images: jax.Array) -> jax.Array:
        return vae.apply({"params": params}, from_uint8(images), method="encode")[0]

    def encode(images: np.ndarray) -> np.ndarray:
        rows = []
        for start in range(0, len(images), _ENCODED_AT_ONCE):
            part = images[start : start + _ENCODED_AT_ONCE]
            padded = np.resize(part, (_ENCODED_AT_ONCE, *part.shape[1:]))  # one shape compiles
            rows.append(np.asarray(mean(pipe.params["vae"], padded))[: len(part)])
        flat = np.concatenate(rows).reshape(len(images), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    return encode


def choose_pairs(examples: Sequence[dict], count: int, rng: np.random.Generator) -> list[dict]:
    """`count` examples in random order, each as often as every other, give or take one."""
    rounds = -(-count // len(examples))
    order = np.concatenate([rng.permutation(len(examples)) for _ in range(rounds)])
    return [examples[i] for i in order[:count]]


def read_split(source: str, split: str, resolution: int) -> list[dict]:
    """All examples of a split, pictures included.

    Raises:
      UserError: the corpus does not say what its pictures show.
    """
    corpus = make_source(DataConfig(source=source, split=split, resolution=resolution))
    examples = [corpus[index] for index in range(len(corpus))]
    if any("subject" not in example for example in examples):
        raise UserError(f"{source} has no subjects; give an emoji source")
    return examples


def measure(
    pipe: TextToImage, train: list[dict], heldout: list[dict], args: Arguments
) -> list[Rate]:
    """The four rates of a model, given the two splits of the corpus."""
    encode = make_encoder(pipe)
    real = train + heldout
    gallery = Gallery(
        encode(np.stack([example["image"] for example in real])),
        np.array([example["subject"] for example in real]),
    )
    rng = np.random.default_rng(args.seed)
    settings = {
        "num_steps": args.steps,
        "sampler": args.sampler,
        "guidance_scale": args.guidance_scale,
    }

    def generate(pairs: list[dict]) -> np.ndarray:
        seeds = range(args.seed, args.seed + len(pairs))
        return encode(pipe([pair["caption"] for pair in pairs], seeds, **settings))

    def subjects(pairs: list[dict]) -> list[str]:
        return [pair["subject"] for pair in pairs]

    seen = choose_pairs(train, args.count, rng)
    unseen = choose_pairs(heldout, args.count, rng)
    seen_latents, unseen_latents = generate(seen), generate(unseen)
    own = range(len(train), len(real))
    k = args.neighbours
    hits = {
        "generated, training pairs": (gallery.hits(seen_latents, subjects(seen), k), len(seen)),
        "generated, held-out pairs": (
            gallery.hits(unseen_latents, subjects(unseen), k),
            len(unseen),
        ),
        "real held-out pictures": (
            gallery.hits(gallery.latents[own], subjects(heldout), k, own=own),
            len(heldout),
        ),
        "generated, shuffled prompts": (
            gallery.hits(seen_latents, rng.permutation(subjects(seen)), k),
            len(seen),
        ),
    }
    return [Rate(name, *counts) for name, counts in hits.items()]


def main(arguments: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""
    args = tyro.cli(Arguments, args=arguments)
    begin = time.perf_counter()
    try:
        pipe = TextToImage.load(args.model)
        size = pipe.image_size
        train, heldout = (read_split(args.source, name, size) for name in ("train", "heldout"))
        rates = measure(pipe, train, heldout, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| pictures | hits | rate | 95% interval |\n|---|---|---|---|")
    for rate in rates:
        print(rate.row())
    print(f"\n{pipe.name} ({pipe.digest}), {time.perf_counter() - begin:.0f} s")
    if args.json is not None:
        rows = {rate.name: {"hits": rate.hits, "count": rate.count} for rate in rates}
        args.json.write_text(json.dumps(rows | {"model_hash": pipe.digest}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
