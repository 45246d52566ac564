"""Logs for other implementations: files in `tests/vectors/audit` and their expected results.

The logs were written with a fixed key, id and clock, so they show when a format changes by mistake.
Run as a program, with the project on the path, this file writes the logs again.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hashclient.audit.log import AuditLog, Event, checkpoint, verify
from hashclient.core.errors import AuditError

VECTORS = Path(__file__).parents[1] / "vectors" / "audit"
START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
FIRST, SECOND, LAST = "log-000001.jsonl", "log-000002.jsonl", "log.jsonl"
#: Names of files in the folder of a test vector that do not belong to its log.
EXPECT, CHECKPOINT = "expect.json", "checkpoint.json"


def _log(directory: Path, closed: int) -> AuditLog:
    """Write a log of `closed` closed files and one open file, with about three records in each."""
    ticks = itertools.count()
    log = AuditLog(directory, clock=lambda: START + timedelta(seconds=next(ticks)))
    for number in range(closed + 1):
        if number:
            assert log.rotate() is not None
        log.append([Event("scan-start", {"number": number}), Event("match", {"path": "/srv/\x7f"})])
        log.append([Event("scan-end", {"share": 0.5, "words": ["é", "\U0001f5dd"]})])
    return log


def _cut(path: Path, count: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-count]))


def _one_file(directory: Path) -> None:
    _log(directory, 0)


def _three_files(directory: Path) -> None:
    _log(directory, 2)


def _earlier_checkpoint(directory: Path) -> None:
    log = _log(directory, 0)
    (directory / CHECKPOINT).write_bytes(checkpoint(directory))
    assert log.rotate() is not None


def _archived(directory: Path) -> None:
    _log(directory, 2)
    (directory / FIRST).unlink()


def _killed_while_it_was_closed(directory: Path) -> None:
    _log(directory, 1)
    (directory / LAST).unlink()
    (directory / FIRST).rename(directory / LAST)


def _missing_in_between(directory: Path) -> None:
    _log(directory, 2)
    (directory / SECOND).unlink()


def _not_closed(directory: Path) -> None:
    _log(directory, 1)
    _cut(directory / FIRST, 1)


def _files_exchanged(directory: Path) -> None:
    _log(directory, 2)
    (directory / FIRST).rename(directory / "x")
    (directory / SECOND).rename(directory / FIRST)
    (directory / "x").rename(directory / SECOND)


def _checkpoint_of_what_was_archived(directory: Path) -> None:
    log = _log(directory, 0)
    (directory / CHECKPOINT).write_bytes(checkpoint(directory))
    log.append([Event("init", {})])
    assert log.rotate() is not None
    (directory / FIRST).unlink()


def _cut_after_the_checkpoint(directory: Path) -> None:
    _log(directory, 1)
    (directory / CHECKPOINT).write_bytes(checkpoint(directory))
    _cut(directory / LAST, 1)


CASES: dict[str, Callable[[Path], None]] = {
    "one-file": _one_file,
    "three-files": _three_files,
    "earlier-checkpoint": _earlier_checkpoint,
    "archived": _archived,
    "killed-while-it-was-closed": _killed_while_it_was_closed,
    "missing-in-between": _missing_in_between,
    "not-closed": _not_closed,
    "files-exchanged": _files_exchanged,
    "checkpoint-of-what-was-archived": _checkpoint_of_what_was_archived,
    "cut-after-the-checkpoint": _cut_after_the_checkpoint,
}


def expectation(directory: Path) -> dict[str, Any]:
    """Return the expected result for a vector."""
    kept = directory / CHECKPOINT
    try:
        report = verify(directory, kept.read_bytes() if kept.exists() else None)
    except AuditError:
        return {"expect": "refused"}
    return {
        "expect": "intact",
        "records": report.records,
        "seq": report.seq,
        "hash": report.hash,
        "archived_seq": report.archived_seq,
        "archived_hash": report.archived_hash,
    }


def build(name: str, directory: Path) -> None:
    """Write a vector into `directory`."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    with (
        mock.patch.object(Ed25519PrivateKey, "generate", return_value=key),
        mock.patch("os.urandom", lambda count: bytes.fromhex("0123456789abcdef" * (count // 8))),
        mock.patch.object(os, "fsync"),
    ):
        CASES[name](directory)
    expected = expectation(directory)
    for path in directory.glob("key.*"):
        path.unlink()
    (directory / EXPECT).write_text(json.dumps(expected, indent=1) + "\n")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("name", CASES)
def test_written_logs_equal_the_vectors(name: str, tmp_path: Path) -> None:
    build(name, tmp_path / name)
    assert contents(tmp_path / name) == contents(VECTORS / name)


@pytest.mark.parametrize("name", CASES)
def test_each_vector_has_the_expected_result(name: str) -> None:
    expected = json.loads((VECTORS / name / EXPECT).read_text())
    assert expectation(VECTORS / name) == expected
    good = {
        "one-file",
        "three-files",
        "earlier-checkpoint",
        "archived",
        "killed-while-it-was-closed",
    }
    assert (expected["expect"] == "intact") == (name in good)


def test_there_are_no_others() -> None:
    assert {path.name for path in VECTORS.iterdir()} == {*CASES, "README.md"}


def main() -> None:
    """Write all vectors of audit logs again."""
    for name in CASES:
        with tempfile.TemporaryDirectory() as temporary:
            build(name, Path(temporary) / name)
            shutil.rmtree(VECTORS / name, ignore_errors=True)
            shutil.copytree(Path(temporary) / name, VECTORS / name)


if __name__ == "__main__":
    main()
