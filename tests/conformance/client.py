"""The client for TUF's public conformance suite: each request starts a process with `fetch`.

`README.md` says how to run the suite. The suite's repositories sign any file by any role, so two
parts of `fetch` are replaced, both of which run after the metadata were verified. The first part
chooses the lists. The second part downloads the one target that the suite asks for, instead of the
lists.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from unittest import mock

from hashclient.cli import main as command
from hashclient.core.errors import HashclientError, VerificationError
from hashclient.system.files import make_private_dir, write_atomic
from hashclient.system.layout import Layout
from hashclient.trust import tuf
from hashclient.trust.tuf import Trust

MAX_TARGET_BYTES = 64 << 20


def main(argv: list[str]) -> None:
    """Do the action that the suite asks for; exit with 0 if the action succeeded, else with 1."""
    parser = argparse.ArgumentParser()
    for name in ("metadata-dir", "metadata-url", "target-name", "target-dir", "target-base-url"):
        parser.add_argument(f"--{name}")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    asked = parser.parse_args(argv)
    metadata = Path(asked.metadata_dir)
    layout = Layout(metadata / "state")
    if asked.command == "init":
        make_private_dir(layout.root)
        make_private_dir(layout.provider("main"))
        write_atomic(layout.pinned_root("main"), asked.root.read_bytes())
        shutil.copyfile(asked.root, metadata / "root.json")
        return
    configuration = layout.root / "config.toml"
    _configure(configuration, layout.pinned_root("main"), asked.metadata_url)
    has_succeeded = False

    def lists(trust: Trust) -> list[str]:
        nonlocal has_succeeded
        if asked.command == "download":
            _download(trust, asked.target_name, Path(asked.target_dir))
        has_succeeded = True
        return []

    with mock.patch.object(Trust, "lists", lists):
        command._run(["--state-dir", str(layout.root), "--config", str(configuration), "fetch"])
    for path in layout.metadata("main").glob("*.json"):
        shutil.copyfile(path, metadata / path.name)
    sys.exit(0 if has_succeeded else 1)


def _configure(path: Path, root: Path, url: str) -> None:
    settings = {
        "url": url.rstrip("/").removesuffix("/metadata"),
        "root_sha256": hashlib.sha256(root.read_bytes()).hexdigest(),
        "allow_http": True,
        "attempts": 1,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    write_atomic(path, "\n".join(["[providers.main]", *lines, ""]).encode())


def _download(trust: Trust, name: str, directory: Path) -> None:
    """Download a target, unless a file with the signed hash exists already."""
    with trust._translated():
        info = trust._updater.get_targetinfo(name)
    if info is None:
        raise VerificationError(f"nobody vouches for {name}")
    tuf._check_hashes(info, name)
    path = directory / hashlib.sha256(name.encode()).hexdigest()
    try:
        with trust._translated():
            info.verify_length_and_hashes(path.read_bytes())
    except HashclientError:
        path.write_bytes(trust.download(info, MAX_TARGET_BYTES))


if __name__ == "__main__":
    main(sys.argv[1:])
