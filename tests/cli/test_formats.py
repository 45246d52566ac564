"""Every format, from the commands that write it: complete reports of real runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hashclient.core.errors import ExitCode
from hashclient.formats.registry import FORMATS
from tests.contract.test_formats import TABLE
from tests.kit import call, csv_of, make_state, write_tree

CONTENT = b"a benign file on the list"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    state = make_state(directory, {"baseline": csv_of({"e-1": CONTENT})})
    write_tree(directory / "files", {"d/=1 <b>.txt": CONTENT, "other.txt": b"not on the list"})
    return state


@pytest.mark.sampled
@pytest.mark.parametrize("name", FORMATS)
def test_a_scan_and_its_record(state: Path, tmp_path: Path, name: str) -> None:
    form, files = TABLE[name], state.parent / "files"
    scan = call("--state-dir", state, "scan", "--format", name, files)
    assert scan.code == ExitCode.MATCH
    report = form.read(scan.out)
    (found,) = report.files
    path = str(files / "d/=1 <b>.txt").encode()
    assert (found["kind"], found["path"]) == ("match", path)
    assert report.exit_code == ExitCode.MATCH
    if form.has_counts:
        assert (report.counts["match"], report.counts["clean"]) == (1, 1)
    output = tmp_path / "report"
    listed = call("--state-dir", state, "matches", "--format", name, "--output", output)
    assert (listed.code, listed.out) == (ExitCode.OK, "")
    (known,) = form.read(output.read_text()).files
    assert (known["path"], known["id"]) == (path, found["id"])


@pytest.mark.parametrize("name", FORMATS)
def test_digests_of_a_scan_are_shown_when_asked_for(state: Path, name: str) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    for flags in ([], ["--show-digests"]):
        scan = call("--state-dir", state, "scan", *flags, "--format", name, state.parent / "files")
        assert (digest in scan.out) == (bool(flags) and TABLE[name].shows_digests)


def test_a_lookup_speaks_csv(state: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    found = call("--state-dir", state, "lookup", "--format", "csv", digest)
    assert found.code == ExitCode.MATCH
    (row,) = TABLE["csv"].read(found.out).files
    assert (row["kind"], row["hits"][0]["entry"]) == ("match", "e-1")
    refused = call("--state-dir", state, "lookup", "--format", "html", digest)
    assert refused.code == ExitCode.USAGE
