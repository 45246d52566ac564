"""Gateways take long to start and are not on every machine, so all these tests are `deep`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateways.door import Door, door


@pytest.fixture(scope="module")
def gate() -> Iterator[Door]:
    """Return one door that all tests of a program use."""
    with door() as made:
        yield made
