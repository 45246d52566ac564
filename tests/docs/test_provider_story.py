"""The story of docs/provider.md runs as it stands: from an export to a match elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures import exports
from tests.docs.blocks import DOCS, marked_blocks, run_script
from tests.docs.test_quickstart import EXPECTED_EXIT, checked

pytestmark = pytest.mark.docs

PROVIDER = DOCS / "provider.md"
LISTED = b"a benign dummy file that is on the list\n"


def test_from_an_export_to_a_match_in_another_country(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "evidence").mkdir(parents=True)
    here.mkdir()
    (there / "evidence" / "renamed.bin").write_bytes(LISTED)
    (there / "evidence" / "other.txt").write_bytes(b"nobody has listed this\n")
    entries = [e._replace(baseline=True) for e in exports.entries(1, contents=[LISTED])]
    with (here / "icse.csv").open("wb") as out:
        exports.icse(out, [*entries, *list(exports.entries(50, seed=3))[1:]])
    keys, make, sign, send, correct = marked_blocks(PROVIDER, "story")
    first, then = marked_blocks(PROVIDER, "story-there")
    # Nothing but these files goes from one country to the other.
    carry = "cp ../here/lists/root.json ../here/lists.bundle .\n"
    script = "\n".join(
        [
            "set -e",
            "export HASHCLIENT_STATE_DIR=$PWD/there/state",
            "export HASHCLIENT_KEY_PASSPHRASE='six words of nobody in particular'",
            f"cd here\n{keys}{make}{sign}{send}",
            f"cd ../there\n{carry}echo FIRST\n{first}",
            f"cd ../here\n{correct}",
            f"cd ../there\ncp ../here/change.bundle .\necho THEN\n{then}",
        ]
    )
    code, output = run_script(EXPECTED_EXIT.sub(checked, script), tmp_path)
    assert code == 0, output
    before, matched, gone = re.split(r"^(?:FIRST|THEN)$", output, flags=re.MULTILINE)
    assert "  0 of 2 signatures of 3 keys" in before
    assert "role baseline: version 1 is published" in before
    assert re.search(r"^MATCH .*renamed\.bin", matched, re.MULTILINE | re.IGNORECASE)
    assert "500000" in matched
    assert "baseline 1 to 2: 0 added, 1 withdrawn" in output.replace(": generation", "")
    assert "- 500000" in matched
    assert "2 clean, 0 matches" in gone
    digests = [e.md5 for e in entries] + [e.sha1 for e in entries]
    assert not any(digest in output.lower() for digest in digests)
