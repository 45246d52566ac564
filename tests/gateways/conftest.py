"""Gateways take long to start and are not on every machine: all tests here are `deep`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateways.door import Door, door


@pytest.fixture(scope="module")
def gate() -> Iterator[Door]:
    """One door for all tests of a program."""
    with door() as made:
        yield made
