"""The scenarios: each is a function from a `Bench` to rows, whose docstring is its question.

Goals are ratios of two measurements of the same run, so goals are valid on any machine.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import buckets, inside
from bench.checking import checking_rows
from bench.deciding import exception_rows, held_rows
from bench.door import door_rows, watch_rows, written_row
from bench.importing import import_rows
from bench.measure import (
    HASHCLIENT,
    Row,
    alternating,
    bytes_row,
    cpu_seconds,
    hashclient,
    run,
    seconds_to_first_line,
    time_row,
)
from bench.restoring import restore_rows
from bench.site import forget, publish_delta, settle, site, tree, write_digests
from fixtures.cluster import started
from fixtures.faulty_fs import File, Pace, mounted, why_not
from fixtures.generate import make_list
from hashclient.core.kinds import Algorithm

PYTHON = sys.executable
ALL = ("md5", "sha1", "sha256")
#: On slow storage, the default number of workers is compared with these numbers.
_JOBS = (2, 4, 8, 16, 32, 64)
#: If a scan has at least this many files, the start of a cluster is a small part of the time.
_CLUSTER_FILES = 300_000


@dataclass(frozen=True, slots=True)
class Bench:
    """The working directory of benchmarks, and `scale`, which multiplies trees and lists."""

    work: Path
    scale: float

    def count(self, full: int) -> int:
        """Return `full`, a number of files or entries, multiplied by the scale."""
        return max(1000, int(full * self.scale))

    @property
    def repeats(self) -> int:
        """How often each time is measured: more often at a small scale, where times are short."""
        return 1 if self.scale >= 0.5 else 3

    @property
    def jobs(self) -> int:
        """The number of processors that this process may use."""
        return len(os.sched_getaffinity(0))


def start(_bench: Bench) -> Iterator[Row]:
    """How long does the program take to start, beside a Python that only imports click?"""
    click = run([PYTHON, "-c", "import click"], repeat=10)
    ours = run([*HASHCLIENT, "--version"], repeat=10)
    yield time_row("start: --version", ours.wall_s, click.wall_s, "python -c 'import click'", 2.0)


def one_file(bench: Bench) -> Iterator[Row]:
    """How long does `hashclient scan` take for one small file, against a large list?"""
    entries = bench.count(10_000_000)
    with site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here:
        path = bench.work / "one-file"
        path.write_text("a dummy file\n")
        cost = run(hashclient(here.state, "scan", path), repeat=10)
        name = f"one file, {entries:,} entries"
        yield time_row(f"{name}: time", cost.wall_s, 0.2, "0.2 s", 1.0)
        yield bytes_row(f"{name}: memory", cost.rss_bytes, 120e6, "120 MB")


def _scan(bench: Bench, algorithm: str, *, hashdeep: bool) -> Iterator[Row]:
    files, total = bench.count(100_000), bench.count(2_000_000_000)
    entries = bench.count(1_000_000)
    where = tree(bench.work, files=files, total_bytes=total)
    with site(
        bench.work, algorithm, entries=entries, algorithms=(algorithm,), tree_dir=where, share=0.001
    ) as here:
        ours = run(hashclient(here.state, "scan", "--no-inventory", where), expect=[10])
        floor = run([PYTHON, "-m", "bench.floors", "read", where, str(bench.jobs)])
        digest = subprocess.run(
            [PYTHON, "-m", "bench.floors", "digest", algorithm, str(total)],
            check=True,
            capture_output=True,
            text=True,
        )
        least = floor.wall_s + float(digest.stdout) / bench.jobs
        name = f"scan {files:,} files, {algorithm}"
        yield time_row(name, ours.wall_s, least, "read-only pass + OpenSSL", 1.3)
        if not hashdeep or shutil.which("hashdeep") is None:
            return
        # hashdeep first computes its default digests, and then only the digests that our list has.
        for digests, target in ((("md5", "sha256"), 1 / 12), ((algorithm,), None)):
            known = _known(bench.work, where, entries, digests)
            words: list[str | Path] = ["hashdeep", "-m", "-k", known, "-r", where]
            peer = run(words, repeat=1, expect=[0, 1, 2, 3])  # exit 1 to 3: not all matched
            against = f"hashdeep -m, {' and '.join(digests)}"
            yield time_row(name, ours.wall_s, peer.wall_s, against, target)


def _known(work: Path, tree_dir: Path, entries: int, digests: Sequence[str]) -> Path:
    """Return a list of `entries` digests for hashdeep; some files of the tree are listed."""
    path = work / f"known-{'-'.join(digests)}-{entries}.hashdeep"
    if path.exists():
        return path
    table = path.with_suffix(".csv")
    with table.open("wb") as out:
        algorithms = [Algorithm.from_label(label) for label in digests]
        make_list(out, entries=entries, algorithms=algorithms, from_tree=tree_dir, share=0.001)
    with table.open() as rows, path.open("w") as known:
        next(rows)
        known.write(f"%%%% HASHDEEP-1.0\n%%%% size,{','.join(digests)},filename\n")
        for row in rows:
            name, *values, size, _ = row.split(",")
            known.write(",".join([size, *values, name]) + "\n")
    table.unlink()
    return path


def scan_sha256(bench: Bench) -> Iterator[Row]:
    """How close is a full scan with a SHA-256 list to the least possible time, and to hashdeep?"""
    yield from _scan(bench, "sha256", hashdeep=True)


def scan_md5(bench: Bench) -> Iterator[Row]:
    """How close is a full scan with an MD5 list to the least possible time, and to hashdeep?"""
    yield from _scan(bench, "md5", hashdeep=False)


def matches(bench: Bench) -> Iterator[Row]:
    """How long do recording and reporting matches take, beside the least possible time?"""
    files = bench.count(100_000)
    where = tree(bench.work, files=files, total_bytes=files * 4000)
    with site(
        bench.work, "every", entries=files, algorithms=ALL, sizes=True, tree_dir=where, share=1.0
    ) as here:
        out = bench.work / "found.db"
        floor = run(
            [PYTHON, "-m", "bench.floors", "record", where, out],
            before=["rm", "-f", out, f"{out}-journal", f"{out}.log"],
        )
        left = [here.state / name for name in ("matches.db", "audit")]
        for written in ("text", "jsonl", "csv"):
            scan = hashclient(here.state, "scan", "--no-inventory", "--format", written, where)
            ours = run(scan, expect=[10], before=["rm", "-rf", *left])
            name = f"{files:,} matches, {written}"
            yield time_row(name, ours.wall_s, floor.wall_s, "sha256, one table, two files")
            if files >= 100_000:  # with fewer files, the start takes most of the time
                yield time_row(name, ours.wall_s, 3 * files / 100_000, "3 s for 100,000", 1.0)


def sizes_known(bench: Bench) -> Iterator[Row]:
    """How long does a scan take if no file's size is listed, beside `find` printing the sizes?"""
    files = bench.count(1_000_000)
    where = tree(bench.work, files=files, total_bytes=files * 64)
    with site(
        bench.work,
        "sized",
        entries=bench.count(1_000_000),
        algorithms=("sha256",),
        sizes=True,
        smallest=1 << 20,
    ) as here:
        find = run(["find", where, "-printf", "%s\n"])
        ours = run(hashclient(here.state, "scan", where))
        name = f"no size fits, {files:,} files"
        yield time_row(name, ours.wall_s, find.wall_s, "find -printf '%s\\n'", 2.5)


