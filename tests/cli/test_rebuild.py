"""Bytes of an index that change in place: `status --verify` finds them, `fetch --rebuild` mends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Site, csv_of, write_tree

FILES = {"a": b"one", "b": b"two", "c": b"three"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        made.publish(csv_of({f"e-{name}": data for name, data in FILES.items()}))
        assert made.call(*made.init_arguments()).code == 0
        assert made.call("fetch").code == 0
        yield made


def flip_last_bytes(run: Path) -> None:
    """Change the last section, which holds rows and tags, without changing the length."""
    data = bytearray(run.read_bytes())
    for position in range(len(data) // 2, len(data)):
        data[position] ^= 0x55
    run.write_bytes(data)


def test_rot_is_found_and_mended(site: Site, tmp_path: Path) -> None:
    assert site.call("status", "--verify").code == 0
    (run,) = (site.state / "lists/baseline").glob("run-*")
    flip_last_bytes(run)
    found = site.call("status", "--verify", "--format", "json")
    assert found.code == 8
    (status,) = json.loads(found.out)["lists"]
    assert "damaged" in status["problem"]
    assert "fetch --rebuild" in status["problem"]
    assert not status["usable"]
    rebuilt = site.call("fetch", "--rebuild")
    assert (rebuilt.code, "built anew" in rebuilt.out) == (0, True)
    assert site.call("status", "--verify").code == 0
    tree = write_tree(tmp_path / "tree", FILES)
    assert site.call("scan", "--no-inventory", tree).code == 10


def test_a_rebuild_still_refuses_what_goes_back(site: Site) -> None:
    again = site.call("fetch", "--rebuild", "--format", "json")
    (fetched,) = json.loads(again.out)["lists"]
    assert (again.code, fetched["changed"], fetched["added"]) == (0, False, None)
