"""The commands of `python -m jaxdiff.evaluate`: open, extract, measure, print."""

import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxdiff.cli import exit_code, parse_or_explain
from jaxdiff.errors import UserError
from jaxdiff.evaluate import arguments, report
from jaxdiff.evaluate.agreement import agreement, number_captions
from jaxdiff.evaluate.captions import read_captions, write_captions
from jaxdiff.evaluate.counts import spread
from jaxdiff.evaluate.diversity import diversity
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.evaluate.features import Extractor
from jaxdiff.evaluate.likelihood import latent_bits
from jaxdiff.evaluate.measures import Options, Score, choose_measures, measure, require_enough
from jaxdiff.evaluate.memorisation import audit, require_calibration
from jaxdiff.evaluate.page import closest, write_page
from jaxdiff.evaluate.samples import Samples, open_samples, write_folder, write_npz
from jaxdiff.evaluate.statistics import (
    Statistics,
    holds_statistics,
    read_statistics,
    statistics_of,
    write_statistics,
)
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
        COMMANDS[type(parsed)](parsed)

    return exit_code(run)


def run_compare(args: arguments.Compare) -> None:
    """Print the scores of sets against a reference."""
    sets = _open_all(args.samples, args.resolution)
    known = Path(args.reference)
    reference = None if holds_statistics(known) else open_samples(args.reference, args.resolution)
    extractor = open_extractor(args.extractor)
    names = choose_measures(args.measures, extractor.name)
    options = Options(args.neighbours, args.subsets, args.subset_size, args.few_samples, args.seed)
    if reference is None:
        statistics = read_statistics(known, extractor.name, args.trust_reference)
        count = statistics.moments.count
    else:
        statistics, count = None, reference.count
    for each in sets:
        width = extractor.width(next(each.batches())[:1])
        require_enough(names, count, each.count, width, options)
    statistics = statistics or _statistics(reference, extractor)
    scores = [measure(statistics, _features(each, extractor), names, options) for each in sets]
    about = {"reference": args.reference, "reference pictures": statistics.moments.count or "?"}
    report.tell(scores, _about(sets, extractor, **about), args.json)


def run_statistics(args: arguments.Statistics) -> None:
    """Write the statistics of a set."""
    pictures = open_samples(args.pictures, args.resolution)
    extractor = open_extractor(args.extractor)
    statistics = _statistics(pictures, extractor)
    write_statistics(args.out, statistics, args.keep_features)
    size = len(statistics.moments.mean)
    print(f"wrote {args.out}: {pictures.count} pictures, {size} features by {extractor.name}")


def run_agreement(args: arguments.Agreement) -> None:
    """Print contrastive score and retrieval."""
    sets = _open_all(args.samples, args.resolution)
    captions = [_captions(each, args.captions) for each in sets]
    extractor = open_extractor(args.extractor)
    if extractor.texts is None:
        raise UserError(f"the extractor {extractor.name} reads no texts; give clip:FOLDER")
    scores = []
    for each, words in zip(sets, captions, strict=True):
        different, own = number_captions(words)
        texts = extractor.texts(different)
        found = agreement(_features(each, extractor), texts, own, args.at)
        note = f"of {found.captions} captions; chance"
        retrieved = (
            Score(f"retrieval at {k}", found.retrieval.get(k, nan), f"{note} {k / len(texts):.4f}")
            for k in args.at
        )
        scores.append([Score("contrastive score", found.score, "100 cos, at least 0"), *retrieved])
    report.tell(scores, _about(sets, extractor), args.json)


def run_diversity(args: arguments.Diversity) -> None:
    """Print the diversity per prompt."""
    sets = _open_all(args.samples, args.resolution)
    captions = [_captions(each, args.captions) for each in sets]
    extractor, scores = open_extractor(args.extractor), []
    for each, words in zip(sets, captions, strict=True):
        found = diversity(_features(each, extractor), number_captions(words)[1])
        note = f"{found.distance.count} prompts with {found.pictures:.3g} pictures each; their std"
        scores.append(
            [
                Score(
                    "distance within a prompt",
                    found.distance.mean,
                    f"{note} {found.distance.std:.3g}",
                ),
                Score("Vendi score of a prompt", found.vendi.mean, f"{note} {found.vendi.std:.3g}"),
            ]
        )
    report.tell(scores, _about(sets, extractor), args.json)


