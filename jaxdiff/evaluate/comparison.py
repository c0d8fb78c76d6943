"""Sets of pictures against a reference: pictures, statistics, or both in one file."""

from pathlib import Path

from jaxdiff.evaluate import arguments, report
from jaxdiff.evaluate.extractors import open_extractor
from jaxdiff.evaluate.features import Extractor, features_of
from jaxdiff.evaluate.kernel import subset_size
from jaxdiff.evaluate.measures import Options, choose_measures, measure, require_enough
from jaxdiff.evaluate.samples import Samples, open_all, open_samples
from jaxdiff.evaluate.statistics import (
    Statistics,
    contents,
    read_statistics,
    require_same_size,
    require_same_width,
    statistics_of,
)


def run_compare(args: arguments.Compare) -> None:
    """Print the scores of sets against a reference."""
    sets = open_all(args.samples, args.resolution)
    holds = contents(Path(args.reference))
    read = holds.statistics and (args.trust_reference or not holds.pictures)
    pictures = None
    if holds.pictures or not holds.statistics:
        pictures = open_samples(args.reference, args.resolution)
    extractor = open_extractor(args.extractor)
    names = choose_measures(args.measures, extractor.name)
    known = None
    if read:
        known = read_statistics(Path(args.reference), extractor.name, args.trust_reference)
    elif holds.statistics:
        report.say(f"{args.reference} holds statistics too, which --trust-reference would take")
    kept = _kept(known, pictures)
    options = _options(args, sets, kept)
    behind = kept if known is None else known.moments.count
    size = known.size if pictures is None else pictures.size
    for each in sets:
        require_same_size(size, args.reference, each.size, each.name)
        width = extractor.width(each.size)
        if known is not None:
            require_same_width(known, args.reference, width, extractor.name)
        require_enough(names, behind, kept, each.count, width, options)
    reference = _reference(known, pictures, extractor)
    scores = [measure(reference, features_of(each, extractor), names, options) for each in sets]
    about = {"reference": args.reference, "reference pictures": kept or behind or "?"}
    if kept is not None and behind != kept:
        about["pictures behind its mu and sigma"] = behind or "?"
    given = {"measures": names, "resolution": args.resolution}
    about["options"] = options._asdict() | given | {"trust_reference": args.trust_reference}
    report.tell(scores, report.about_sets(sets, extractor, **about), args.json)


def _kept(known: Statistics | None, pictures: Samples | None) -> int | None:
    """How many pictures of the reference there are features of, or will be; None: of none."""
    if pictures is not None:
        return pictures.count
    return None if known.features is None else len(known.features)


def _options(args: arguments.Compare, sets: list[Samples], kept: int | None) -> Options:
    """How to measure, all sets alike: one size of subsets for all of them."""
    counts = [each.count for each in sets] + ([] if kept is None else [kept])
    half = subset_size(min(counts), max(counts))
    size = args.subset_size or (half if half > 1 else None)
    return Options(args.neighbours, args.subsets, size, args.few_samples, args.seed)


def _reference(
    known: Statistics | None, pictures: Samples | None, extractor: Extractor
) -> Statistics:
    """What to compare with: as read, of pictures, or of both (OpenAI's: moments of a whole set)."""
    if pictures is None:
        return known
    features = features_of(pictures, extractor)
    extracted = statistics_of(features, extractor.name, pictures.size)
    return extracted if known is None else extracted._replace(moments=known.moments)
