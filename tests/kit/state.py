"""A state directory, the provider of its lists, and a tree to scan."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fixtures.client import Client
from hashclient.audit import log
from hashclient.core.kinds import Algorithm
from hashclient.index.blinding import NO_MAC, authenticate, load_sealer
from hashclient.index.manifest import MANIFEST_FORMAT
from hashclient.matches.store import Matches
from hashclient.scan.cache import cache
from hashclient.system import filesystems, identity
from hashclient.system.files import TEMP_PREFIX
from hashclient.system.layout import FILES
from tests.kit.provider import ALL_ALGORITHMS, Provider
from tests.kit.run import Run, call, run
from tests.kit.tree import write_tree


class State:
    """A state directory that is made in this process, in some ten milliseconds.

    `path`: the state directory. `tree`: the directory to scan. `provider`: the source of the lists.
    `client`: the object that fetches them. Each test has a separate state, unless a fixture shares
    it.
    """

    def __init__(
        self,
        directory: Path,
        lists: Mapping[str, Mapping[str, bytes]] | None = None,
        files: Mapping[str, bytes] | None = None,
        *,
        algorithms: Sequence[Algorithm] = ALL_ALGORITHMS,
        sized: bool = True,
    ) -> None:
        """List contents, fetch the lists, and write `files` by their paths below the tree."""
        self.directory = directory
        self.path = directory / "state"
        self.tree = write_tree(directory / "tree", files or {})
        self.provider = Provider(directory / "provider")
        self.client = Client(self.path, self.provider, self.provider.root)
        self._how: dict[str, Any] = {"algorithms": algorithms, "sized": sized}
        for name, contents in (lists or {}).items():
            self.provider.add(contents, name, **self._how)
        if lists:
            self.client.fetch()

    def add(self, contents: Mapping[str, bytes], name: str = "base", **how: Any) -> None:
        """Add entries to a list of the provider, and fetch."""
        self.provider.add(contents, name, **self._how | how)
        self.client.fetch()

    def configure(self, text: str) -> None:
        """Write `config.toml`."""
        (self.path / "config.toml").write_text(text)

    def call(self, *args: object) -> Run:
        """Run a command on the state directory in this process."""
        return call("--state-dir", self.path, *args)

    def run(self, *args: object, **kwargs: Any) -> Run:
        """Run the real command on the state directory."""
        return run("--state-dir", self.path, *args, **kwargs)

    def scan(self, *args: object) -> Run:
        """Scan in this process with lines of JSON; scan the tree, unless a path is among `args`."""
        where = () if any(isinstance(arg, Path) for arg in args) else (self.tree,)
        return self.call("scan", "--format", "jsonl", *args, *where)

    def ids(self) -> dict[str, str]:
        """Scan the tree, and return the id of each match by the name of its file."""
        found = self.scan().lines[:-1]
        return {Path(line["path"]).name: line["id"] for line in found}

    def states(self) -> dict[str, str]:
        """Return the state of each recorded match, by its path below the tree."""
        with Matches(self.path, create=False) as matches:
            prefix = f"{self.tree}/"
            return {m.path.removeprefix(prefix): str(m.state) for m in matches.find()}

    def story(self, match_id: str) -> list[str]:
        """Return the history of a match, as the names of its events."""
        shown = self.call("matches", "show", match_id, "--format", "json").out
        return [step["event"] for step in json.loads(shown)["story"]]

    def events(self, event: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Return the records of the audit log as (event, data): all, or those of one kind."""
        records = log.read(self.path / "audit", event=event)
        return [(record.event, dict(record.data)) for record in records]

    def left(self) -> set[str]:
        """Return the names of the files that are still in the tree."""
        return {path.name for path in self.tree.rglob("*") if path.is_file()}

    def let_time_pass(self) -> None:
        """Wait for the next tick of the file system's clock, so that changes differ in time."""
        probe = self.directory / "probe"
        probe.write_bytes(b"")
        first = probe.stat().st_ctime_ns
        while probe.stat().st_ctime_ns == first or time.time_ns() <= first:
            probe.write_bytes(b"")


def make_state(directory: Path, lists: Mapping[str, bytes]) -> Path:
    """Make a state directory with `lists`: files of digests by the name of their list."""
    provider = Provider(directory / "provider")
    for name, content in lists.items():
        provider.publish(content, name)
    Client(directory / "state", provider, provider.root).fetch()
    return directory / "state"


def edit_manifest(state: Path, list_name: str, **changes: object) -> None:
    """Change the manifest of a list in a state directory, for example when it `expires`.

    The manifest gets a new authentication code, so the new values count.
    """
    path = state / "lists" / list_name / "manifest.json"
    manifest = json.loads(path.read_bytes())
    assert changes.keys() <= manifest.keys()
    changed = json.dumps(manifest | changes | {"mac": NO_MAC}).encode()
    path.write_bytes(authenticate(changed, MANIFEST_FORMAT, load_sealer(state, None, {})))


def remember_at_once(patch: pytest.MonkeyPatch, directory: Path) -> None:
    """Let scans in this process remember new files at once, also on a file system in memory.

    Otherwise tests would wait for the next tick of the clock; few tests need records.
    """
    for name in ("FRESH_NS", "FRESH_PROVEN_NS"):
        patch.setattr(cache, name, 0)
    fd = os.open(directory, os.O_RDONLY)
    kinds = filesystems._KEEP_CTIME | {filesystems.kind_of(fd)}
    if identity.unique_mount(fd) is None:  # an earlier kernel has no unique numbers of mounts
        patch.setattr(identity, "unique_mount", lambda fd: os.fstat(fd).st_dev)
    os.close(fd)
    patch.setattr(filesystems, "_KEEP_CTIME", kinds)
    patch.setattr(identity, "_LEASES_PROVE", kinds)


def purpose_of(path: str) -> str | None:
    """Return the purpose of the file at `path`, relative to the state directory; None if unknown.

    Unfinished files of killed writers count as known.
    """
    if any(part.startswith(TEMP_PREFIX) for part in path.split("/")):
        return "unfinished: the next writer removes it"
    for pattern, purpose in FILES.items():
        if re.fullmatch(pattern, path):
            return purpose
    return None
