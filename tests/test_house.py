"""The rules of the house that no linter knows: typed public functions, and shapes in words."""

import ast
import re
from pathlib import Path

import pytest

_PACKAGE = Path(__file__).parents[1] / "jaxdiff"
_FILES = sorted(_PACKAGE.rglob("*.py"))
_MATHS = [file for file in _FILES if {"diffusion", "models"} & set(file.parts)]
_BARE_ARRAY = re.compile(r"(?<![\w\[])(jax\.|jnp\.|np\.)?(Array|ndarray)\b(?!\s*,)")
_SHAPE = re.compile(r"\[[^\]\n]+\]|\b(any|same) shape|\belement ?wise")


def _name(file):
    return str(file.relative_to(_PACKAGE.parent))


def _public_functions(file):
    """(name, node, docstring) of public functions, and methods of public classes, in a file."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (
                    method.name == "__call__" or not method.name.startswith("_")
                ):
                    words = [ast.get_docstring(owner) or "" for owner in (node, method)]
                    yield f"{node.name}.{method.name}", method, " ".join(words)


def _arguments(function):
    """The arguments that need a type: all but self and cls."""
    spec = function.args
    named = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
    starred = [argument for argument in (spec.vararg, spec.kwarg) if argument]
    return [argument for argument in [*named, *starred] if argument.arg not in ("self", "cls")]


@pytest.mark.parametrize("file", _FILES, ids=_name)
def test_public_functions_are_typed(file):
    untyped = [
        f"{name}({argument.arg})"
        for name, function, _ in _public_functions(file)
        for argument in _arguments(function)
        if argument.annotation is None
    ]
    untyped += [
        f"{name} -> ?" for name, function, _ in _public_functions(file) if function.returns is None
    ]
    assert not untyped


@pytest.mark.parametrize("file", _FILES, ids=_name)
def test_public_functions_are_explained(file):
    """Each by its docstring; __call__ and setup may be explained by their class."""
    silent = [name for name, _, words in _public_functions(file) if not words.strip()]
    assert not silent


@pytest.mark.parametrize("file", _MATHS, ids=_name)
def test_arrays_of_public_functions_say_their_shape(file):
    """A bare Array in a signature is fine where the docstring gives the shape, as in [B H W C]."""
    shapeless = []
    for name, function, words in _public_functions(file):
        types = [argument.annotation for argument in _arguments(function)] + [function.returns]
        bare = any(_BARE_ARRAY.search(ast.unparse(node)) for node in types if node is not None)
        if bare and not _SHAPE.search(words):
            shapeless.append(name)
    assert not shapeless


def test_no_private_jax():
    private = [_name(file) for file in _FILES if re.search(r"\bjax\._src\b", file.read_text())]
    assert not private
