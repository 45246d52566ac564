"""Isolating and restoring files, beside programs that only seal and open the same files.

Each run of hashclient gets a fresh copy of the same files or of the same quarantine. The files of
an earlier run are moved away, and are removed only at the end. If they were removed earlier,
creating files would be slow: ext4 without a journal does not reuse inodes of removed files for a
while, and skips each of these inodes when a new file is created. All entries are withdrawn before
files are restored. The floors are these programs:

    python -m bench.restoring seal FILES KEY OUT      seal, write and sync each file in turn
    python -m bench.restoring open FOLDERS KEY OUT    open, write and sync each sealed copy in turn
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
from bench.site import LIST, Site, quiet, site

_FILE_BYTES = 4000


def restore_rows(work: Path, files: int) -> Iterator[Row]:
    """Compare isolating and restoring `files` files with only sealing and opening the files."""
    where, key, kept = work / "restored", work / "officer.key", work / "kept"
    plain, out, used = work / "plain", work / "opened", work / "used"
    for path in (where, kept, plain, out, used):
        shutil.rmtree(path, ignore_errors=True)
    where.mkdir()
    used.mkdir()
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
        shutil.copytree(here.state, kept)
        shutil.copytree(where, plain)
        again = (
            f"{_aside(used, here.state, where)}; cp -a {kept} {here.state}; cp -a {plain} {where}"
        )
        ours = run(
            hashclient(here.state, "scan", "--quarantine", where),
            before=["sh", "-c", f"{again}; sync"],
            expect=[10],
        )
        new = f"{_aside(used, out)}; mkdir {out}; sync"
        floor = run(
            [sys.executable, "-m", "bench.restoring", "seal", plain, key, out],
            before=["sh", "-c", new],
        )
        yield time_row(
            f"isolate {files:,} files", ours.wall_s, floor.wall_s, "seal, write, fsync", 2.0
        )
        _withdraw_all(here)
        kept.rename(used / "kept")
        shutil.copytree(here.state, kept)
        again = f"{_aside(used, here.state)}; cp -a {kept} {here.state}; sync"
        files_aside = f"find {where} -mindepth 1 -exec mv -t $(mktemp -d {used}/XXXX) {{}} +"
        words = ["quarantine", "restore", "--withdrawn", "--reason", "bench", "--identity"]
        ours = run(
            hashclient(here.state, *words, key), before=["sh", "-c", f"{files_aside}; {again}"]
        )
        restored = sum(1 for _ in where.iterdir())
        assert restored == files, restored
        floor = run(
            [sys.executable, "-m", "bench.restoring", "open", kept / "quarantine", key, out],
            before=["sh", "-c", new],
        )
        yield time_row(
            f"restore {files:,} files", ours.wall_s, floor.wall_s, "open, write, fsync", 2.0
        )
    shutil.rmtree(used)


def _aside(used: Path, *paths: Path) -> str:
    """Return a shell command that moves `paths` below `used`, if they exist."""
    return f"mv -t $(mktemp -d {used}/XXXX) {' '.join(map(str, paths))} 2> /dev/null"


def _withdraw_all(here: Site) -> None:
    """Withdraw all entries of the list and fetch; the next benchmark then publishes a new list."""
    ids = here.csv.with_name("ids")
    ids.write_text("".join(row.split(",")[0] + "\n" for row in here.csv.read_text().split()[1:]))
    (here.repo.parent / "complete").unlink()
    words = ("provider", "withdraw", here.repo, "--list", LIST, "--from", ids)
    quiet([*HASHCLIENT, *words])
    quiet(hashclient(here.state, "fetch"))


def main(what: str, directory: str, key: str, out: str) -> None:
    """Seal each file, or open each sealed copy; write the result to a file and sync the file."""
    from hashclient.quarantine.age import load_identities, parse_recipients, seal, unseal

    public = Path(key).read_text().split("public key: ")[1].split()[0]
    recipients, identities = parse_recipients([public]), load_identities(Path(key))
    pattern = "*" if what == "seal" else "*/evidence.age"
    for number, path in enumerate(Path(directory).glob(pattern)):
        with path.open("rb") as source, (Path(out) / str(number)).open("wb") as file:
            if what == "seal":
                seal(source.read, file.write, recipients)
            else:
                unseal(source.read, file.write, identities)
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
