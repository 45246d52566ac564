"""The paths of all files in a state directory; other modules contain no such path.

Other modules get a path from the `Layout` in the settings. `FILES` describes the purpose of each
file. A test compares `FILES` with the files of a real state directory, and
`docs/operations/where-things-are.md` contains the table `FILES`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

SEAL_KEY_NAME = "seal.key"
MATCHES_NAME = "matches.db"
INVENTORY_NAME = "inventory.db"
MOUNTS_NAME = "mounts.json"
#: Names of files in the folder of a list.
MANIFEST_NAME = "manifest.json"
STAGING_NAME = "staging.json"
CHECKS_NAME = "checks.json"
#: Names of files in the folder of known good digests.
SOURCES_NAME = "sources.json"
LISTED_NAME = "listed.json"
#: Names of files in the folder of a provider, and in the folder of its TUF metadata.
PINNED_ROOT_NAME = "pinned-root.json"
TARGETS_NAME = "targets.json"
#: The file with the names of lists that the provider does not let this machine's credential read.
DENIED_NAME = "denied.json"
TIMESTAMP_NAME = "timestamp.json"
#: Names of files in the folder of the fleet.
PUBLISHED_NAME = "published.json"
KNOWN_NAME = "known.json"
KNOWN_LOCK_NAME = "known.lock"
#: The current file of the audit log, in the folder of the audit log.
LOG_NAME = "log.jsonl"
#: The name of a full file of the audit log, to which nothing is written any more; `{}` is its
#: number.
CLOSED_LOG_NAME = "log-{:06}.jsonl"
CLOSED_LOG_PATTERN = re.compile(r"log-([0-9]{6,12})\.jsonl")
AUDIT_KEY_NAME = "key.pem"
AUDIT_PUBLIC_KEY_NAME = "key.pub"
#: Names of files in the folder of an item in quarantine.
ITEM_NAME = "item.json"
EVIDENCE_NAME = "evidence.age"
#: The file in the folder of the quarantine with the items whose files were restored.
RESTORED_NAME = "restored.json"
#: Names of lock files in the folders of the quarantine, reports, notices, alerts and the fleet.
ROOM_LOCK_NAME = "lock"
PREPARE_LOCK_NAME = "prepare.lock"
#: Names of files and folders in the folder of a report.
RECORD_NAME = "report.json"
DOCUMENT_NAME = "document.json"
SEALED_DIR = "sealed"


class _Below:
    """An attribute of `Layout` that is a path below the state directory."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, layout: Layout, _kind: object) -> Path:
        return layout.root.joinpath(*self._parts)


class Layout(msgspec.Struct, frozen=True):
    """The paths of files and folders below the state directory `root`."""

    root: Path

    #: The file with the version of the state, and with the version of hashclient that can read it.
    state = _Below("state.json")
    #: The folder with the backup of a migration that has not succeeded yet.
    backup = _Below("migration")
    #: The folder of the backup of a migration while the backup is made or removed; no code reads
    #: it.
    new_backup = _Below("migration.new")
    #: The lock file of commands that write lists, trust, the configuration or a migration.
    lock = _Below("lock")
    #: The file with the key that turns digests into tags, unless the configuration names another
    #: key.
    seal_key = _Below(SEAL_KEY_NAME)
    #: The folder of the indexes, with one folder for each list.
    lists = _Below("lists")
    #: The folder of the index of known good files.
    known_good = _Below("known-good")
    #: The folder of roots of trust and verified metadata, with one folder for each provider.
    trust = _Below("trust")
    #: The database with the record of matches.
    matches = _Below(MATCHES_NAME)
    #: The database with the inventory, in which scans store what they know about files and objects.
    inventory = _Below(INVENTORY_NAME)
    #: The folder of notices, with one file for each provider.
    notices = _Below("notices")
    #: The lock file of commands that write notices.
    notices_lock = _Below("notices", ROOM_LOCK_NAME)
    #: The file with the mounted file systems that earlier scans have seen.
    mounts = _Below(MOUNTS_NAME)
    #: The lock file of commands that write `mounts`.
    mounts_lock = _Below("mounts.lock")
    #: The folder of the audit log and its keys.
    audit = _Below("audit")
    #: The folder of the quarantine (isolated and sealed files), with one folder for each item.
    quarantine = _Below("quarantine")
    #: The folder of temporary files, mostly without names, for data that may be a container.
    spool = _Below("spool")
    #: The folder of sealed facts about the sources of files, with one file for each match.
    facts = _Below("facts")
    #: The folder of waiting and sent reports, with one folder for each report.
    reports = _Below("reports")
    #: The file with the exceptions that people have made.
    exceptions = _Below("decisions", "exceptions.json")
    #: The file with the alerts that wait to be sent.
    alerts = _Below("alerts", "outbox.json")
    #: The folder of facts about the published status of this machine, and about other machines of
    #: the fleet.
    fleet = _Below("fleet")

    def provider(self, name: str) -> Path:
        """Return the path of the folder with the pinned root and the metadata of a provider."""
        return self.trust / name

    def pinned_root(self, provider: str) -> Path:
        """Return the path of the root of trust that was pinned for a provider."""
        return self.provider(provider) / PINNED_ROOT_NAME

    def metadata(self, provider: str) -> Path:
        """Return the path of the folder with the verified metadata of a provider.

        The folder does not contain the pinned root, because a metadata file has the name of its TUF
        role, which may be any name.
        """
        return self.provider(provider) / "metadata"

    def facts_of(self, match_id: str) -> Path:
        """Return the path of the file with the added facts about a match."""
        return self.facts / f"{match_id}.json"

    def notices_of(self, provider: str) -> Path:
        """Return the path of the file with the notices of a provider."""
        return self.notices / f"{provider}.json"


