"""Tests of gateways have the mark `deep`: gateways start slowly, and are often not installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateways.door import Door, door


@pytest.fixture(scope="module")
def gate() -> Iterator[Door]:
    """Return the `Door` (a socket path for gateways) that all tests of a program share."""
    with door() as made:
        yield made