def rescan(bench: Bench) -> Iterator[Row]:
    """How long does a scan of unchanged files take, beside `find` printing the sizes?"""
    files = bench.count(1_000_000)
    where = tree(bench.work, files=files, total_bytes=files * 64)
    with site(
        bench.work, "unsized", entries=bench.count(1_000_000), algorithms=("sha256",)
    ) as here:
        first = run(hashclient(here.state, "scan", where), repeat=1)
        find = run(["find", where, "-printf", "%s\n"])
        ours = run(hashclient(here.state, "scan", where))
        name = f"nothing changed, {files:,} files"
        yield time_row(name, ours.wall_s, find.wall_s, "find -printf '%s\\n'", 4.0)
        yield time_row(name, ours.wall_s, first.wall_s, "the first scan")
        yield bytes_row(f"{name}: memory", ours.rss_bytes, 120e6, "120 MB")
        few = bench.count(200_000)
        where = tree(bench.work, files=few, total_bytes=few * 64, a_folder=10)
        run(hashclient(here.state, "scan", where), repeat=1)
        find = run(["find", where, "-printf", "%s\n"])
        ours = run(hashclient(here.state, "scan", where))
        name = f"the same, {few:,} files, ten a folder"
        yield time_row(name, ours.wall_s, find.wall_s, "find -printf '%s\\n'", 8.0)


