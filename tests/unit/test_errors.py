"""Exit codes and errors: scripts rely on the exit codes, so the test repeats each number."""

from __future__ import annotations

import re

import pytest

from hashclient.cli.main import exit_code_table
from hashclient.core import errors
from hashclient.core.errors import ExitCode, HashclientError

NUMBERS = {
    "OK": 0,
    "BUG": 1,
    "USAGE": 2,
    "INCOMPLETE": 3,
    "UNREACHABLE": 4,
    "UNAUTHORISED": 5,
    "UNVERIFIED": 6,
    "STALE": 7,
    "STATE": 8,
    "AUDIT": 9,
    "MATCH": 10,
    "MATCH_ATTENTION": 11,
    "INTERRUPTED": 130,
    "TERMINATED": 143,
}

BY_CLASS = {
    "HashclientError": 1,
    "UsageError": 2,
    "ConfigError": 2,
    "UnreachableError": 4,
    "AuthorisationError": 5,
    "VerificationError": 6,
    "DeliveryError": 6,
    "StaleError": 7,
    "StateError": 8,
    "LockedError": 8,
    "AuditError": 9,
}


def test_the_numbers() -> None:
    assert {code.name: int(code) for code in ExitCode} == NUMBERS


def test_the_table_that_users_see_is_the_enumeration() -> None:
    rows = [re.fullmatch(r" *(\d+)  (\S.*)", line) for line in exit_code_table().splitlines()]
    assert [(int(row[1]), row[2]) for row in rows if row] == [
        (int(code), code.meaning) for code in ExitCode
    ]
    assert len(rows) == len(ExitCode)


def test_the_class_of_an_error_owns_its_code() -> None:
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, HashclientError)
    }
    assert {name: int(value.exit_code) for name, value in classes.items()} == BY_CLASS


@pytest.mark.parametrize("name", BY_CLASS)
def test_message_and_hint_are_apart(name: str) -> None:
    error = getattr(errors, name)("what went wrong", hint="what to do")
    assert (error.message, error.hint, str(error)) == (
        "what went wrong",
        "what to do",
        "what went wrong",
    )
    assert getattr(errors, name)("alone").hint is None


def test_without_memory_there_is_advice() -> None:
    error = errors.out_of_memory()
    assert (error.exit_code, error.message) == (8, "there is not enough memory")
    assert "`ulimit -d`" in (error.hint or "") and "fewer --jobs" in (error.hint or "")


def test_the_tree_in_the_documentation_is_the_tree() -> None:
    drawn = re.findall(r"([A-Z]\w+Error) +(\d+)", str(errors.__doc__))
    assert {name: int(code) for name, code in drawn} | {"HashclientError": 1} == BY_CLASS
