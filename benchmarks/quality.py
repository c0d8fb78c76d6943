"""Models beside real pictures: every measure of the ruler, on held-out and on seen pairs.

    python benchmarks/quality.py --models models/emoji64 models/former

Each model draws the held-out pairs of the emoji and as many training pairs, a set for each seed; a
cell is the mean and the standard deviation over sets. The column `real` is what real pictures
score: the prompted pairs' own where captions are judged, and where distances are, training pictures
against as many other training pictures, in random parts. That is the floor of unprompted pictures;
those of a model have the reference's own captions, and may come below it. Of synonyms, words that
no caption has, it is asked whether a set of their pictures retrieves the caption that the corpus
has for the thing.

Axis legend: N pictures of a set, D numbers in a feature.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxdiff import platform  # noqa: E402
from jaxdiff.cli import exit_code, or_exit, parse_or_explain  # noqa: E402

or_exit(platform.configure)

from benchmarks import markdown, measuring  # noqa: E402
from benchmarks.judge import CORPUS, Judge, Pairs, draw, numbers, open_model  # noqa: E402
from jaxdiff.data.captions import emoji_caption, subject_of  # noqa: E402
from jaxdiff.data.icons import PERMISSIVE  # noqa: E402
from jaxdiff.data.synonyms import Synonym, read_synonyms  # noqa: E402
from jaxdiff.errors import UserError  # noqa: E402
from jaxdiff.evaluate.agreement import agreement  # noqa: E402
from jaxdiff.evaluate.diversity import diversity  # noqa: E402
from jaxdiff.evaluate.features import features_of  # noqa: E402
from jaxdiff.evaluate.samples import open_samples  # noqa: E402
from jaxdiff.evaluate.statistics import statistics_of  # noqa: E402
from jaxdiff.models.checks import require_positive  # noqa: E402
from jaxdiff.pipelines import TextToImage  # noqa: E402

_MEASURES = ("frechet", "kid", "cmmd", "manifold")
_ASKED = ("synonyms", "the same by name")
_PARTS = 5  # random pairs of parts that the floor is the mean over
Features = Float[np.ndarray, "N D"]
Scores = dict[str, list[float]]
"""Name -> one value for each set."""


@dataclass(frozen=True)
class Arguments:
    """Measure models beside real pictures."""

    models: tuple[str, ...] = ("models/emoji64",)
    """Model directories, or MODEL+LORA, a column each."""
    extractor: str = "clip:models/emoji-clip"
    """What looks at the pictures; reads texts."""
    seeds: int = 3
    """Sets of pictures; picture i of set k of N has the seed k N + i."""
    count: int = 381
    """Pairs of each split."""
    synonyms: Path | None = Path(__file__).with_name("synonyms.txt")
    """A file with a line for each: SYNONYM = SUBJECT; None asks of none."""
    told: Path | None = None
    """The names that the models were trained with (`data.synonyms`): such synonyms are asked of by
    themselves."""


def floor(features: Features, count: int, judge: Judge) -> Scores:
    """What `count` real pictures score against `count` others, several times over."""
    draws, found = np.random.default_rng(0), {}
    for _ in range(_PARTS):
        order = draws.permutation(len(features))
        parts = features[order[:count]], features[order[count : 2 * count]]
        reference = statistics_of(parts[0], judge.extractor.name)
        add(found, numbers(reference, parts[1], judge.extractor, None, _MEASURES))
    return found


def own_fit(pairs: Pairs, judge: Judge) -> Scores:
    """How real pictures fit their own captions."""
    features = pairs.reference.features
    found = numbers(pairs.reference, features, judge.extractor, pairs.captions, ())
    return {name: [value] for name, value in found.items()}


def add(scores: Scores, values: dict[str, float]) -> None:
    """Append a set's values."""
    for name, value in values.items():
        scores.setdefault(name, []).append(value)