def large_files(bench: Bench) -> Iterator[Row]:
    """Does a scan of a few large files use all cores?"""
    size = bench.count(1 << 30)
    where = bench.work / f"large-{size}"
    if not where.exists():
        where.mkdir()
        block = os.urandom(1 << 20)
        for number in range(4):
            with (where / f"f{number}").open("wb") as out:
                for _ in range(size >> 20):
                    out.write(block)
    with site(bench.work, "sha256-large", entries=10_000, algorithms=("sha256",)) as here:
        ours = run(hashclient(here.state, "scan", "--no-inventory", where))
        floor = run([PYTHON, "-m", "bench.floors", "read", where, str(bench.jobs)])
        digest = subprocess.run(
            [PYTHON, "-m", "bench.floors", "digest", "sha256", str(4 * size)],
            check=True,
            capture_output=True,
            text=True,
        )
        least = floor.wall_s + float(digest.stdout) / bench.jobs
        name = f"scan 4 files of {size >> 20} MiB"
        yield time_row(name, ours.wall_s, least, "read-only pass + OpenSSL", 1.1)


def slow_storage(bench: Bench) -> Iterator[Row]:
    """Does a scan send many requests at once to a file system that answers each after 5 ms?"""
    if why_not() is not None:
        return
    files, folders = 1_500, 20
    rng = random.Random(files)
    tree_of = {
        f"d{n % folders}/f{n}": File(rng.randbytes(rng.randrange(100, 20_000)), direct_io=False)
        for n in range(files)
    }
    where = bench.work / "slow"
    where.mkdir(exist_ok=True)
    with site(bench.work, "sha256-small", entries=10_000, algorithms=("sha256",)) as here:
        for kept, valid_s, types in (("nothing", 0, False), ("names and status", 1, True)):
            with mounted(where, tree_of, pace=Pace(0.005, valid_s, types)):
                scan = hashclient(here.state, "scan", where)
                ours = run(scan).wall_s
                name = f"{files:,} files, 5 ms a request, {kept} kept"
                jobs = {n: run([*scan, "--jobs", str(n)], repeat=1).wall_s for n in _JOBS}
                best = min(jobs, key=jobs.__getitem__)
                peer = run([*scan, "--jobs", str(best)])
                yield time_row(name, ours, peer.wall_s, f"--jobs {best}, the best", 1.2)
                shell = f"find {where} -type f -print0 | xargs -0 -P16 -n50 sha256sum"
                peer = run(["sh", "-c", shell])
                yield time_row(name, ours, peer.wall_s, "xargs -P16 sha256sum", 1.0)
                if shutil.which("hashdeep") is not None:
                    peer = run(["hashdeep", "-j16", "-c", "sha256", "-r", where], repeat=1)
                    yield time_row(name, ours, peer.wall_s, "hashdeep -j16", 1.0)


