"""What is documented for providers: checksums, limits and commands are those of the code."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hashclient.cli.main import cli
from hashclient.core.model import NAME_PATTERN
from hashclient.lists import wire
from hashclient.lists.wire import (
    checksum_of,
    entry_hashes,
    parse_index,
)
from hashclient.provider.keys import Validity
from hashclient.provider.repository import Repository
from tests.docs.blocks import DOCS

pytestmark = pytest.mark.docs


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def documented_hash(entry_id: bytes) -> int:
    """Hash an id as docs/format.md says, with nothing of the package."""

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    h = 0
    for start in range(0, len(entry_id), 8):
        h = mix(h ^ int.from_bytes(entry_id[start : start + 8], "little"))
    return h


def test_the_documented_checksums_are_right() -> None:
    text = (DOCS / "format.md").read_text()
    vectors = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{16})` \|", text))
    assert len(vectors) == 4
    for entry_id, expected in vectors.items():
        assert f"{documented_hash(entry_id.encode()):016x}" == expected
    hashes = entry_hashes(np.array([entry_id.encode() for entry_id in vectors]))
    assert [f"{h:016x}" for h in hashes.tolist()] == list(vectors.values())
    (total,) = re.findall(r"\| all four \| `([0-9a-f]{16})` \|", text)
    assert total == f"{checksum_of(hashes):016x}"
    (document,) = blocks("format.md", "json")
    assert parse_index(document.encode(), "baseline").checksum == total


def test_the_documented_limits_are_those_of_the_code() -> None:
    text = (DOCS / "format.md").read_text()
    for limit in (
        f"at most {wire.MAX_INDEX_BYTES >> 20} MiB, with exactly these keys",
        f"in which they apply; at most {wire.MAX_SEGMENTS:,}",
        f"its number of rows, 1 to {wire.MAX_SEGMENT_ENTRIES:,}",
        f"together have at most {wire.MAX_LIST_ENTRIES:,} rows",
        f"a segment's file at most {wire.MAX_SEGMENT_BYTES >> 20} MiB",
        f"list's segments at most {wire.MAX_LIST_BYTES >> 30} GiB",
        f"is 1 to {wire.MAX_ENTRY_ID_BYTES} of `A-Z a-z 0-9 . _ : -`",
        f"has at most {wire.MAX_CATEGORIES}\n",
        wire.FORMAT,
    ):
        assert limit in text
    assert f"`{NAME_PATTERN.pattern}`" in text
    validity = (DOCS / "provider.md").read_text()
    for role in ("root", "targets", "snapshot", "timestamp", "each list"):
        days = Validity().of("baseline" if role == "each list" else role).days
        assert f"| {role} | {days} days |" in validity


def test_the_documented_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (entries,) = blocks("provider.md", "csv")
    Path("entries.csv").write_text(entries)
    Path("more.txt").write_text(f"{hashlib.md5(b'benign').hexdigest()}\n")
    commands = [
        line.removeprefix("$ hashclient ").split()
        for block in blocks("provider.md", "console")
        for line in block.splitlines()
        if line.startswith("$ hashclient provider ") and "provider serve" not in line
    ]
    for command in commands:
        result = CliRunner().invoke(cli, command)
        assert (result.exit_code, result.exception) == (0, None), command
    assert len(commands) > 10
    (baseline,) = Repository(Path("repo"), clock=lambda: datetime.now(UTC)).status().lists
    assert (baseline.generation, baseline.live) == (3, 2)