def of_model(pipe: TextToImage, judge: Judge, kind: str, seeds: int) -> Scores:
    """All scores of a model on the pairs of a kind."""
    pairs, found, drawn = judge.pairs[kind], {}, []
    for number in range(seeds):
        drawn.append(draw(pipe, pairs.captions, number, judge.extractor))
        each = numbers(pairs.reference, drawn[-1], judge.extractor, pairs.captions, _MEASURES)
        add(found, each)
    if seeds > 1:
        prompts = np.tile(np.arange(len(pairs.captions)), seeds)
        varied = diversity(np.concatenate(drawn), prompts)
        found["distance within a prompt"] = [varied.distance.mean]
        found[f"Vendi score of {seeds} pictures"] = [varied.vendi.mean]
    return found


def of_synonyms(
    pipe: TextToImage, judge: Judge, synonyms: Sequence[Synonym], known: Sequence[str]
) -> Scores:
    """How often pictures retrieve a thing's caption among all, by synonym and by its own name.

    Args:
      pipe: the model.
      judge: whose extractor reads captions and pictures.
      synonyms: words in pairs, each drawn in every style in which the subject has a picture.
      known: all captions of the corpus.
    """
    unique = list(dict.fromkeys(known))
    texts = judge.extractor.texts(unique)
    place = {caption: texts.own[i] for i, caption in enumerate(unique)}
    asked = [
        (emoji_caption(each.word, style), emoji_caption(each.subject, style))
        for each in synonyms
        for style in PERMISSIVE
        if emoji_caption(each.subject, style) in place
    ]
    wanted, found = np.array([place[name] for _, name in asked]), {}
    for kind, prompts in zip(_ASKED, zip(*asked, strict=True), strict=True):
        fit = agreement(draw(pipe, list(prompts), 0, judge.extractor), texts.embeddings, wanted)
        add(found, {f"retrieval at 10, {kind}": fit.retrieval[10]})
    return found


def require_unknown(synonyms: Sequence[Synonym], known: Sequence[str]) -> None:
    """Refuse synonyms whose words a subject has, and subjects that no caption has.

    Raises:
      UserError: names the first.
    """
    subjects = {subject_of(caption) for caption in known}
    for word, subject in synonyms:
        having = [each for each in subjects if f" {word} " in f" {each} "]
        if having or subject not in subjects:
            said = f"{min(having)!r} has it" if having else f"{subject!r} is no subject"
            raise UserError(f"synonym {word!r} = {subject!r}: {said}")


def show(title: str, columns: dict[str, Scores]) -> None:
    """Print a table: a row for each score, a column for each of `columns`."""
    names = dict.fromkeys(name for scores in columns.values() for name in scores)
    print(f"\n{title}\n\n{markdown.head('measure', *columns)}")
    for name in names:
        found = [scores.get(name) for scores in columns.values()]
        cells = ["–" if values is None else markdown.spread(values) for values in found]
        print(markdown.row(name, *cells), flush=True)


def main(words: list[str]) -> int:
    """Run the command line; 0 on success, 2 on bad input."""

    def run() -> None:
        args = parse_or_explain(lambda: tyro.cli(Arguments, args=words))
        require_positive("quality", args, ("seeds", "count"))
        training = open_samples(f"{CORPUS}@train")
        known = [*training.captions(), *open_samples(f"{CORPUS}@heldout").captions()]
        synonyms = [] if args.synonyms is None else read_synonyms(args.synonyms)
        require_unknown(synonyms, known)
        judge = Judge(args.extractor, args.count)
        pipes = {model: open_model(model) for model in args.models}
        least = floor(features_of(training, judge.extractor), args.count, judge)
        for kind, pairs in judge.pairs.items():
            real = least | own_fit(pairs, judge)
            columns = {
                name: of_model(pipe, judge, kind, args.seeds) for name, pipe in pipes.items()
            }
            show(f"{kind}, {args.count} pairs, {args.seeds} sets", {"real": real, **columns})
        names = set() if args.told is None else set(read_synonyms(args.told))
        for kind, some in (
            ("synonyms that training told", [each for each in synonyms if each in names]),
            ("synonyms of which it said nothing", [each for each in synonyms if each not in names]),
        ):
            if some:
                asked = {n: of_synonyms(pipe, judge, some, known) for n, pipe in pipes.items()}
                show(f"{len(some)} {kind}", asked)
        print(f"\n{judge.extractor.name}")
        print(measuring.conditions(measuring.place()))

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
