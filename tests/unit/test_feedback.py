"""Feedback on the wire: files in `tests/vectors/feedback`, the schema, and values that never occur.

Run as a program, with the project on the path, this file writes the vectors again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hashclient.core.errors import VerificationError
from hashclient.core.model import is_entry_id
from hashclient.lists.feedback import (
    FORMAT,
    EntryFeedback,
    Feedback,
    encode_feedback,
    verify_feedback,
)
from tests.kit.depth import examples

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors" / "feedback"
SCHEMA = json.loads((ROOT / "docs" / "feedback.schema.json").read_bytes())
EXPECT = "expect.json"
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
MADE = datetime(2026, 1, 31, 12, tzinfo=UTC)


def feedback(*entries: EntryFeedback, root: str = "0" * 64) -> Feedback:
    return Feedback(FORMAT, root, MADE, entries)


ONE = EntryFeedback("baseline", "e-1", 3, 1, 0, 900)
GOOD = encode_feedback(feedback(ONE), KEY)
LINE, SIGNED, _ = GOOD.split(b"\n")


def signed(line: bytes) -> bytes:
    """Sign any first line, and return the file of feedback."""
    found = {
        "public_key": KEY.public_key().public_bytes_raw().hex(),
        "signature": KEY.sign(b"hashclient feedback v1\n" + line).hex(),
    }
    return line + b"\n" + json.dumps(found).encode() + b"\n"


def edited(old: bytes, new: bytes) -> bytes:
    """Return a file whose first line was edited and then signed."""
    assert old in LINE
    return signed(LINE.replace(old, new, 1))


CASES: Mapping[str, Callable[[], bytes]] = {
    "one-entry": lambda: GOOD,
    "nothing-to-say": lambda: encode_feedback(feedback(), KEY),
    "another-key": lambda: encode_feedback(feedback(ONE), OTHER),
    "spaces-in-a-line": lambda: signed(json.dumps(json.loads(LINE)).encode()),
    "edited": lambda: GOOD.replace(b'"rejected":1', b'"rejected":9'),
    "signature-of-another-file": lambda: (
        LINE + b"\n" + encode_feedback(feedback(), KEY).split(b"\n")[1] + b"\n"
    ),
    "signature-for-another-use": lambda: (
        LINE + b"\n" + SIGNED.replace(SIGNED[-130:-2], KEY.sign(LINE).hex().encode()) + b"\n"
    ),
    "one-line": lambda: LINE + b"\n",
    "cut": lambda: GOOD[:-1],
    "three-lines": lambda: GOOD + b"{}\n",
    "entry-twice": lambda: encode_feedback(feedback(ONE, ONE), KEY),
    "key-twice": lambda: edited(b"{", b'{"format":"hashclient-feedback/1",'),
    "one-key-more": lambda: edited(b"{", b'{"path":"/srv/files",'),
    "another-format": lambda: edited(b"feedback/1", b"feedback/2"),
    "negative-count": lambda: edited(b'"rejected":1', b'"rejected":-1'),
    "list-that-is-a-path": lambda: edited(b'"baseline"', b'"../baseline"'),
    "entry-without-an-id": lambda: edited(b'"e-1"', b'""'),
    "time-without-a-zone": lambda: edited(b"T12:00:00Z", b"T12:00:00"),
}


def result(data: bytes) -> str:
    try:
        return verify_feedback(data)[1]
    except VerificationError:
        return "refused"


@pytest.mark.parametrize("name", CASES)
def test_each_vector_has_the_expected_result(name: str) -> None:
    expected = json.loads((VECTORS / EXPECT).read_text())
    data = (VECTORS / f"{name}.jsonl").read_bytes()
    assert data == CASES[name]()
    assert result(data) == expected[name]


def test_there_are_no_others() -> None:
    names = {f"{name}.jsonl" for name in CASES}
    assert {path.name for path in VECTORS.iterdir()} == {*names, EXPECT, "README.md"}


def test_the_first_vectors_are_good_and_fit_the_schema() -> None:
    expected = json.loads((VECTORS / EXPECT).read_text())
    assert [name for name in CASES if expected[name] != "refused"] == [*CASES][:4]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name in [*CASES][:4]:
        jsonschema.validate(json.loads(CASES[name]().split(b"\n")[0]), SCHEMA)
    for name in ("one-key-more", "another-format", "negative-count", "list-that-is-a-path"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(CASES[name]().split(b"\n")[0]), SCHEMA)


_counts = st.integers(0, 1 << 53)
_entries = st.builds(
    EntryFeedback,
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,40}", fullmatch=True).filter(is_entry_id),
    _counts,
    _counts,
    _counts,
    _counts,
)


@examples(100)
@given(st.lists(_entries, max_size=5, unique_by=lambda one: (one.list, one.entry)))
def test_what_is_written_is_read_and_any_change_is_refused(entries: list[EntryFeedback]) -> None:
    made = feedback(*entries)
    data = encode_feedback(made, KEY)
    assert verify_feedback(data) == (made, KEY.public_key().public_bytes_raw().hex())
    # The first line has only names of lists, ids of entries, numbers, a time and the version of the
    # root.
    assert re.findall(r'"(\w+)":', data.split(b"\n")[0].decode()).count("entry") >= len(entries)
    line = data.index(b"\n")
    for place in range(0, line, max(1, line // 20)):
        with pytest.raises(VerificationError):
            verify_feedback(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def main() -> None:
    """Write all vectors of feedback again."""
    for name, make in CASES.items():
        (VECTORS / f"{name}.jsonl").write_bytes(make())
    expected = {name: result(make()) for name, make in CASES.items()}
    (VECTORS / EXPECT).write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
