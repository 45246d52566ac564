"""`hashclient scan s3://…`: objects in buckets of a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.buckets import SECRET_KEY, Site
from tests.support import Result, csv_of, make_state, run

LISTED = b"listed one"
BIG = bytes(range(256)) * 9_000


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED, "e-2": BIG})})


def scan(site: Site, state: Path, *args: object, **env: str) -> Result:
    words = ("--state-dir", state, "scan", "--format", "jsonl", "--all", *args)
    result = run(*words, env={"HASHCLIENT_DEBUG": "1", **site.environment, **env})
    assert SECRET_KEY not in result.out + result.err
    return result


def test_objects_are_listed_read_and_judged(site: Site, state: Path) -> None:
    bucket = site.bucket(**{"a/one": LISTED, "a/two": LISTED[::-1], "b": b"short", "c/big": BIG})
    result = scan(site, state, f"{bucket.uri}/")
    assert result.outcomes == {
        f"{bucket.uri}/a/one": "match",
        f"{bucket.uri}/a/two": "clean",
        f"{bucket.uri}/b": "clean",
        f"{bucket.uri}/c/big": "match",
    }, result.err
    assert result.code == 10
