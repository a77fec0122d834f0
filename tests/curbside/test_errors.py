"""The tree of errors is the one that its module draws, and each says who must act."""

from __future__ import annotations

import inspect

import pytest

from curbside import errors
from curbside.errors import BackendError, CasesError, CurbsideError, MissingExtra, UserError

CLASSES = [
    c
    for _, c in inspect.getmembers(errors, inspect.isclass)
    if issubclass(c, CurbsideError) and c.__module__ == errors.__name__
]


def test_the_docstring_draws_every_class_below_its_parent() -> None:
    drawn: dict[str, str] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
        if not words.strip() or words.split()[0] not in dir(errors):
            continue
        depth = (len(words) - len(words.lstrip()) - 4) // 4
        parents = [*parents[:depth], words.split()[0]]
        drawn[parents[-1]] = parents[-2] if depth else "Exception"
    assert drawn == {c.__name__: c.__bases__[0].__name__ for c in CLASSES}


def test_codes_are_unique() -> None:
    assert len({c.code for c in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_the_user_gets_two_and_we_get_one(kind: type[CurbsideError]) -> None:
    assert kind.exit_code == (2 if issubclass(kind, UserError) else 1)


def test_the_hint_stands_below_the_message() -> None:
    assert str(BackendError("it fell over", hint="start it")) == "it fell over\n  next: start it"
    assert str(BackendError("it fell over")) == "it fell over"


def test_a_missing_extra_names_the_command_that_brings_it() -> None:
    assert "pip install 'curbside[vllm]'" in str(MissingExtra("serving", "vllm"))


def test_cases_carry_every_problem() -> None:
    problems = [errors.RowProblem(3, "bad"), errors.RowProblem(4, "worse")]
    assert CasesError("no", problems=problems).problems == tuple(problems)
