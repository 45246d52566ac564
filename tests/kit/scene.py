"""A tree that its owner exchanges while root works in it, and a file out of the owner's reach."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hashclient.matches.store import Matches
from hashclient.quarantine.vault import item_ids, load_item
from tests.kit.attacker import (
    ATTACKER,
    Victim,
    attack_once,
    exchange,
    give_tree,
    link,
    write,
)
from tests.kit.run import call
from tests.kit.state import State

LISTED = b"a benign file that the list names"


class Scene:
    """The attacker's tree has a listed file; a victim's file outside of it has the same content.

    `directory`: the directory of the listed file. `trap`: a link to the victim's directory, which
    has a file of the same name. `steps`: exchange `directory` and `trap`, and restore the listed
    file if it was isolated.
    """

    def __init__(self, ground: Path, state_directory: Path, **quarantine: object) -> None:
        self.state = State(state_directory, {"base": {"e-1": LISTED}})
        self.key = state_directory / "officer.key"
        self.out = state_directory / "out"
        self.out.mkdir()
        made = call("quarantine", "keygen", "--output", self.key, "--format", "json")
        self.recipient = json.loads(made.out)["public_key"]
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in quarantine.items())
        self.quarantine = "".join(lines)
        self.configure()
        self.victim = Victim(ground / "closed" / "f", LISTED)
        self.tree = give_tree(ground / "home", {"d/f": LISTED, "more": b"not listed"})
        self.directory, self.trap = self.tree / "d", self.tree / "trap"
        attack_once(link(self.trap, self.victim.path.parent))
        back = [write(place / "f", LISTED.decode()) for place in (self.directory, self.trap)]
        self.steps = [*back, exchange(self.directory, self.trap)]

    def configure(self, more: str = "") -> None:
        recipients = f"recipients = [{json.dumps(self.recipient)}]\n" + self.quarantine
        package = f'kind = "package"\ndirectory = "{self.out}"\n'
        report = f'[report]\norganisation = "o"\ncontact = "c"\n[report.to.desk]\n{package}'
        self.state.configure(f"{more}\n{report}[quarantine]\n{recipients}")

    def fill(self, count: int) -> None:
        """Put `count` listed files of the attacker into the directory, and restore its name."""
        if self.directory.is_symlink() or self.directory.stat().st_uid != ATTACKER:
            attack_once(exchange(self.directory, self.trap))
        for number in range(count):
            path = self.directory / f"f{number}"
            # The file was isolated, perhaps with a tombstone.
            if not path.exists() or path.read_bytes() != LISTED:
                path.unlink(missing_ok=True)
                path.write_bytes(LISTED)
                os.chown(path, ATTACKER, ATTACKER)

    def lay_traps(self, count: int, put: str = "link") -> None:
        """Make victims with the same names and content.

        With `directory`, the trap is a directory that root has made within a directory of the
        attacker.
        """
        if put == "directory":
            self.trap = self.tree / "closed"
            self.victim = Victim(self.trap / "f", LISTED)
        for number in range(count):
            Victim(self.victim.path.with_name(f"f{number}"), LISTED)
        self.victim.look()

    def check(self) -> None:
        """Fail if the attacker has reached a victim, or any record names one."""
        self.fill(0)
        assert self.victim.is_untouched()
        closed = self.victim.path.parent
        inodes = {path.stat().st_ino for path in closed.iterdir()}
        room = self.state.path / "quarantine"
        # The listed file's directory has one of these two names.
        own = {str(self.directory), str(self.trap)}
        for item in (load_item(room, match_id) for match_id in item_ids(room)):
            assert item.origin.inode not in inodes
            assert str(Path(item.file).parent) in own
        with Matches(self.state.path) as matches:
            assert {str(Path(match.path).parent) for match in matches.find()} <= own
