"""NCMEC's hash sharing, read by this project and by python-threatexchange, which services use.

python-threatexchange needs some 200 MB (with faiss), so the project does not install it. If its
command is installed, the test runs the interpreter of that command on the files.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fixtures import exports
from hashclient.core.kinds import Algorithm
from hashclient.lists.importers.importfile import Reading
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch

THEIRS = shutil.which("threatexchange")
PROGRAM = """\
import json, sys
import xml.etree.ElementTree as ET
from threatexchange.exchanges.clients.ncmec import hash_api

root = ET.fromstring(sys.stdin.buffer.read())
for element in root.iter():  # as its client does with what a server answers
    element.tag = element.tag.rpartition("}")[2]
found = hash_api.GetEntriesResponse.from_xml(hash_api._XMLWrapper(root), 0)
print(json.dumps([
    [f"{u.member_id}:{u.entry_type.value}:{u.id}", u.deleted, u.classification, u.fingerprints]
    for u in found.updates
]))
"""

pytestmark = pytest.mark.skipif(THEIRS is None, reason="there is no threatexchange")


def theirs(document: bytes) -> dict[str, dict[str, str]]:
    """Return the fields, by id, of the entries that python-threatexchange takes as present."""
    assert THEIRS is not None
    with Path(THEIRS).open() as script:
        python = script.readline().removeprefix("#!").strip()
    done = subprocess.run(
        [python, "-c", PROGRAM], input=document, capture_output=True, timeout=60, check=True
    )
    return {
        name: {"category": (classification or "").lower(), **prints}
        for name, is_deleted, classification, prints in json.loads(done.stdout)
        if not is_deleted
    }


def ours(document: bytes) -> dict[str, dict[str, str]]:
    """Return the entries as hashclient reads them, in the same form as `theirs`."""
    found: dict[str, dict[str, str]] = {}
    for batch in read_digests(io.BytesIO(document), "it", Reading(max_bad=1000)):
        found |= of_batch(batch)
    return found


def of_batch(batch: DigestBatch) -> dict[str, dict[str, str]]:
    assert batch.entry_ids is not None and batch.categories is not None
    rows = [{"category": category or ""} for category in batch.categories]
    for algorithm, (values, places) in batch.digests.items():
        for value, row in zip(values, places.tolist(), strict=True):
            rows[row][algorithm.label] = value.tobytes().hex()
    return dict(zip([name or "" for name in batch.entry_ids], rows, strict=True))


def compared(fields: dict[str, str]) -> dict[str, str]:
    """Return what both programs read of an entry: the category, and the digests in lower case."""
    kinds = {"category", *(a.label for a in Algorithm)}
    return {kind: text.lower() for kind, text in fields.items() if kind in kinds and text}


@pytest.mark.parametrize("seed", range(3))
def test_the_same_entries_are_understood(seed: int) -> None:
    out = io.BytesIO()
    some = list(exports.entries(200, seed=seed))
    some += [e._replace(number=e.number + 500, sha1="") for e in some[:20]]
    exports.ncmec(out, some, deleted=[9001, 9002])
    document = out.getvalue()
    expected = {name: compared(fields) for name, fields in theirs(document).items()}
    assert len(expected) == 220
    assert {name: compared(fields) for name, fields in ours(document).items()} == expected
