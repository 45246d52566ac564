"""The costs of exceptions and of the brake: lookups with many exceptions, scans with held matches.

The ratios are close to 1, so processor time is compared, in pairs that run in alternating order.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyrage

from bench.measure import Row, bytes_row, cpu_seconds, hashclient, time_row
from bench.site import LIST, site
from hashclient.client.client import Client
from hashclient.decisions.exceptions import Exceptions
from hashclient.decisions.rulings import MOST, USUAL, Entry, Ruling, write_book


def exception_rows(work: Path, pairs: int) -> Iterator[Row]:
    """Compare lookups with the largest number of exceptions with lookups with at most one."""
    with site(work, "ruled", entries=2 * MOST, algorithms=("sha256",)) as here:
        listed = [line.split(",")[:2] for line in here.csv.read_text().splitlines()[1:]]
        states = {number: here.state.with_name(f"ruled-{number}") for number in (0, 1, MOST)}
        for number, state in states.items():
            shutil.rmtree(state, ignore_errors=True)
            shutil.copytree(here.state, state)
            _except(state, [entry for entry, _ in listed[:number]])
        for name, digest, few, code in (
            ("no match", "0" * 64, 0, 0),
            ("a match", listed[-1][1], 0, 10),
            ("an excepted match", listed[0][1], 1, 0),
        ):

            def look_up(number: int, digest: str = digest, code: int = code) -> float:
                return cpu_seconds(hashclient(states[number], "lookup", digest), expect=[code])

            many, others = _in_turn(partial(look_up, MOST), partial(look_up, few), pairs)
            what = f"lookup beside {MOST:,} exceptions, {name}"
            yield time_row(what, many, others, f"beside {few}, CPU", 1.02)


def held_rows(work: Path, files: int, pairs: int) -> Iterator[Row]:
    """Compare a scan whose matches are held by the brake with a scan that only records matches.

    In both scans one entry matches every file, and both write the same matches. In the scan with
    the policy the brake holds all matches but one, because isolating files is work that the other
    scan doesn't do.
    """
    where = work / f"same-{files}"
    _fill(where, files)
    key = pyrage.x25519.Identity.generate().to_public()
    policy = (
        f'[quarantine]\nrecipients = ["{key}"]\n[brake]\nper_entry = 1\n'
        '[[policy]]\nactions = ["quarantine"]\n'
    )
    with site(work, "held", entries=1, algorithms=("sha256",), tree_dir=where, share=1.0) as here:
        kept, written = here.state.with_name("held"), dict[str, int]()

        def scan(config: str) -> float:
            _fill(where, files)
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(here.state, kept)
            with (kept / "config.toml").open("a") as out:
                out.write(config)
            taken = cpu_seconds(hashclient(kept, "scan", where), expect=[10, 11])
            shutil.rmtree(kept / "quarantine", ignore_errors=True)
            written[config] = sum(p.stat().st_size for p in kept.rglob("*") if p.is_file())
            return taken

        held, recorded = _in_turn(partial(scan, policy), partial(scan, ""), pairs)
        name = f"{files:,} files of one entry, held"
        yield time_row(name, held, recorded, "recorded alone, CPU", 1.2)
        yield bytes_row(
            f"{name}: state", written[policy], 1.2 * written[""], "1.2 x recorded alone"
        )


def _in_turn(
    one: Callable[[], float], other: Callable[[], float], pairs: int
) -> tuple[float, float]:
    """Return the medians of two costs; the functions run in pairs, in alternating order."""
    taken: dict[Callable[[], float], list[float]] = {one: [], other: []}
    for number in range(pairs):
        for cost in (one, other) if number % 2 else (other, one):
            taken[cost].append(cost())
    return statistics.median(taken[one]), statistics.median(taken[other])


def _except(state: Path, entries: list[str]) -> None:
    """Add an exception for each of `entries`."""
    if not entries:
        return
    session = Client(state).session
    lists, now = session.open_lists(), session.now()
    codes = Exceptions.of(session, lists).codes_of([(LIST, entry) for entry in entries])
    rulings = [
        Ruling(
            id=f"x-{number:010d}",
            entries=(Entry(LIST, entry, codes[LIST, entry]),),
            reason="a text that everybody has: ticket 4711",
            by="alice",
            made_at=now,
            until=now + USUAL,
        )
        for number, entry in enumerate(entries)
    ]
    write_book(session.settings.layout, rulings, lists.sealer, now)


def _fill(where: Path, files: int) -> None:
    """Create `files` files with equal content, a thousand in a folder; keep existing files."""
    for number in range(files):
        path = where / f"{number // 1000:04d}" / f"{number:07d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(b"a licence that everybody has\n")
