"""Notices for other implementations: files in `tests/vectors/notices` and expected states.

Run as a program, with the project on the path, this file writes the vectors again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fixtures.notices import SENT, make_notice
from hashclient.core.errors import VerificationError
from hashclient.notices.document import Notice, Severity, Status, Type, encode_notice, parse_notice
from hashclient.notices.lifecycle import Kept, merged, standings
from hashclient.system.text import for_programs

VECTORS = Path(__file__).parents[1] / "vectors" / "notices"
EXPECT = "expect.json"
HOUR = timedelta(hours=1)
NOW = SENT + 10 * HOUR
A = make_notice("a", severity=Severity.SEVERE)
TESTED = make_notice("a", status=Status.TEST)

Files = dict[str, bytes]


def files(*notices: Notice) -> Files:
    return {notice.id: encode_notice(notice) for notice in notices}


def after(notice_id: str, type_: Type, *earlier: Notice | str, **changes: object) -> Notice:
    """Return a notice that was sent after `A` and refers to earlier notices."""
    return make_notice(notice_id, **{"sent": SENT + HOUR, **changes}, type=type_, refers_to=earlier)


def edited(old: bytes, new: bytes, notice: Notice = A) -> Files:
    data = encode_notice(notice)
    assert old in data
    return {notice.id: data.replace(old, new, 1)}


B = after("b", Type.UPDATE, A)
CASES: Mapping[str, Callable[[], Files]] = {
    "alert": lambda: files(A),
    "update": lambda: files(A, B),
    "cancel": lambda: files(A, after("c", Type.CANCEL, A)),
    "update-that-is-cancelled": lambda: files(A, B, after("c", Type.CANCEL, B, sent=NOW - HOUR)),
    "two-that-one-replaces": lambda: files(
        A, make_notice("b"), after("c", Type.UPDATE, A, make_notice("b"))
    ),
    "expired": lambda: files(make_notice("a", expires=NOW)),
    "update-that-has-expired": lambda: files(A, after("b", Type.UPDATE, A, expires=NOW - HOUR)),
    "update-of-an-unknown-one": lambda: files(after("b", Type.UPDATE, "never-heard-of")),
    "cancel-of-an-unknown-one": lambda: files(after("c", Type.CANCEL, "never-heard-of")),
    "cancel-that-was-sent-before": lambda: files(A, after("c", Type.CANCEL, "a", sent=SENT - HOUR)),
    "test-that-cancels-what-is-meant": lambda: files(
        A, after("c", Type.CANCEL, A, status=Status.TEST)
    ),
    "test-that-cancels-a-test": lambda: files(
        TESTED, after("c", Type.CANCEL, TESTED, status=Status.TEST)
    ),
    "any-language": lambda: files(
        make_notice("a", language="ar", headline="تحذير", description="\u202eabc\u202c 🔴")
    ),
    "one-of-another-format": lambda: edited(b"notice/1", b"notice/2") | files(make_notice("b")),
    "control-character": lambda: edited(b'"headline": "', b'"headline": "\\u001b[2J'),
    "digest-in-a-text": lambda: edited(b'"contact": "', b'"contact": "' + b"0123456789abcdef" * 2),
    "key-twice": lambda: edited(b"{", b'{"id": "a",'),
    "one-key-more": lambda: edited(b"{", b'{"web": "https://example.org",'),
    "another-id": lambda: {"b": encode_notice(A)},
    "alert-with-a-reference": lambda: files(after("b", Type.ALERT, A)),
    "update-without-one": lambda: files(after("b", Type.UPDATE)),
    "word-in-small-letters": lambda: edited(b'"Severe"', b'"severe"'),
    "time-without-a-zone": lambda: edited(b"T12:00:00Z", b"T12:00:00"),
    "fraction-of-a-second": lambda: edited(b"T12:00:00Z", b"T12:00:00.5Z"),
}


def states(given: Files, now: datetime = NOW) -> dict[str, str]:
    """Return the states of notices that arrive in one fetch, or the refusal."""
    taken, found = [], {}
    for notice_id, data in given.items():
        try:
            taken.append(Kept(parse_notice(data, notice_id), "", now))
        except VerificationError:
            found[notice_id] = "refused"
    kept = merged((), taken, given.keys(), now)
    found |= {s.notice.id: str(s.state) for s in standings("main", kept, now)}
    return dict(sorted(found.items()))


def read(directory: Path) -> Files:
    return {p.stem: p.read_bytes() for p in directory.glob("*.json") if p.name != EXPECT}


@pytest.mark.parametrize("name", CASES)
def test_each_vector_has_the_expected_result(name: str) -> None:
    expected = json.loads((VECTORS / name / EXPECT).read_text())
    assert (
        states(read(VECTORS / name), datetime.fromisoformat(expected["now"]))
        == (expected["notices"])
    )


@pytest.mark.parametrize("name", CASES)
def test_a_vector_is_what_is_written(name: str) -> None:
    assert read(VECTORS / name) == CASES[name]()


def test_there_are_no_others() -> None:
    assert {path.name for path in VECTORS.iterdir()} == {*CASES, "README.md"}


def main() -> None:
    """Write all vectors of notices again."""
    for name, make in CASES.items():
        shutil.rmtree(VECTORS / name, ignore_errors=True)
        (VECTORS / name).mkdir(parents=True)
        for notice_id, data in make().items():
            (VECTORS / name / f"{notice_id}.json").write_bytes(data)
        expected = {"now": for_programs(NOW), "notices": states(make())}
        (VECTORS / name / EXPECT).write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
