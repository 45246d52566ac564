"""The story of docs/provider.md runs as written: from an export to a match in another country."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from fixtures import exports
from tests.docs.blocks import DOCS, marked_blocks
from tests.kit import call

pytestmark = pytest.mark.docs

PROVIDER = DOCS / "provider.md"
LISTED = b"a benign dummy file that is on the list\n"


def run(block: str) -> str:
    """Run the commands of a block; each must end as the page says; return their output.

    DIGEST is the digest of the last shown draft.
    """
    said = ""
    for line in block.replace("\\\n", "").splitlines():
        typed, _, code = line.partition("# exit ")
        digest = said.rpartition("draft digest ")[2].partition("\n")[0]
        program, *words = shlex.split(typed.replace("DIGEST", digest))
        assert program == "hashclient"
        done = call(*words)
        assert done.code == int(code or 0), (line, done.out, done.err)
        said += done.out + done.err
    return said


def test_from_an_export_to_a_match_in_another_country(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "evidence").mkdir(parents=True)
    here.mkdir()
    (there / "evidence" / "renamed.bin").write_bytes(LISTED)
    (there / "evidence" / "other.txt").write_bytes(b"nobody has listed this\n")
    (listed,) = (e._replace(baseline=True) for e in exports.entries(1, contents=[LISTED]))
    with (here / "icse.csv").open("wb") as out:
        exports.icse(out, [listed, *list(exports.entries(50, seed=3))[1:]])
    keys, make, sign, send, correct = marked_blocks(PROVIDER, "story")
    first, then = marked_blocks(PROVIDER, "story-there")
    monkeypatch.setenv("HASHCLIENT_STATE_DIR", str(there / "state"))
    monkeypatch.setenv("HASHCLIENT_KEY_PASSPHRASE", "six words of nobody in particular")

    monkeypatch.chdir(here)
    said = run(keys + make + sign + send)
    assert "  0 of 2 signatures of 3 keys" in said
    assert "role baseline: version 1 is published" in said

    # Only the copied files are sent from one country to the other.
    shutil.copy("lists/root.json", there)
    shutil.copy("lists.bundle", there)
    monkeypatch.chdir(there)
    found = run(first)
    assert "match     evidence/renamed.bin" in found
    assert "baseline 500000 (baseline; md5, sha1 agree)" in found

    monkeypatch.chdir(here)
    corrected = run(correct)
    assert "generation 1 to 2: 0 added, 1 withdrawn, 0 renewed\n- 500000\n" in corrected

    shutil.copy("change.bundle", there)
    monkeypatch.chdir(there)
    gone = run(then)
    assert "2 inputs: 2 clean, 0 matches" in gone
    everything = (said + found + corrected + gone).lower()
    assert listed.md5 not in everything and listed.sha1 not in everything