_NAME = r"[a-z0-9][a-z0-9._-]*"
_ID = r"[a-z0-9]{10}"

#: The purpose of each file in the state directory, by a regular expression for its path.
FILES: Mapping[str, str] = {
    r"config\.toml": "the configuration, if --state-dir is given and --config is not",
    r"state\.json": "the version of the state, and which hashclient can read it",
    r"lock": "the writers' lock: of lists, trust, the configuration and migrations",
    r"migration(\.new)?/.+": "the backup of a migration that has not succeeded yet",
    r"seal\.key": "the key that turns digests into tags",
    rf"lists/{_NAME}/manifest\.json": "the local generation of a list, and its runs",
    rf"lists/{_NAME}/run-[0-9]+": "the tags of a list, sorted",
    rf"lists/{_NAME}/staging\.json": "the progress of an unfinished build, for the next fetch",
    rf"lists/{_NAME}/checks\.json": "digests of pieces of the runs, and when each was compared",
    r"known-good/sources\.json": "the files of known good digests, and the runs made from them",
    r"known-good/listed\.json": "entries in use that are known to be good, by list",
    r"known-good/run-[0-9]+": "the tags of known good digests, sorted",
    rf"trust/{_NAME}/pinned-root\.json": "the root of trust that was pinned",
    rf"trust/{_NAME}/metadata/.+": "the provider's verified metadata, as python-tuf keeps it",
    rf"trust/{_NAME}/denied\.json": "the provider's lists that the credential is not for",
    r"audit/log\.jsonl": "the audit log",
    r"audit/log-[0-9]{6,12}\.jsonl": "a closed file of the audit log",
    r"audit/key\.(pem|pub)": "the private and the public key of the audit log",
    r"matches\.db(-journal)?": "the record of matches",
    r"inventory\.db(-wal|-shm)?": "the inventory: what scans remember of files and objects",
    r"notices/lock": "the lock of writers of notices",
    rf"notices/{_NAME}\.json": "the notices of a provider, their state, and who acknowledged them",
    r"decisions/exceptions\.json": "the exceptions: what is not acted upon, who said so, and why",
    r"fleet/lock": "the lock of commands that publish the status",
    r"fleet/known\.lock": "the lock of writers of known.json",
    r"fleet/published\.json": "how often this machine has published its status, and when",
    r"fleet/known\.json": "keys of other machines, and the last checkpoint of each",
    r"mounts\.json": "the mounted file systems that earlier scans have seen",
    r"mounts\.lock": "the lock of writers of mounts.json",
    r"quarantine/lock": "the lock of writers of the quarantine",
    r"quarantine/restored\.json": "which files are back, until their items are dropped",
    rf"quarantine/{_ID}/item\.json": "the record of an isolated file",
    rf"quarantine/{_ID}/evidence\.age": "the content of the file, sealed",
    rf"quarantine/{_ID}/evidence\.[0-9]+\.age": "a file that belongs to the match, sealed",
    rf"facts/{_ID}\.json": "facts about the source of a match, sealed",
    r"spool/.+": "a possible container for a moment, on file systems without unnamed files",
    r"reports/lock": "the lock of writers of reports",
    r"reports/prepare\.lock": "the lock of commands that prepare a report",
    r"alerts/outbox\.json": "alerts that wait, and what was noticed up to now",
    r"alerts/lock": "the lock of writers of alerts",
    rf"reports/r-{_ID}/report\.json": "the record of a report: its matches and its state",
    rf"reports/r-{_ID}/document\.json": "the document of a report",
    rf"reports/r-{_ID}/schema\.xsd": "the schema of the service that gets the report",
    rf"reports/r-{_ID}/sealed/.+": "sealed files for a package, which are not in quarantine",
}
