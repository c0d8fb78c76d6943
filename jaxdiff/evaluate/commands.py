"""The commands of `python -m jaxdiff.evaluate`: open, extract, measure, print."""

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.convert import load_model
from jaxdiff.data.wordpieces import load_tokenizer
from jaxdiff.errors import UserError
from jaxdiff.evaluate import arguments, report
from jaxdiff.evaluate.agreement import agreement, number_captions
from jaxdiff.evaluate.captions import read_captions, write_captions
from jaxdiff.evaluate.comparison import run_compare
from jaxdiff.evaluate.counts import spread
from jaxdiff.evaluate.diversity import diversity
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.evaluate.features import features_of
from jaxdiff.evaluate.files import require_writable
from jaxdiff.evaluate.likelihood import latent_bits
from jaxdiff.evaluate.measures import Score
from jaxdiff.evaluate.memorisation import audit, require_calibration
from jaxdiff.evaluate.page import closest, write_page
from jaxdiff.evaluate.samples import Samples, open_all, open_samples, write_folder, write_npz
from jaxdiff.evaluate.statistics import (
    statistics_of,
    write_statistics,
)
from jaxdiff.heap import keep_heap
from jaxdiff.models.checks import require_positive

_AT_LEAST_ONE = (
    "batch_size",
    "count",
    "neighbours",
    "pairs",
    "probes",
    "resolution",
    "steps",
    "subset_size",
    "subsets",
)


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input, which is said in one line."""

    def run() -> None:
        prog = "python -m jaxdiff.evaluate"
        parsed = parse_or_explain(
            lambda: tyro.cli(arguments.Arguments, prog=prog, args=words, use_underscores=False)
        )
        given = [name for name in _AT_LEAST_ONE if getattr(parsed, name, None) is not None]
        require_positive("evaluate", parsed, given)
        if getattr(parsed, "seed", 0) < 0:
            raise UserError(f"evaluate: seed must be at least 0, not {parsed.seed}")
        require_writable(*(getattr(parsed, name, None) for name in ("json", "page")))
        COMMANDS[type(parsed)](parsed)

    return exit_code(run)


def run_statistics(args: arguments.Statistics) -> None:
    """Write the statistics of a set."""
    _require_npz(args.out)
    pictures = open_samples(args.pictures, args.resolution)
    extractor = open_extractor(args.extractor)
    statistics = statistics_of(features_of(pictures, extractor), extractor.name, pictures.size)
    write_statistics(args.out, statistics, args.keep_features)
    size = len(statistics.moments.mean)
    print(f"wrote {args.out}: {pictures.count} pictures, {size} features by {extractor.name}")


def run_agreement(args: arguments.Agreement) -> None:
    """Print contrastive score and retrieval."""
    sets = open_all(args.samples, args.resolution)
    captions = [_captions(each, args.captions) for each in sets]
    extractor = open_extractor(args.extractor)
    if extractor.texts is None:
        raise UserError(f"the extractor {extractor.name} reads no texts; give clip:FOLDER")
    scores = []
    for each, words in zip(sets, captions, strict=True):
        texts, own = extractor.texts(words)
        found = agreement(features_of(each, extractor), texts, own, args.at)
        note = f"of {found.captions} captions; chance"
        retrieved = (
            Score(f"retrieval at {k}", found.retrieval.get(k, nan), f"{note} {k / len(texts):.4f}")
            for k in args.at
        )
        scores.append([Score("contrastive score", found.score, "100 cos, at least 0"), *retrieved])
    options = _options(args, "captions", "at", "resolution")
    report.tell(scores, report.about_sets(sets, extractor, options=options), args.json)


def run_diversity(args: arguments.Diversity) -> None:
    """Print the diversity per prompt."""
    sets = open_all(args.samples, args.resolution)
    captions = [_captions(each, args.captions) for each in sets]
    extractor, scores = open_extractor(args.extractor), []
    for each, words in zip(sets, captions, strict=True):
        found = diversity(features_of(each, extractor), number_captions(words)[1])
        note = f"{found.distance.count} prompts with {found.pictures:.3g} pictures each"
        scores.append(
            [
                Score("distance within a prompt", found.distance.mean, note, found.distance.std),
                Score("Vendi score of a prompt", found.vendi.mean, note, found.vendi.std),
            ]
        )
    options = _options(args, "captions", "resolution")
    report.tell(scores, report.about_sets(sets, extractor, options=options), args.json)


def run_audit(args: arguments.Audit) -> None:
    """Print the test for copies, and write the page of the closest pairs."""
    names = {"samples": args.samples, "training": args.training, "held out": args.held_out}
    sets = {kind: open_samples(name, args.resolution) for kind, name in names.items()}
    require_calibration(*(each.count for each in sets.values()), args.level)
    extractor = open_extractor(args.extractor)
    found = audit(*(features_of(each, extractor) for each in sets.values()), level=args.level)
    low, high = found.interval
    count = sets["samples"].count
    unseen = sets["held out"].count
    said = (
        f"{found.flagged} of {count} pictures ({found.flagged / count:.1%}, 95% interval {low:.1%} "
        f"to {high:.1%}, with this calibration) are nearer to a training picture than all but "
        f"{found.chosen - 1} of {unseen} unseen real pictures are; p = {found.p_value:.3g} that so "
        "many would be if none were a copy"
    )
    if found.copies:
        said += (
            f"; {found.copies} of the unseen pictures are training pictures themselves: leave them "
            "out, or copies pass for them"
        )
    expected = f"expected {found.chosen / (unseen + 1):.4g}"
    scores = [
        Score("share nearer than unseen ones", found.flagged / count, expected),
        Score("median distance to training", found.medians[0], f"held out {found.medians[1]:.4g}"),
        Score("p-value of the set", found.p_value, "small: copies"),
    ]
    about = {f"{kind} pictures": sets[kind].count for kind in ("training", "held out")}
    told = report.about_sets(
        [sets["samples"]], extractor, **about, threshold=round(found.threshold, 4)
    )
    told["options"] = _options(args, "level", "resolution")
    report.tell([scores], told, args.json)
    print(f"\n{said}")
    if args.page is not None:
        places = closest(found, args.pairs)
        near = sets["training"].take(found.places[places].ravel().tolist())
        write_page(args.page, found, places, sets["samples"].take(places), near, said)
        print(f"wrote {args.page}: {len(places)} pairs")


def run_bits(args: arguments.Bits) -> None:
    """Print the likelihood of pictures under a model."""
    pictures = open_samples(args.pictures, args.resolution)
    captions, count = _captions(pictures, args.captions), min(args.count, pictures.count)
    model, values = load_model(args.model, load_tokenizer), []
    bits = latent_bits(model, args.steps, args.probes)
    keep_heap(model.num_parameters)
    first = pictures.take(range(count))
    for start in range(0, count, args.batch_size):
        # As many rows every time, since each number compiles anew; the last ones again.
        places = np.minimum(np.arange(start, start + args.batch_size), count - 1).tolist()
        images, words = np.stack([first[i] for i in places]), [captions[i] for i in places]
        values.extend(bits(images, words, args.seed + start).tolist())
    found = spread(values[:count])
    note = f"over pictures the std is {found.std:.3g}, of the mean {found.std / count**0.5:.2g}"
    scores = [Score("bits per latent number", found.mean, note, found.std)]
    about = {"samples": [pictures.name], "sample pictures": [count], "model": args.model}
    about |= {"steps": args.steps, "probes": args.probes}
    about["options"] = _options(args, "captions", "seed", "batch_size", "resolution")
    report.tell([scores], about, args.json)


def run_captions(args: arguments.Captions) -> None:
    """Write the captions of a set."""
    require_writable(args.out)
    captions = open_samples(args.pictures).captions()
    write_captions(args.out, captions)
    print(f"wrote {args.out}: {len(captions)} captions, {len(set(captions))} of them different")


def run_pack(args: arguments.Pack) -> None:
    """Write a sample batch."""
    _require_npz(args.out)
    pictures = open_samples(args.pictures, args.resolution)
    captions = pictures.captions() if args.captions else None
    shape = write_npz(args.out, pictures, captions)
    print(f"wrote {args.out}: arr_0 uint8 {list(shape)}")


def run_unpack(args: arguments.Unpack) -> None:
    """Write the pictures of a sample batch as files."""
    count = write_folder(args.out, open_samples(args.pictures, args.resolution))
    print(f"wrote {count} pictures to {args.out}")


def _require_npz(path: Path) -> None:
    require_writable(path)
    if path.suffix != ".npz":
        raise UserError(f"{path} should end in .npz")


def _options(args: Any, *names: str) -> dict[str, Any]:
    """Options as JSON can hold them."""
    given = {name: getattr(args, name) for name in names}
    return {name: str(v) if isinstance(v, Path) else v for name, v in given.items()}


def _captions(samples: Samples, file: Path | None) -> list[str]:
    return samples.captions() if file is None else read_captions(file, samples.count)


COMMANDS: dict[type, Callable[[Any], None]] = {
    arguments.Compare: run_compare,
    arguments.Statistics: run_statistics,
    arguments.Agreement: run_agreement,
    arguments.Diversity: run_diversity,
    arguments.Audit: run_audit,
    arguments.Bits: run_bits,
    arguments.Captions: run_captions,
    arguments.Pack: run_pack,
    arguments.Unpack: run_unpack,
}
