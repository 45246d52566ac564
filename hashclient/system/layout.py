"""The paths in a state directory; each path is named in this module and nowhere else.

Other modules get a path from the `Layout` in the settings. `FILES` says what each file is for; a
test compares `FILES` with the files of a real state, and `docs/operations/where-things-are.md`
shows it.
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
#: In the folder of a list.
MANIFEST_NAME = "manifest.json"
STAGING_NAME = "staging.json"
CHECKS_NAME = "checks.json"
#: In the folder of the known good files.
SOURCES_NAME = "sources.json"
LISTED_NAME = "listed.json"
#: In the folder of a provider that is trusted, and in the folder of its metadata, as TUF names it.
PINNED_ROOT_NAME = "pinned-root.json"
TARGETS_NAME = "targets.json"
#: Beside the metadata of a provider: the lists that it refuses to our credential.
DENIED_NAME = "denied.json"
TIMESTAMP_NAME = "timestamp.json"
#: In the folder of the fleet.
PUBLISHED_NAME = "published.json"
KNOWN_NAME = "known.json"
KNOWN_LOCK_NAME = "known.lock"
#: In the folder of the audit log.
LOG_NAME = "log.jsonl"
#: A closed file of the audit log, by its number.
CLOSED_LOG_NAME = "log-{:06}.jsonl"
CLOSED_LOG_PATTERN = re.compile(r"log-([0-9]{6,12})\.jsonl")
AUDIT_KEY_NAME = "key.pem"
AUDIT_PUBLIC_KEY_NAME = "key.pub"
#: In the folder of an item in quarantine.
ITEM_NAME = "item.json"
EVIDENCE_NAME = "evidence.age"
#: In the folder of the quarantine.
RESTORED_NAME = "restored.json"
#: In the folder of the quarantine, of all reports, of notices, of alerts or of the fleet.
ROOM_LOCK_NAME = "lock"
PREPARE_LOCK_NAME = "prepare.lock"
#: In the folder of a report.
RECORD_NAME = "report.json"
DOCUMENT_NAME = "document.json"
SEALED_DIR = "sealed"


class _Below:
    """A path below the state directory."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, layout: Layout, _kind: object) -> Path:
        return layout.root.joinpath(*self._parts)


class Layout(msgspec.Struct, frozen=True):
    """The paths below the state directory `root`. This class reads and makes no files."""

    root: Path

    #: The version of the state, and which hashclient can read it.
    state = _Below("state.json")
    #: The backup of a migration that has not succeeded yet.
    backup = _Below("migration")
    #: The same backup while it is made or removed; no code relies on it.
    new_backup = _Below("migration.new")
    #: The writers' lock.
    lock = _Below("lock")
    #: The key that turns digests into tags, unless another key is configured.
    seal_key = _Below(SEAL_KEY_NAME)
    #: The indexes, one folder for each list.
    lists = _Below("lists")
    #: The index of known good files.
    known_good = _Below("known-good")
    #: Roots of trust and verified metadata, one folder for each provider.
    trust = _Below("trust")
    #: The record of matches.
    matches = _Below(MATCHES_NAME)
    #: The cache (inventory): what scans remember of files and of objects in buckets.
    inventory = _Below(INVENTORY_NAME)
    #: Notices, one file for each provider.
    notices = _Below("notices")
    #: The lock of writers of notices.
    notices_lock = _Below("notices", ROOM_LOCK_NAME)
    #: The mounted file systems that earlier scans have seen.
    mounts = _Below(MOUNTS_NAME)
    #: The lock of writers of `mounts`.
    mounts_lock = _Below("mounts.lock")
    #: The audit log and its keys.
    audit = _Below("audit")
    #: The quarantine: isolated, sealed files, one folder for each item.
    quarantine = _Below("quarantine")
    #: Unnamed files that hold possible containers for a moment.
    spool = _Below("spool")
    #: Added facts about sources, sealed; one file for each match.
    facts = _Below("facts")
    #: Waiting and sent reports, one folder for each.
    reports = _Below("reports")
    #: The exceptions that people have made.
    exceptions = _Below("decisions", "exceptions.json")
    #: The outbox of alerts.
    alerts = _Below("alerts", "outbox.json")
    #: The documents that this machine has published, and the last documents of other machines.
    fleet = _Below("fleet")

    def provider(self, name: str) -> Path:
        """Return the folder with the pinned root and the metadata of a provider."""
        return self.trust / name

    def pinned_root(self, provider: str) -> Path:
        """Return the root of trust that was pinned for a provider."""
        return self.provider(provider) / PINNED_ROOT_NAME

    def metadata(self, provider: str) -> Path:
        """Return the folder of the verified metadata of a provider.

        This folder does not contain the pinned root, since a file in it may have the name of any
        role.
        """
        return self.provider(provider) / "metadata"

    def facts_of(self, match_id: str) -> Path:
        """Return the file of the added facts about a match."""
        return self.facts / f"{match_id}.json"

    def notices_of(self, provider: str) -> Path:
        """Return the file of the notices of a provider."""
        return self.notices / f"{provider}.json"


_NAME = r"[a-z0-9][a-z0-9._-]*"
_ID = r"[a-z0-9]{10}"

#: The purpose of each file, by a pattern of its path below the state directory.
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
