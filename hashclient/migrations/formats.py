"""The formats on disk, their versions, and how earlier versions of each are read.

A table for people and for tests: `docs/operations/upgrading.md` shows it, and a test compares it
with the constants in the modules that write the files. To change a format, raise its version and
the state's, add a `Step`, and keep a state directory of the release before for the tests.
"""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """One format: its files below the state directory, its version, and where the version stands.

    `before` says how files of earlier versions are treated.
    """

    files: str
    version: str
    stands: str
    before: str


_AS_IT_IS = "there is none"
_BUILT_AGAIN = "`fetch` builds it again"


FORMATS = (
    Format(
        "`state.json`",
        "hashclient-state/4",
        "`format`",
        "below 4: refused; without the file: the next `init` or `fetch` writes it",
    ),
    Format("`lists/*/manifest.json`", "hashclient-index/2", "`format`", _BUILT_AGAIN),
    Format("`lists/*/run-*`, `known-good/run-*`", "2", "seventh byte, after `hcrun`", _BUILT_AGAIN),
    Format("`lists/*/checks.json`", "hashclient-checks/1", "`format`", _AS_IT_IS),
    Format("`lists/*/staging.json`", "hashclient-staging/2", "`format`", _BUILT_AGAIN),
    Format("`known-good/sources.json`", "hashclient-known-good/2", "`format`", _BUILT_AGAIN),
    Format("`known-good/listed.json`", "hashclient-known-listed/1", "`format`", _AS_IT_IS),
    Format("`trust/*/`", "1", "`spec_version`, of TUF", "python-tuf reads it"),
    Format(
        "`matches.db`",
        "6",
        "`PRAGMA user_version`",
        "refused",
    ),
    Format(
        "`inventory.db`",
        "4",
        "`PRAGMA user_version`",
        "the next scan empties it",
    ),
    Format("`decisions/exceptions.json`", "hashclient-exceptions/1", "`format`", _AS_IT_IS),
    Format("`mounts.json`", "hashclient-mounts/1", "`format`", _AS_IT_IS),
    Format("`notices/*.json`", "hashclient-notices/1", "`format` of the first line", _AS_IT_IS),
    Format("`audit/log.jsonl`", "hashclient-audit/1", "`format` of the first record", _AS_IT_IS),
    Format(
        "`audit/log-*.jsonl`, and a `log.jsonl` after them",
        "hashclient-audit-segment/1",
        "`format` of the first record",
        _AS_IT_IS,
    ),
    Format("`quarantine/*/item.json`", "hashclient-quarantine-item/1", "`format`", _AS_IT_IS),
    Format("`quarantine/*/evidence.age`", "1", "first line, of age", "every age tool opens it"),
    Format("`reports/*/report.json`", "hashclient-outbox/1", "`format`", _AS_IT_IS),
    Format("`reports/*/document.json`", "hashclient-report/1", "`format`", _AS_IT_IS),
    Format(
        "`seal.key`, `audit/key.*`",
        "1",
        "nowhere: 64 hexadecimal digits; Ed25519 in PEM",
        "they never change; a new kind of key would get a new name",
    ),
)