def cold_disk(bench: Bench) -> Iterator[Row]:
    """Is the default number of workers nearly the fastest if no file is in the page cache?"""
    files = bench.count(100_000)
    where = tree(bench.work, files=files, total_bytes=bench.count(2_000_000_000))
    little = bench.work / "little"
    little.mkdir(exist_ok=True)
    (little / "f").write_text("a dummy file\n")
    with site(bench.work, "sha256-small", entries=10_000, algorithms=("sha256",)) as here:
        scan = hashclient(here.state, "scan", "--no-inventory", where)
        shell = "find {} -type f -print0 | xargs -0 -P16 -n50 sha256sum"
        commands = {f"--jobs {n}": [*scan, "--jobs", str(n)] for n in _JOBS}
        commands |= {"default": scan, "xargs": ["sh", "-c", shell.format(where)]}

        def before() -> None:
            forget(where)
            # `forget` has also dropped the files of the two programs. Each program runs once before
            # it is measured, so reading its files is not measured.
            for warm in ([*scan[:-1], little], ["sh", "-c", shell.format(little)]):
                subprocess.run(warm, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        took = alternating(commands, before)
    best = min((name for name in took if name.startswith("--jobs")), key=took.__getitem__)
    name = f"{files:,} files, nothing in memory"
    yield time_row(name, took["default"], took[best], f"{best}, the best", 1.25)
    yield time_row(name, took["default"], took["xargs"], "xargs -P16 sha256sum", 1.25)


def fetch(bench: Bench) -> Iterator[Row]:
    """How long does a first fetch take, beside parsing and sorting the same Parquet files?"""
    entries = bench.count(10_000_000)
    with site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here:
        lists = here.state / "lists"
        ours = run(hashclient(here.state, "fetch"), repeat=2, before=["rm", "-rf", lists])
        floor = run([PYTHON, "-m", "bench.floors", "parse", *here.segments()], repeat=2)
        index = sum(path.stat().st_size for path in lists.rglob("run-*"))
        name = f"fetch {entries:,} entries"
        yield time_row(name, ours.wall_s, floor.wall_s, "numpy read, parse, sort", 3.0)
        yield bytes_row(f"{name}: memory", ours.rss_bytes, 1.5e9, "1.5 GB")
        yield bytes_row(f"{name}: index", index, 100.0 * entries, "100 bytes an entry")
        again = run(hashclient(here.state, "fetch"))
        yield time_row(f"{name}: nothing new", again.wall_s, ours.wall_s, "the first fetch")


def delta(bench: Bench) -> Iterator[Row]:
    """Does the time to fetch a change depend on the change alone, not on the size of the list?"""
    changed = 10_000
    costs = []
    for entries in (bench.count(1_000_000), bench.count(10_000_000)):
        with site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here:
            best = float("inf")
            for _ in range(3):
                publish_delta(here, entries=changed)
                best = min(best, run(hashclient(here.state, "fetch"), repeat=1).wall_s)
            costs.append((entries, best))
    (small, small_s), (large, large_s) = costs
    name = f"fetch {changed:,} new on"
    yield time_row(f"{name} {large:,}", large_s, 1.0, "one second", 1.0)
    yield time_row(f"{name} {large:,}", large_s, small_s, f"the same on {small:,}", 1.25)


def lookup(bench: Bench) -> Iterator[Row]:
    """How fast are many digests looked up by the command, beside a join in DuckDB?"""
    entries = bench.count(10_000_000)
    with site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here:
        asked = bench.work / f"asked-{entries}.txt"
        if not asked.exists():
            write_digests(asked, here.csv, "sha256", entries)
        ours = run(hashclient(here.state, "lookup", "--from", asked), repeat=2, expect=[10])
        name = f"lookup of {entries:,} digests"
        yield time_row(name, ours.wall_s, entries / 2e6, "2 M digests a second", 1.0)
        yield bytes_row(f"{name}: memory", ours.rss_bytes, 300e6 + 91.0 * entries, "index + 300 MB")
        try:
            __import__("duckdb")
        except ImportError:
            return
        join: list[str | Path] = [PYTHON, "-m", "bench.floors", "join", asked]
        duckdb = run([*join, *here.segments()], repeat=2)
        yield time_row(name, ours.wall_s, duckdb.wall_s, "DuckDB join", 1.0)


def flat_memory(bench: Bench) -> Iterator[Row]:
    """Does the memory of the largest process grow with a tree, or with a directory?"""
    few, many = 20_000, bench.count(2_000_000)
    one_directory = bench.work / f"one-directory-{many // 2}"
    if not one_directory.exists():
        one_directory.mkdir()
        for number in range(many // 2):
            (one_directory / f"f{number:07d}").touch()
    with site(bench.work, "sha256-small", entries=10_000, algorithms=("sha256",)) as here:
        small = tree(bench.work, files=few, total_bytes=few * 64)
        large = tree(bench.work, files=many, total_bytes=many * 64)
        peaks = [
            run(hashclient(here.state, "scan", where), repeat=1).rss_bytes
            for where in (small, large, one_directory)
        ]
        name = f"than for {few:,} files"
        for peak, what in zip(
            peaks[1:], (f"{many:,} files", "half of them in a folder"), strict=True
        ):
            yield bytes_row(
                f"{what}: more memory", max(0, peak - peaks[0]), 30e6, f"30 MB more {name}"
            )
        scan = hashclient(here.state, "scan", "--show-all", one_directory)
        first = seconds_to_first_line(scan)
        yield time_row(f"first outcome of {many // 2:,} names", first, 1.0, "one second", 1.0)


def serve(bench: Bench) -> Iterator[Row]:
    """How many objects does `serve` answer in a CPU second, beside clamd, and how soon?"""
    entries = bench.count(10_000_000)
    with site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here:
        yield from door_rows(bench.work, here.state, bench.scale)


def checker(bench: Bench) -> Iterator[Row]:
    """How long does a program wait for the verdict on an upload, and does its memory grow?"""
    entries = bench.count(10_000_000)
    with site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here:
        yield from checking_rows(here.state, bench.count(1_000_000))


def watch(bench: Bench) -> Iterator[Row]:
    """How much CPU does `watch` use while nothing changes, and when many files are written?"""
    files = bench.count(100_000)
    where = tree(bench.work, files=files, total_bytes=files * 64)
    with site(bench.work, "sha256-small", entries=10_000, algorithms=("sha256",)) as here:
        yield from watch_rows(where, here.state)
        yield written_row(bench.work, here.state, files)


def members(bench: Bench) -> Iterator[Row]:
    """How many CPU seconds does reading members of archives take, beside the standard library?"""
    count = bench.count(10_000)
    where = bench.work / f"archives-{count}"
    if not where.exists():
        inside.make(where, count)

    def cpu(way: str, kind: str) -> float:
        command = [PYTHON, "-m", "bench.inside", way, str(where / f"o.{kind}")]
        runs = (subprocess.run(command, check=True, capture_output=True) for _ in range(5))
        return sorted(float(done.stdout) for done in runs)[2]

    for kind, peer, target in (
        ("zip", "zipfile", 1.0),
        ("tar", "tarfile", 0.6),
        ("tar.gz", "tarfile", 0.9),
        ("tar.xz", "tarfile", 1.05),
    ):
        name = f"{count:,} members of a {kind}"
        yield time_row(name, cpu("ours", kind), cpu(peer, kind), f"{peer} + hashlib", target)
    if (where / "o.tar.zst").exists():
        name, peer = f"{count:,} members of a tar.zst", "zstd -dc | sha256sum"
        yield time_row(name, cpu("ours", "tar.zst"), cpu("zstd", "tar.zst"), peer, 1.3)
    name, ours = f"{count:,} members of a zip, no size fits", cpu("ours-no-size-fits", "zip")
    yield time_row(name, ours, cpu("infolist", "zip"), "infolist()", 2.0)
    yield time_row(name, ours, cpu("heads", "zip"), "the first bytes of each", 1.3)


def objects(bench: Bench) -> Iterator[Row]:
    """How many CPU seconds does a scan of a bucket take, beside only listing the bucket?

    A start takes the same time for any number of objects. Therefore the time of the start is
    subtracted if a scan is compared with listing, so a small scale has the same ratios as a large
    scale. A report has a million rows at any scale, and its costs include the start.
    """
    entries = bench.count(10_000_000)
    count = max(buckets.ENOUGH, bench.count(1_000_000))
    report = bench.work / f"report-{buckets.ROWS}.parquet"
    if not report.exists():
        buckets.write_report(report, buckets.ROWS)
    with (
        site(bench.work, "all", entries=entries, algorithms=ALL, sizes=True) as here,
        buckets.served(count) as (url, reads),
    ):
        with (here.state / "config.toml").open("a") as config:
            for size in (buckets.FEW, count, 3 * count):
                name = buckets.bucket_of(size)
                config.write(f'[objects."s3://{name}"]\ntrust_etag = true\n')

        def scan(size: int, *words: str | os.PathLike[str]) -> list[str | os.PathLike[str]]:
            return hashclient(here.state, "scan", *words, f"s3://{buckets.bucket_of(size)}/")

        def whole(words: Sequence[str | os.PathLike[str]]) -> float:
            return min(buckets.cost_of(words, url)[0] for _ in range(bench.repeats))

        def cost(
            words: Callable[[int], Sequence[str | os.PathLike[str]]], size: int = count
        ) -> float:
            """Return the CPU seconds for `size` objects, without the seconds of a start."""
            return whole(words(size)) - whole(words(buckets.FEW))

        def other(name: str, size: int) -> Sequence[str]:
            return [PYTHON, "-m", "bench.buckets", name, f"{url}/{buckets.bucket_of(size)}"]

        ours = cost(lambda size: scan(size, "--no-members"))
        listed = cost(lambda size: other("obstore", size))
        paged = 10 * cost(lambda size: other("botocore", size), count // 10)
        before = reads()
        _, memory = buckets.cost_of(scan(count, "--no-members"), url)
        read = reads() - before
        _, thrice = buckets.cost_of(scan(3 * count, "--no-members"), url)
        env = {**buckets.ENVIRONMENT, "AWS_ENDPOINT_URL": url}
        words = scan(count, "--no-members", "--show-all")
        first = min(seconds_to_first_line(words, env) for _ in range(5))
        reported = whole(scan(count, "--no-read", "--inventory-report", report))
        bare = whole([PYTHON, "-m", "bench.buckets", "parquet", report])
        few = f"s3://{buckets.bucket_of(buckets.FEW)}/"
        new = bench.work / "new-objects"
        new.write_text("".join(f"{few}{buckets.key_of(n)}\n" for n in range(buckets.EVENTS)))
        watch = hashclient(here.state, "watch", "--events", "-", few)
        events, _ = buckets.cost_of(watch, url, stdin=new)
    name = f"{count:,} objects"
    yield time_row(f"{name}: CPU", ours, listed, "obstore, listing alone", 2.0)
    yield time_row(f"{name}: CPU", ours, paged, "botocore's paginator", 0.1)
    yield bytes_row(f"{name}: memory without index", memory, 150e6, "150 MB")
    yield bytes_row("three times as many: memory", thrice, 1.05 * memory, "the same, and 5 %")
    yield Row(f"{name}: read", f"{read:,}", f"{count // 500:,}", "0.2 %", read * 500 / count, 1.0)
    yield time_row(f"{name}: first outcome", first, 1.0, "one second", 1.0)
    yield time_row(
        f"a report of {buckets.ROWS:,} rows: CPU", reported, bare, "reading the Parquet file", 3.0
    )
    yield time_row(f"{buckets.EVENTS:,} events: CPU", events, 60.0, "a minute", 1.0)


def known_archives(bench: Bench) -> Iterator[Row]:
    """How long does a scan of unchanged, known archives take, beside as many plain files?"""
    count = bench.count(100_000)
    where = bench.work / f"known-{count}"
    if not where.exists():
        inside.make_small(where, count)
        settle()
    with site(
        bench.work, "unsized", entries=bench.count(1_000_000), algorithms=("sha256",)
    ) as here:
        costs = []
        for kind in ("zips", "files"):
            run(hashclient(here.state, "scan", where / kind), repeat=1)
            costs.append(run(hashclient(here.state, "scan", where / kind)).wall_s)
        name = f"nothing changed, {count:,} archives"
        yield time_row(name, costs[0], costs[1], "as many plain files", 1.3)


def cluster(bench: Bench) -> Iterator[Row]:
    """How many CPU seconds do all processes of a cluster take, beside one machine?

    The start (importing Dask, comparing lists) takes the same time for every tree, and is most of
    the time for a small tree; so the target holds from `_CLUSTER_FILES` files on. The cluster and
    the one machine run in alternating order.
    """
    files = bench.count(1_000_000)
    where = tree(bench.work, files=files, total_bytes=files * 4096)
    with (
        site(bench.work, "sha256-small", entries=10_000, algorithms=("sha256",)) as here,
        started(bench.jobs, {"HASHCLIENT_STATE_DIR": str(here.state)}) as dask,
    ):
        scan = hashclient(here.state, "scan", "--no-inventory")

        def there(path: Path, code: int) -> float:
            before = dask.cpu_s()
            spent = cpu_seconds([*scan, "--executor", dask.url, path], expect=[code])
            return spent + dask.cpu_s() - before

        nowhere = bench.work / "no such file"
        there(nowhere, 3)  # this scan is not measured: the workers import their modules in it
        starts = [(there(nowhere, 3), cpu_seconds([*scan, nowhere], expect=[3])) for _ in range(5)]
        start, start_alone = (statistics.median(costs) for costs in zip(*starts, strict=True))
        against = "processes of one machine"
        yield time_row("cluster, to start: CPU", start, start_alone, against)
        pairs = [(there(where, 0), cpu_seconds([*scan, where])) for _ in range(5)]
        whole, alone = (statistics.median(costs) for costs in zip(*pairs, strict=True))
        name = f"cluster, {files:,} files: CPU"
        yield time_row(name, whole, alone, against, 1.1 if files >= _CLUSTER_FILES else None)
        yield time_row("the same without the starts", whole - start, alone - start_alone, against)


def deciding(bench: Bench) -> Iterator[Row]:
    """How much time do 10,000 exceptions add to a lookup, and held matches to a scan?"""
    yield from exception_rows(bench.work, pairs=21 if bench.scale < 0.5 else 61)
    yield from held_rows(bench.work, bench.count(100_000), pairs=5)


def importing(bench: Bench) -> Iterator[Row]:
    """How many records are imported in a CPU second, beside ijson, and in how much memory?"""
    yield from import_rows(bench.work, bench.count(10_000_000))


def restoring(bench: Bench) -> Iterator[Row]:
    """How long does isolating and restoring files take, beside only sealing and opening files?"""
    yield from restore_rows(bench.work, bench.count(8_000))


SCENARIOS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "start": start,
    "one-file": one_file,
    "scan-sha256": scan_sha256,
    "scan-md5": scan_md5,
    "matches": matches,
    "restore": restoring,
    "deciding": deciding,
    "sizes-known": sizes_known,
    "rescan": rescan,
    "large-files": large_files,
    "slow-storage": slow_storage,
    "cold-disk": cold_disk,
    "fetch": fetch,
    "delta": delta,
    "lookup": lookup,
    "flat-memory": flat_memory,
    "serve": serve,
    "checker": checker,
    "watch": watch,
    "members": members,
    "objects": objects,
    "known-archives": known_archives,
    "cluster": cluster,
    "import": importing,
}
