"""The documents: their commands parse, and their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

import train
from benchmarks.few_steps import Arguments as FewSteps
from benchmarks.quality import Arguments as Quality
from benchmarks.recipes import Arguments as Recipes
from jaxdiff.convert import __main__ as convert
from jaxdiff.data.other_names import Arguments as OtherNames
from jaxdiff.data.words import Arguments as Words
from jaxdiff.evaluate import arguments as evaluate
from jaxdiff.pipelines.cli import Arguments
from jaxdiff.presets import PRESETS
from jaxdiff.training.hosts import split_flags
from jaxdiff.training.near import Arguments as Near

_ROOT = Path(__file__).parents[1]
_DOCUMENTS = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md"), *_ROOT.glob("models/*/*.md")])
_MODULE = r"python -m (jaxdiff[.\w]*) "
_PARSERS = {
    "train.py": lambda arguments: train.parse(split_flags(arguments)[1]),
    "sample.py": lambda arguments: tyro.cli(Arguments, args=arguments, use_underscores=False),
    "jaxdiff/convert/__main__.py": lambda arguments: tyro.cli(
        convert.Arguments, args=arguments, use_underscores=False
    ),
    "jaxdiff/evaluate/__main__.py": lambda arguments: tyro.cli(
        evaluate.Arguments, args=arguments, use_underscores=False
    ),
    "jaxdiff/data/other_names.py": lambda arguments: tyro.cli(OtherNames, args=arguments),
    "jaxdiff/data/words.py": lambda arguments: tyro.cli(Words, args=arguments),
    "jaxdiff/training/near.py": lambda arguments: tyro.cli(Near, args=arguments),
    "benchmarks/concept_hit_rate.py": None,
    "benchmarks/few_steps.py": lambda arguments: tyro.cli(FewSteps, args=arguments),
    "benchmarks/grids.py": None,
    "benchmarks/input.py": None,
    "benchmarks/plans.py": None,
    "benchmarks/quality.py": lambda arguments: tyro.cli(Quality, args=arguments),
    "benchmarks/recipes.py": lambda arguments: tyro.cli(Recipes, args=arguments),
    "benchmarks/subject.py": None,
    "benchmarks/torture.py": None,
    "benchmarks/weak_scaling.py": None,
}


def _file(module):
    path = module[1].replace(".", "/")
    return f"python {path}{'/__main__' if (_ROOT / path).is_dir() else ''}.py "


def _commands():
    """(document, script, arguments) of every `$ ... python SCRIPT ARGUMENTS` in a console block."""
    for document in _DOCUMENTS:
        for block in re.findall(r"```console\n(.*?)```", document.read_text(), re.DOTALL):
            for line in re.findall(r"^\$ (.*)$", block.replace("\\\n", " "), re.MULTILINE):
                for part in line.split("&&"):
                    words = shlex.split(re.sub(_MODULE, _file, part), comments=True)
                    if words[:1] == ["python"] and words[1].endswith(".py"):
                        yield pytest.param(words[1], words[2:], id=f"{document.name}: {line[:60]}")


@pytest.mark.parametrize(("script", "arguments"), list(_commands()))
def test_commands_parse(script, arguments):
    assert (_ROOT / script).is_file()
    if _PARSERS[script] is not None:
        _PARSERS[script](arguments)


def test_every_preset_stands_in_a_table():
    text = "".join((_ROOT / "docs" / name).read_text() for name in ("training.md", "finetuning.md"))
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert PRESETS.keys() <= set(re.findall(r"`([^`]+)`", " ".join(rows)))


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = re.sub(r"<!--.*?-->", "", document.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    missing = [
        link
        for link in links
        if not re.match(r"https?:|#", link)
        and not (document.parent / link.partition("#")[0]).exists()
    ]
    assert not missing