def run_audit(args: arguments.Audit) -> None:
    """Print the test for copies, and write the page of the closest pairs."""
    names = {"samples": args.samples, "training": args.training, "held out": args.held_out}
    sets = {kind: open_samples(name, args.resolution) for kind, name in names.items()}
    require_calibration(*(each.count for each in sets.values()), args.level)
    extractor = open_extractor(args.extractor)
    found = audit(*(_features(each, extractor) for each in sets.values()), level=args.level)
    low, high = found.interval
    count = sets["samples"].count
    said = (
        f"{found.flagged} of {count} pictures ({found.flagged / count:.1%}, 95% interval {low:.1%} "
        f"to {high:.1%}) are nearer to a training picture than all but {args.level:.1%} of "
        f"{sets['held out'].count} unseen real pictures are; p = {found.p_value:.3g} that so many "
        "would be if none were a copy"
    )
    scores = [
        Score("share nearer than unseen ones", found.flagged / count, f"expected {args.level:g}"),
        Score("median distance to training", found.medians[0], f"held out {found.medians[1]:.4g}"),
        Score("p-value of the set", found.p_value, "small: copies"),
    ]
    about = {f"{kind} pictures": sets[kind].count for kind in ("training", "held out")}
    told = _about([sets["samples"]], extractor, **about, threshold=round(found.threshold, 4))
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
    bits, values = latent_bits(args.model, args.steps, args.probes), []
    first = pictures.take(range(count))
    for start in range(0, count, args.batch_size):
        # As many rows every time, since each number compiles anew; the last ones again.
        places = np.minimum(np.arange(start, start + args.batch_size), count - 1).tolist()
        images, words = np.stack([first[i] for i in places]), [captions[i] for i in places]
        values.extend(bits(images, words, args.seed + start).tolist())
    found = spread(values[:count])
    note = f"over pictures the std is {found.std:.3g}, of the mean {found.std / count**0.5:.2g}"
    scores = [Score("bits per latent number", found.mean, note)]
    about = {"samples": [pictures.name], "sample pictures": [count], "model": args.model}
    report.tell([scores], about | {"steps": args.steps, "probes": args.probes}, args.json)


def run_captions(args: arguments.Captions) -> None:
    """Write the captions of a set."""
    captions = open_samples(args.pictures).captions()
    write_captions(args.out, captions)
    print(f"wrote {args.out}: {len(captions)} captions, {len(set(captions))} of them different")


def run_pack(args: arguments.Pack) -> None:
    """Write a sample batch."""
    if args.out.suffix != ".npz":
        raise UserError(f"{args.out} should end in .npz")
    pictures = open_samples(args.pictures, args.resolution)
    captions = pictures.captions() if args.captions else None
    shape = write_npz(args.out, pictures, captions)
    print(f"wrote {args.out}: arr_0 uint8 {list(shape)}")


def run_unpack(args: arguments.Unpack) -> None:
    """Write the pictures of a sample batch as files."""
    count = write_folder(args.out, open_samples(args.pictures, args.resolution))
    print(f"wrote {count} pictures to {args.out}")


def _open_all(names: tuple[str, ...], resolution: int | None) -> list[Samples]:
    if not names:
        raise UserError("name at least one set of samples")
    return [open_samples(name, resolution) for name in names]


def _captions(samples: Samples, file: Path | None) -> list[str]:
    return samples.captions() if file is None else read_captions(file, samples.count)


def _features(samples: Samples, extractor: Extractor) -> np.ndarray:
    print(f"{samples.name}: {samples.count} pictures", file=sys.stderr, flush=True)
    return extractor(samples.batches())


def _about(sets: list[Samples], extractor: Extractor, **more: Any) -> dict[str, Any]:
    """What scores are about."""
    names, counts = [each.name for each in sets], [each.count for each in sets]
    return {
        "samples": names,
        "sample pictures": counts,
        "extractor": extractor.name,
        **more,
    }


def _statistics(samples: Samples, extractor: Extractor) -> Statistics:
    return statistics_of(_features(samples, extractor), extractor.name)


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
