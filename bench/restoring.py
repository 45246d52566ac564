"""Restoring from quarantine, beside opening the same sealed copies and writing what is in them.

Each run of ours gets the same quarantine again, from a copy. The floor is a process of its own:

    python -m bench.restoring FOLDERS KEY OUT    open, write and sync each sealed copy in turn
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measure import HASHCLIENT, Row, hashclient, run, time_row
from bench.site import quiet, site

_FILE_BYTES = 4000


def restore_rows(work: Path, files: int) -> Iterator[Row]:
    """Compare `quarantine restore` of so many files with the floor."""
    where, key, kept = work / "restored", work / "officer.key", work / "kept"
    for path in (where, kept):
        shutil.rmtree(path, ignore_errors=True)
    where.mkdir()
    key.unlink(missing_ok=True)
    dice = random.Random(files)
    for number in range(files):
        (where / f"{number}").write_bytes(dice.randbytes(_FILE_BYTES))
    with site(
        work, "restored", entries=files, algorithms=("sha256",), tree_dir=where, share=1.0
    ) as here:
        made = subprocess.run(
            [*HASHCLIENT, "quarantine", "keygen", "--output", key],
            check=True,
            capture_output=True,
            text=True,
        )
        quiet(hashclient(here.state, "quarantine", "add-recipient", made.stdout.strip()))
        run(hashclient(here.state, "scan", "--quarantine", where), repeat=1, expect=[10])
        shutil.copytree(here.state, kept)
        folders = kept / "quarantine"
        ids = [folder.name for folder in folders.iterdir() if folder.is_dir()]
        again = f"rm -rf {here.state} {where}/*; cp -a {kept} {here.state}; sync"
        words = ["quarantine", "restore", "--force", "--reason", "bench", "--identity"]
        ours = run(hashclient(here.state, *words, key, *ids), before=["sh", "-c", again])
        out = work / "opened"
        floor = run(
            [sys.executable, "-m", "bench.restoring", folders, key, out],
            before=["sh", "-c", f"rm -rf {out}; mkdir {out}; sync"],
        )
        yield time_row(
            f"restore {len(ids):,} files", ours.wall_s, floor.wall_s, "open, write, fsync", 2.0
        )


def main(folders: str, key: str, out: str) -> None:
    """Open each sealed copy, write what is in it and sync that."""
    from hashclient.quarantine.age import load_identities, unseal

    identities = load_identities(Path(key))
    for path in Path(folders).glob("*/evidence.age"):
        with path.open("rb") as sealed, (Path(out) / path.parent.name).open("wb") as file:
            unseal(sealed.read, file.write, identities)
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
