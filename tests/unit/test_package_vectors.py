"""Packages for other implementations: `tests/vectors/package` and the expected results.

Keys and seals are random, so the same bytes cannot be written again. Run as a program, with the
project on the path, this file writes all packages again with other keys.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fixtures.desk import Desk
from hashclient.core.errors import VerificationError
from hashclient.packages.verify import verify_package, verify_retraction
from hashclient.quarantine.age import load_identities
from hashclient.quarantine.evidence import opener_of

VECTORS = Path(__file__).parents[1] / "vectors" / "package"
PACKAGE, NOTE, EXPECT = "package", "retraction.json", "expect.json"
#: The file of the key that opens the evidence of all packages, and that protects nothing.
OFFICER = "officer.key"


def _same(_: Path) -> None:
    """Leave the package unchanged."""


def _replace(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(package: Path) -> None:
        path = package / name
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return change


def _drop_line(package: Path) -> None:
    path = package / "custody.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))


def _swap_lines(package: Path) -> None:
    path = package / "custody.jsonl"
    first, second, third, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, third, second, *rest]))


def _exchange_evidence(package: Path) -> None:
    one, two = sorted((package / "evidence").iterdir())
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _add_file(package: Path) -> None:
    (package / "more.txt").write_bytes(b"more\n")


def _drop_evidence(package: Path) -> None:
    next(iter(sorted((package / "evidence").iterdir()))).unlink()


def _drop_checkpoint(package: Path) -> None:
    (package / "checkpoint.json").unlink()


PACKAGES: dict[str, Callable[[Path], None]] = {
    "as-it-was-handed-over": _same,
    "another-path-in-the-document": _replace("document.json", b"one.bin", b"two.bin"),
    "another-readme": _replace("README.txt", b"report", b"Report"),
    "custody-without-a-line": _drop_line,
    "custody-in-another-order": _swap_lines,
    "evidence-exchanged": _exchange_evidence,
    "evidence-missing": _drop_evidence,
    "a-file-more": _add_file,
    "no-checkpoint": _drop_checkpoint,
}
NOTES = {
    "retracted": _same,
    "retracted-for-another-reason": _replace(NOTE, b"a mistake", b"mistaken!"),
}


def expectation(directory: Path) -> dict[str, Any]:
    """Return the expected message and exit code for a vector."""
    try:
        if (directory / NOTE).exists():
            note = verify_retraction(directory / NOTE)
            return {"expect": "verifies", "report": note.report_id, "public_key": note.public_key}
        found = verify_package(directory / PACKAGE)
    except VerificationError:
        return {"expect": "refused"}
    return {
        "expect": "verifies",
        "report": found.document.report,
        "matches": [match.id for match in found.document.matches],
        "evidence": found.evidence,
        "custody": found.custody.records,
        "public_key": found.public_key,
    }


@pytest.mark.parametrize("name", [*PACKAGES, *NOTES])
def test_each_vector_has_the_expected_result(name: str) -> None:
    expected = json.loads((VECTORS / name / EXPECT).read_text())
    assert expectation(VECTORS / name) == expected
    assert (expected["expect"] == "verifies") == (name in {"as-it-was-handed-over", "retracted"})


def test_the_evidence_opens_with_the_key_beside_it(tmp_path: Path) -> None:
    key = tmp_path / OFFICER
    shutil.copyfile(VECTORS / OFFICER, key)
    key.chmod(0o600)
    good = VECTORS / "as-it-was-handed-over" / PACKAGE
    found = verify_package(good, opener=opener_of(load_identities(key)))
    assert found.evidence == 2


def test_there_are_no_others() -> None:
    assert {p.name for p in VECTORS.iterdir()} == {*PACKAGES, *NOTES, OFFICER, "README.md"}


def main() -> None:
    """Write all packages again."""
    host = mock.Mock(nodename="host-1.example.org")
    with (
        mock.patch.object(os, "uname", return_value=host),
        tempfile.TemporaryDirectory() as temporary,
    ):
        desk = Desk(Path(temporary))
        matches = [
            desk.find(name, f"vector {name}\n".encode()) for name in ("one.bin", "three.bin")
        ]
        for match in matches:
            desk.quarantine(match)
        report = desk.prepare(*matches)
        desk.send(report)
        (package,) = (path for path in desk.out.iterdir() if path.is_dir())
        shutil.copyfile(desk.officer, VECTORS / OFFICER)
        for name, change in PACKAGES.items():
            shutil.rmtree(VECTORS / name, ignore_errors=True)
            shutil.copytree(package, VECTORS / name / PACKAGE)
            change(VECTORS / name / PACKAGE)
        desk.retract(report)
        (note,) = desk.out.glob("*-retraction.json")
        for name, change in NOTES.items():
            shutil.rmtree(VECTORS / name, ignore_errors=True)
            (VECTORS / name).mkdir()
            shutil.copyfile(note, VECTORS / name / NOTE)
            change(VECTORS / name)
    for name in [*PACKAGES, *NOTES]:
        expected = json.dumps(expectation(VECTORS / name), indent=1)
        (VECTORS / name / EXPECT).write_text(expected + "\n")


if __name__ == "__main__":
    main()
