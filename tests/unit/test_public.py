"""The public names of the package: they exist, are loaded lazily, and are complete."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hashclient
from hashclient.cli.main import COMMANDS
from hashclient.config.settings import COMMAND_TABLES


@pytest.mark.parametrize("name", hashclient.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(hashclient, name)
    assert getattr(value, "__name__", name) == name
    assert name in dir(hashclient)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hashclient.nonsense  # type: ignore[attr-defined]


def test_importing_it_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import hashclient; print(set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "{'hashclient'}\n"


def test_each_table_of_a_command_is_of_one_that_there_is() -> None:
    assert COMMANDS.keys() > COMMAND_TABLES
