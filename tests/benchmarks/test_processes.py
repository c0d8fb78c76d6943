"""Measurements in processes of their own: tables of them, and why one has no result."""

import pytest

from benchmarks import markdown, processes
from benchmarks.printing import Table, print_table
from benchmarks.processes import reason


def test_markdown():
    assert markdown.head("side", "seconds") == "| side | seconds |\n|---|---|"
    assert markdown.row("eager", "1.5") == "| eager | 1.5 |"


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (-9, "", "out of memory"),
        (
            1,
            "XlaRuntimeError: RESOURCE_EXHAUSTED: no 9 bytes",
            "out of memory",
        ),
        (2, "a warning\nunknown kernel a|b\n\n", "unknown kernel a/b"),
        (3, "", "ended with code 3"),
    ],
)
def test_reason(code, said, expected):
    assert reason(code, said) == expected


def test_a_failure_is_a_row_and_the_table_goes_on(monkeypatch, capsys):
    def call(target, arguments, **settings):
        if arguments["what"]["batch"] == 8:
            raise processes.ProcessFailed("out of memory")
        return {"place": "here", "median": 2.0}

    monkeypatch.setattr(processes, "call", call)
    numbers = lambda what, found: [str(what["batch"]), str(found["median"])]  # noqa: E731
    table = Table("benchmarks.x:y", ("batch",), ("again", "s"), numbers)
    assert print_table(table, [{"batch": n} for n in (4, 8, 16)]) == "here"
    lines = ["| 4 | 4 | 2.0 |", "| 8 | out of memory |  |", "| 16 | 16 | 2.0 |"]
    assert capsys.readouterr().out.splitlines()[2:] == lines
