"""Makes what benchmarks need: trees, lists, a provider on loopback, a client of the provider.

All files are synthetic and made by `fixtures.generate`. If the working directory of a benchmark is
kept, the next run uses its files again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import HASHCLIENT, hashclient
from fixtures.generate import FILES_A_DIRECTORY, make_list, make_tree
from hashclient.core.kinds import Algorithm
from hashclient.scan.cache.cache import COARSE_NS, FRESH_NS

LIST = "bench"
#: The number of entries published at a time, which bounds the disk and memory of publishing.
PART_ENTRIES = 10_000_000


def tree(work: Path, *, files: int, total_bytes: int, a_folder: int = FILES_A_DIRECTORY) -> Path:
    """Return a tree of `files` files and `total_bytes` bytes; make the tree if it is missing."""
    path = work / f"tree-{files}-{total_bytes}-{a_folder}"
    if not path.exists():
        make_tree(path, files=files, total_bytes=total_bytes, seed=files, a_folder=a_folder)
        settle()
    return path


def settle() -> None:
    """Wait until the new files are old enough to be recorded in the inventory."""
    time.sleep((FRESH_NS + COARSE_NS) / 1e9)


def forget(tree: Path) -> None:
    """Have the kernel drop the cached pages of a tree's files.

    As root, drop all other caches of the kernel as well; otherwise names and inodes stay cached.
    """
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        for _, _, names, directory in os.fwalk(tree):
            for name in names:
                fd = os.open(name, os.O_RDONLY, dir_fd=directory)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)


@dataclass(frozen=True, slots=True)
class Site:
    """A repository, its running provider, and the state directory of a client of the provider.

    `csv`: the table that the first generation was published from.
    """

    repo: Path
    state: Path
    csv: Path

    def segments(self) -> list[Path]:
        """Return the paths of the segments of the list."""
        return sorted((self.repo / "public/targets/lists" / LIST).glob("*.parquet"))


def repository(
    work: Path,
    name: str,
    *,
    entries: int,
    algorithms: tuple[str, ...],
    sizes: bool = False,
    tree_dir: Path | None = None,
    share: float = 0.0,
    smallest: int = 0,
) -> Path:
    """Return a folder with a repository whose list has `entries` entries; make it if missing.

    `share` is the part of the tree's files that the list contains. `entries.csv` in the folder is
    the table that the entries were published from, or the first part of the table.
    """
    root = work / f"site-{name}-{entries}"
    repo = root / "repo"
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    quiet([*HASHCLIENT, "-q", "provider", "init", repo])
    for part, start in enumerate(range(0, entries, PART_ENTRIES)):
        csv = root / ("part.csv" if part else "entries.csv")
        with csv.open("wb") as out:
            make_list(
                out,
                entries=min(PART_ENTRIES, entries - start),
                algorithms=[Algorithm.from_label(label) for label in algorithms],
                sizes=sizes,
                seed=entries + part,
                from_tree=None if part else tree_dir,
                share=share,
                smallest=smallest,
                prefix=f"r{part}-" if part else "r",
            )
        quiet([*HASHCLIENT, "-q", "provider", "publish", repo, "--list", LIST, csv])
        if part:
            csv.unlink()
    (root / "complete").touch()
    return root


@contextlib.contextmanager
def served(root: Path) -> Iterator[Site]:
    """Serve a repository; yield its site, with a client that has not fetched the list yet."""
    repo, state = root / "repo", root / "state"
    words = [*HASHCLIENT, "provider", "serve", str(repo), "--format", "json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())
            shutil.rmtree(state, ignore_errors=True)
            access = ["--ca", address["ca"], "--token-file", address["token_file"]]
            root_file = repo / "root.json"
            quiet(hashclient(state, "init", address["url"], "--root", root_file, *access))
            yield Site(repo, state, root / "entries.csv")
        finally:
            server.terminate()


@contextlib.contextmanager
def site(work: Path, name: str, **wanted: Any) -> Iterator[Site]:
    """Serve a `repository`; yield its site, with a client that has fetched the list."""
    with served(repository(work, name, **wanted)) as here:
        quiet(hashclient(here.state, "fetch"))
        yield here


def publish_delta(here: Site, *, entries: int) -> None:
    """Publish `entries` more entries as the next generation."""
    number = sum(1 for _ in here.segments())
    path = here.csv.with_name("delta.csv")
    with path.open("wb") as out:
        make_list(
            out, entries=entries, algorithms=list(Algorithm), seed=number, prefix=f"d{number}-"
        )
    quiet([*HASHCLIENT, "-q", "provider", "publish", here.repo, "--list", LIST, path])


def write_digests(out: Path, csv: Path, algorithm: str, count: int) -> None:
    """Write `count` digests, one a line: every 1,000th is in `csv`, the others are unlisted."""
    rng = np.random.default_rng([count, 1])
    with csv.open() as rows, out.open("w") as stream:
        column = next(rows).strip().split(",").index(algorithm)
        width = 2 * Algorithm.from_label(algorithm).digest_bytes
        for start in range(0, count, 1000):
            digits = rng.bytes(999 * width // 2).hex()
            stream.write(next(rows).split(",")[column] + "\n")
            lines = [digits[i : i + width] for i in range(0, len(digits), width)]
            stream.write("\n".join(lines[: count - start - 1]) + "\n")


def quiet(argv: Sequence[str | os.PathLike[str]]) -> None:
    """Run a command that must succeed, without showing its output."""
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
