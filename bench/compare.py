"""Compare two commits: the same commands with the package of each, in pairs, in CPU seconds.

    python -m bench.compare OLD [NEW] [--rows ROW…] [--pairs 9] [--scale 0.1] [--work DIR]

Each commit is built and installed separately, and has its own state directory. Both packages fetch
from the same repository. The commands run in pairs, OLD and NEW in alternating order, so that a
machine that becomes slower slows both packages equally. A row shows the median of the ratios new /
old, and the interval that contains the true median in 96 of 100 cases (for nine pairs: from the
second smallest to the second largest ratio, by the binomial distribution). A command whose whole
interval lies above 1.03 has become slower.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.inside import make
from bench.site import Site, publish_delta, repository, served, tree, write_digests

REPOSITORY = Path(__file__).parents[1]
SLOWER = 1.03
ALL = ("md5", "sha1", "sha256")

Words = Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Build:
    """The package of one commit, installed below `site`, with its state directory `state`."""

    site: Path
    state: Path

    def cpu_seconds(self, words: Words, *, expect: int = 0, repeat: int = 1) -> float:
        """Run a command with this package; return user and system seconds of all its processes.

        Raises:
            RuntimeError: the exit code of the command is not `expect`.
        """
        argv = [sys.executable, "-P", "-m", "hashclient", "--state-dir", str(self.state)]
        argv += [str(word) for word in words]
        environment = os.environ | {"PYTHONPATH": str(self.site)}
        total = 0.0
        for _ in range(repeat):
            with tempfile.TemporaryFile() as errors:
                process = subprocess.Popen(
                    argv, env=environment, stdout=subprocess.DEVNULL, stderr=errors
                )
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = code = os.waitstatus_to_exitcode(status)
                if code != expect:
                    errors.seek(0)
                    text = errors.read().decode(errors="replace")
                    raise RuntimeError(f"{argv}: exit {code}, not {expect}\n{text}")
            total += used.ru_utime + used.ru_stime
        return total


@dataclass(frozen=True, slots=True)
class Pairs:
    """The two packages, the scale and directory of the work, and the number of pairs."""

    old: Build
    new: Build
    work: Path
    scale: float
    pairs: int

    def count(self, full: int) -> int:
        """Return `full`, a number of files or entries, multiplied by the scale."""
        return max(1000, int(full * self.scale))

    @contextlib.contextmanager
    def serving(self, root: Path, *, fetch: bool = True) -> Iterator[Site]:
        """Serve a repository that both packages have pinned; with `fetch`, both fetch its list."""
        with served(root) as here:
            for build in (self.old, self.new):
                shutil.rmtree(build.state, ignore_errors=True)
                shutil.copytree(here.state, build.state)
                # state.json is removed because the code of this checkout wrote it, and OLD may
                # refuse its version. OLD can read all other files in the state directory.
                (build.state / "state.json").unlink(missing_ok=True)
                if fetch:
                    build.cpu_seconds(["fetch"])
            yield here

    def row(
        self,
        name: str,
        words: Words,
        *,
        expect: int = 0,
        repeat: int = 1,
        before: Callable[[Build], None] | None = None,
    ) -> None:
        """Time a command in pairs and print its row; `before` runs untimed before each run."""

        def one(build: Build) -> float:
            if before is not None:
                before(build)
            return build.cpu_seconds(words, expect=expect, repeat=repeat)

        one(self.old)
        one(self.new)
        olds: list[float] = []
        news: list[float] = []
        for turn in range(self.pairs):
            for build in (self.old, self.new) if turn % 2 else (self.new, self.old):
                (olds if build is self.old else news).append(one(build))
        ratios = sorted(new / old for old, new in zip(olds, news, strict=True))
        out = _outside(self.pairs)
        low, high = ratios[out], ratios[-1 - out]
        print(
            f"{name:<34} {statistics.median(olds) / repeat:>9.3f} s"
            f" {statistics.median(news) / repeat:>9.3f} s {statistics.median(ratios):>7.3f}"
            f"  [{low:.3f}, {high:.3f}]{'  SLOWER' if low > SLOWER else ''}",
            flush=True,
        )


def _outside(pairs: int) -> int:
    """Return how many of the smallest and of the largest ratios are outside the 95 % interval."""
    out = 0
    while 2 * sum(math.comb(pairs, k) for k in range(out + 2)) / 2**pairs <= 0.05:
        out += 1
    return out


def start(here: Pairs) -> None:
    """Compare the start of the program."""
    here.row("start: --version", ["--version"], repeat=5)


def one_file(here: Pairs) -> None:
    """Compare checks of one small file against a large list."""
    entries = here.count(10_000_000)
    root = repository(here.work, "all", entries=entries, algorithms=ALL, sizes=True)
    path = here.work / "one-file"
    path.write_text("a dummy file\n")
    with here.serving(root):
        here.row(f"one file, {entries:,} entries", ["scan", path], repeat=3)


def _scan(here: Pairs, algorithm: str) -> None:
    files, total = here.count(200_000), here.count(4_000_000_000)
    where = tree(here.work, files=files, total_bytes=total)
    root = repository(
        here.work,
        algorithm,
        entries=here.count(1_000_000),
        algorithms=(algorithm,),
        tree_dir=where,
        share=0.001,
    )
    with here.serving(root):
        words: Words = ["scan", "--no-inventory", where]
        here.row(f"scan {files:,} files, {algorithm}", words, expect=10)
        # The difference from the row without --no-members is the cost of looking for containers.
        here.row("the same, as files alone", [*words, "--no-members"], expect=10)


def scan_sha256(here: Pairs) -> None:
    """Compare full scans with a SHA-256 list."""
    _scan(here, "sha256")


def scan_md5(here: Pairs) -> None:
    """Compare full scans with an MD5 list."""
    _scan(here, "md5")


def sizes_known(here: Pairs) -> None:
    """Compare scans in which no file has the size of an entry."""
    files = here.count(1_000_000)
    where = tree(here.work, files=files, total_bytes=files * 64)
    root = repository(
        here.work,
        "sized",
        entries=here.count(1_000_000),
        algorithms=("sha256",),
        sizes=True,
        smallest=1 << 20,
    )
    with here.serving(root):
        here.row(f"no size fits, {files:,} files", ["scan", where])


def rescan(here: Pairs) -> None:
    """Compare first scans, and scans in which no file has changed."""
    files = here.count(1_000_000)
    where = tree(here.work, files=files, total_bytes=files * 64)
    entries = here.count(1_000_000)
    root = repository(here.work, "unsized", entries=entries, algorithms=("sha256",))

    def forget(build: Build) -> None:
        for path in build.state.glob("inventory*"):
            path.unlink()

    with here.serving(root):
        here.row(f"first scan, {files:,} files", ["scan", where], before=forget)
        here.row(f"nothing changed, {files:,} files", ["scan", where])


def matches(here: Pairs) -> None:
    """Compare scans in which every file matches, and reports of all those matches."""
    files = here.count(100_000)
    where = tree(here.work, files=files, total_bytes=files * 4000)
    root = repository(
        here.work, "every", entries=files, algorithms=ALL, sizes=True, tree_dir=where, share=1.0
    )

    def forget(build: Build) -> None:
        (build.state / "matches.db").unlink(missing_ok=True)
        shutil.rmtree(build.state / "audit")

    with here.serving(root):
        for written in ("text", "jsonl", "csv"):
            words: Words = ["scan", "--no-inventory", "--format", written, where]
            here.row(f"{files:,} matches, {written}", words, expect=10, before=forget)


def large_files(here: Pairs) -> None:
    """Compare scans of a few large files."""
    size = here.count(1 << 30)
    where = here.work / f"large-{size}"
    if not where.exists():
        where.mkdir()
        block = os.urandom(1 << 20)
        for number in range(4):
            (where / f"f{number}").write_bytes(block * (size >> 20))
    root = repository(here.work, "sha256-large", entries=10_000, algorithms=("sha256",))
    with here.serving(root):
        words: Words = ["scan", "--no-inventory", where]
        here.row(f"scan 4 files of {size >> 20} MiB", words)


def members(here: Pairs) -> None:
    """Compare scans of archives of each kind: members read, and members of no listed size."""
    count = here.count(100_000)
    where = here.work / f"archives-{count}"
    if not where.exists():
        make(where, count)
    for name, sizes in (("read", False), ("no size fits", True)):
        root = repository(
            here.work,
            f"members-{'sized' if sizes else 'unsized'}",
            entries=10_000,
            algorithms=("sha256",),
            sizes=sizes,
            smallest=1 << 40,
        )
        with here.serving(root):
            words: Words = ["scan", "--no-inventory", where]
            here.row(f"{count:,} members of each kind, {name}", words)


def fetch(here: Pairs) -> None:
    """Compare a first fetch, a fetch of nothing new, and a fetch of a small change."""
    entries = here.count(10_000_000)
    root = repository(here.work, "all", entries=entries, algorithms=ALL, sizes=True)

    def forget(build: Build) -> None:
        shutil.rmtree(build.state / "lists")

    def put_back(build: Build) -> None:
        shutil.rmtree(build.state)
        shutil.copytree(build.state.with_suffix(".kept"), build.state)

    with here.serving(root) as provider:
        name = f"fetch {entries:,} entries"
        here.row(name, ["fetch"], before=forget)
        here.row(f"{name}: nothing new", ["fetch"], repeat=3)
        for build in (here.old, here.new):
            kept = build.state.with_suffix(".kept")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(build.state, kept)
        publish_delta(provider, entries=10_000)
        here.row(f"fetch 10,000 new on {entries:,}", ["fetch"], before=put_back)


def lookup(here: Pairs) -> None:
    """Compare bulk lookups of digests."""
    entries = here.count(10_000_000)
    root = repository(here.work, "all", entries=entries, algorithms=ALL, sizes=True)
    with here.serving(root) as provider:
        asked = here.work / f"asked-{entries}.txt"
        if not asked.exists():
            write_digests(asked, provider.csv, "sha256", entries)
        here.row(f"lookup of {entries:,} digests", ["lookup", "--from", asked], expect=10)


ROWS: dict[str, Callable[[Pairs], None]] = {
    "start": start,
    "one-file": one_file,
    "scan-sha256": scan_sha256,
    "scan-md5": scan_md5,
    "sizes-known": sizes_known,
    "rescan": rescan,
    "matches": matches,
    "large-files": large_files,
    "members": members,
    "fetch": fetch,
    "lookup": lookup,
}


def build(commit: str, work: Path) -> Build:
    """Return the package of a commit of this repository, installed below `work`."""
    git = ["git", "-C", str(REPOSITORY)]
    name = subprocess.check_output([*git, "rev-parse", "--short", commit], text=True).strip()
    here = work / f"build-{name}"
    installed = Build(here / "site", here / "state")
    if not (here / "complete").exists():
        shutil.rmtree(here, ignore_errors=True)
        source = here / "source"
        source.mkdir(parents=True)
        archive = here / "source.tar"
        subprocess.run([*git, "archive", "-o", str(archive), commit], check=True)
        shutil.unpack_archive(archive, source, filter="data")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(installed.site), str(source)], check=True)
        shutil.rmtree(source)
        archive.unlink()
        (here / "complete").touch()
    return installed


def main() -> None:
    """Parse the command line, build both packages, run the comparisons and print their rows."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", metavar="OLD", help="a commit")
    parser.add_argument("new", metavar="NEW", nargs="?", default="HEAD", help="default: HEAD")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--pairs", type=int, default=9, help="default: 9")
    parser.add_argument("--scale", type=float, default=0.1, help="1 is full size (default: 0.1)")
    parser.add_argument("--work", type=Path, help="keep trees, lists and builds here")
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("PYTHON", "OPENBLAS_"))]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="hashclient-bench-") as folder:
        work: Path = (options.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        old, new = build(options.old, work), build(options.new, work)
        pairs = Pairs(old, new, work, options.scale, options.pairs)
        print(f"{'row':<34} {'old':>11} {'new':>11} {'new/old':>7}  interval", flush=True)
        for name in options.rows:
            ROWS[name](pairs)


if __name__ == "__main__":
    main()
