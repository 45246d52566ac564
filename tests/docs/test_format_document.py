"""The document of the format: its checksums, limits and commands are the same as in the code."""

from __future__ import annotations

import glob
import hashlib
import re
import shlex
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tuf.ngclient.config import UpdaterConfig

from fixtures import exports
from fixtures.client import csv
from fixtures.simulator import Simulator
from hashclient.core.model import MAX_ENTRY_ID_BYTES, MAX_LISTS, NAME_PATTERN
from hashclient.lists import bounds, wire
from hashclient.lists.wire import checksum_of, entry_hashes, parse_index
from hashclient.notices import document as notices
from hashclient.notices.document import parse_notice
from hashclient.provider.drafts import load_draft
from hashclient.provider.export import export_bundle
from hashclient.provider.keyfiles import make_pair
from hashclient.provider.keys import Validity
from hashclient.provider.repository import Repository
from hashclient.trust import additions
from hashclient.trust.metadatadir import MAX_METADATA_BYTES
from tests.docs.blocks import DOCS, ROOT, names_of_tests, table_rows
from tests.kit import call

pytestmark = pytest.mark.docs


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def text_of(name: str) -> str:
    return (DOCS / name).read_text()


def documented_hash(entry_id: bytes) -> int:
    """Return the hash of an id, computed as docs/format.md says, without the package's code."""

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
    document, notice = blocks("format.md", "json")
    assert parse_notice(notice.encode(), "n-20260501t120000").severity == "Severe"
    assert parse_index(document.encode(), "baseline").checksum == total


def test_the_documented_limits_are_those_of_the_code() -> None:
    text = " ".join((DOCS / "format.md").read_text().split())
    for limit in (
        f"at most {wire.MAX_INDEX_BYTES >> 20} MiB, with exactly these keys",
        f"of at most {notices.MAX_NOTICE_BYTES >> 10} KiB, with",
        f"at most {additions.MAX_ROLE_BYTES >> 20} MiB and name",
        f"at most {additions.MAX_NOTICES:,} targets",
        f"1 to {notices.MAX_REFERENCES} earlier notices",
        f"of the years {notices.FIRST_YEAR} to {notices.LAST_YEAR} |",
        f"names of up to {notices.MAX_LISTS} lists",
        *(f"1 to {notices.LINES[name]} characters |" for name in ("event", "headline")),
        f"`contact` | string | up to {notices.LINES['contact']} characters |",
        *(f"| `{n}` | string | up to {m:,} characters" for n, m in notices.PARAGRAPHS.items()),
        f"in which they apply; at most {wire.MAX_SEGMENTS:,}",
        f"its number of rows, 1 to {wire.MAX_SEGMENT_ENTRIES:,}",
        f"together must have at most {wire.MAX_LIST_ENTRIES:,} rows",
        f"a segment's file at most {wire.MAX_SEGMENT_BYTES >> 20} MiB",
        f"segments that one fetch downloads at most {wire.MAX_LIST_BYTES >> 30} GiB",
        f"must be 1 to {MAX_ENTRY_ID_BYTES} of `A-Z a-z 0-9 . _ : -`",
        f"must have at most {wire.MAX_CATEGORIES} different categories",
        wire.FORMAT,
    ):
        assert limit in text
    assert f"`{NAME_PATTERN.pattern}`" in text
    validity = (DOCS / "provider.md").read_text()
    for role in ("root", "targets", "snapshot", "timestamp", "each list"):
        days = Validity().of("baseline" if role == "each list" else role).days
        assert f"| {role} | {days} days |" in validity


def test_every_must_names_the_tests_that_prove_it() -> None:
    """Each "must" has a comment that names tests of a client that refuses violations."""
    text = (DOCS / "format.md").read_text()
    existing = names_of_tests(ROOT / "tests")
    # The first paragraphs define the word "must" and state no rule.
    _, _, rules = text.partition("\n## ")
    parts = re.split(r"\n\n(?!<!-- must)|\n(?=- )|\n(?=[0-9]\\. )", rules)
    with_must = [part for part in parts if re.search(r"\bmust\b", part.partition("<!--")[0])]
    assert len(with_must) > 20
    for part in with_must:
        said, _, comment = part.partition("<!-- must: ")
        named = comment.partition(" -->")[0].split()
        assert named, f"no test is named for: {said}"
        assert set(named) <= existing, sorted(set(named) - existing)
    assert text.count("<!-- must: ") == len(with_must)


def test_the_documented_columns_are_those_of_the_code() -> None:
    rows = table_rows(DOCS / "format.md", "## Segments")
    schema = wire.add_schema()
    assert [row[0].strip("`") for row in rows] == schema.names
    for row, field in zip(rows, schema, strict=True):
        assert (row[3] == "no") is not field.nullable
        physical = row[1].strip("`")
        width = re.search(r"\(([0-9]+)\)", physical)
        assert (width is not None) is pa.types.is_fixed_size_binary(field.type)
        assert width is None or int(width[1]) == field.type.byte_width
    sizes = UpdaterConfig()
    text = " ".join(text_of("format.md").split())
    for limit in (
        f"no file may be longer than {MAX_METADATA_BYTES >> 20} MiB",
        f"at most {sizes.root_max_length:,} bytes, a timestamp {sizes.timestamp_max_length:,}",
        f"There must be at most {MAX_LISTS} lists.",
        f"a snapshot {sizes.snapshot_max_length:,}, and targets",
        f"lists {sizes.targets_max_length:,} each",
        (
            f"{bounds.MAX_ROW_GROUPS:,} row groups, {bounds.MAX_PAGES:,} pages and a footer of"
            f" {bounds.MAX_FOOTER_BYTES >> 20} MiB, and each page at most"
            f" {bounds.MAX_PAGE_BYTES >> 20} MiB before and after compression; all pages together"
            f" at most {bounds.MAX_DECODED_BYTES >> 30} GiB before compression. To decode"
            f" {wire.DECODED_ROWS:,} rows must take less than {wire.MAX_DECODING_BYTES >> 20} MiB"
        ),
    ):
        assert limit in text


@pytest.mark.slow
def test_the_documented_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (entries,) = blocks("provider.md", "csv")
    Path("entries.csv").write_text(entries)
    Path("more.txt").write_text(f"{hashlib.md5(b'benign').hexdigest()}\n")
    with Path("icse.csv").open("wb") as out:
        exports.icse(out, exports.entries(20))
    Path("complaint.txt").write_text(f"{hashlib.sha256(b'b').hexdigest()}\n")
    theirs = Simulator(tmp_path / "theirs")
    theirs.publish(csv(range(5), category="baseline"))
    export_bundle(tmp_path / "theirs", Path("theirs.bundle"), {})
    Path("theirs.json").write_bytes(theirs.root)
    for name in ("bob", "carol"):
        make_pair(Path(f"{name}.pem"), Path(f"{name}.pub"), None)
    monkeypatch.setenv("HASHCLIENT_KEY_PASSPHRASE", "six words of nobody in particular")
    commands = [
        line.removeprefix("$ hashclient ").replace("/etc/nginx/conf.d/", "")
        for block in blocks("provider.md", "console")
        for line in block.replace("\\\n", "").splitlines()
        if line.startswith("$ hashclient provider ") and "provider serve" not in line
    ]
    for command in commands:
        typed, _, code = command.partition("# exit ")
        typed = typed.replace("TIME", f"{datetime.now(UTC) + timedelta(days=40):%Y-%m-%d}")
        if "DIGEST" in typed:
            # People read the digest in the output of `draft show` to each other.
            draft = Path(typed.split()[3])
            typed = typed.replace("DIGEST", load_draft(draft).digest)
        words = [
            path
            for word in shlex.split(typed)
            for path in (glob.glob(word) if "*" in word else [word])  # noqa: PTH207 - as a shell
        ]
        result = call(*words)
        assert result.code == int(code or 0), (command, result.err)
        if words[1] == "init":
            shutil.copy(Path("repo/root.json"), "root.json")
    assert len(commands) > 30
    repository = Repository(Path("repo"), clock=lambda: datetime.now(UTC))
    agreed, baseline, shared = repository.status().lists
    count = sum(e.baseline for e in exports.entries(20))
    assert (baseline.generation, baseline.live) == (5, 1 + count)
    assert (agreed.generation, agreed.live, agreed.name) == (1, count, "agreed")
    assert (shared.generation, shared.live, shared.name) == (1, 5, "shared")
