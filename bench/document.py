"""Writes measured rows into a document, with the machine and the versions of the programs.

Each row says at which commit and scale it was measured, so that each scenario can be measured again
by itself, on an idle machine, when its code has changed. Rows of other scenarios stay unchanged.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.measure import MISSED, Row

_CPUINFO = Path("/proc/cpuinfo")
_HEAD = (
    "| scenario | what | hashclient | other | which other | ratio | at most | measured |",
    "|---|---|---:|---:|---|---:|---:|---|",
)
#: `_ROW` finds the scenario of a row; `_NOTE` finds the commit and scale that a note explains.
_ROW = re.compile(r"\| `([a-z0-9-]+)` \|")
_NOTE = re.compile(r"- (`[^`]+`, [0-9.e-]+): ")


def machine() -> str:
    """Return the names of the machine and kernel, and the versions that the figures depend on."""
    found = re.search(r"^model name\s*: (.+)$", _CPUINFO.read_text(), re.MULTILINE)
    versions = [f"Python {platform.python_version()}", _openssl()]
    for package in ("numpy", "pyarrow", "duckdb"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if (hashdeep := shutil.which("hashdeep")) is not None:
        done = subprocess.run([hashdeep, "-V"], check=True, capture_output=True, text=True)
        versions.append(f"hashdeep {done.stdout.strip()}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return (
        f"{len(os.sched_getaffinity(0))} cores of {found[1] if found else platform.machine()},"
        f" {memory:.0f} GB, Linux {platform.release().split('-')[0]}; {', '.join(versions)}"
    )


def commit() -> str:
    """Return the name of the commit of this checkout, with `-dirty` if the code was changed."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    name = subprocess.check_output([*git, "describe", "--always"], text=True).strip()
    changed = subprocess.run(
        [*git, "diff", "--quiet", "HEAD", "--", "hashclient", "bench"], check=False
    )
    return f"{name}-dirty" if changed.returncode else name


def _openssl() -> str:
    return " ".join(ssl.OPENSSL_VERSION.split()[:2])


def write_section(document: Path, name: str, scale: float, lines: Sequence[str]) -> None:
    """Replace the text between the two markers of section `name` of a document.

    Raises:
        ValueError: the document has no markers of that section.
    """
    note = f"Measured at scale {scale:g}, at commit {commit()}, on {machine()}."
    _replace(document, name, lambda _: [*lines, "", note])


def write_figures(
    document: Path, scale: float, rows: Mapping[str, Sequence[Row]], order: Sequence[str]
) -> None:
    """Replace the rows of the measured scenarios in a document with `rows`.

    The table lists scenarios in the order of `order`; rows of any other scenario are removed.

    Raises:
        ValueError: the document has no section for figures.
    """
    here = f"`{commit()}`, {scale:g}"

    def renewed(lines: Sequence[str]) -> list[str]:
        kept: dict[str, list[str]] = {name: [] for name in order}
        for line in lines:
            if (found := _ROW.match(line)) is not None and found[1] not in rows:
                kept.get(found[1], []).append(line)
        for name, new in rows.items():
            kept[name] = [f"| `{name}` {row.cells()} {here} |" for row in new]
        table = [line for name in order for line in kept[name]]
        where = {found[1]: line for line in lines if (found := _NOTE.match(line)) is not None}
        where[here] = f"- {here}: on {datetime.now(UTC):%Y-%m-%d}, {machine()}"
        used = [line for key, line in where.items() if any(f" {key} |" in row for row in table)]
        measured = ["Measured at a commit and a scale, on a machine:", "", *used]
        return [*_HEAD, *table, "", *missed(table), "", *measured]

    _replace(document, "figures", renewed)


def missed(table: Sequence[str]) -> list[str]:
    """Return a sentence and a list of the goals that rows of the table miss."""
    goals, lines = 0, []
    for row in table:
        _, what, _, _, *other, ratio, goal, _ = row.strip("| ").split(" | ")
        goals += bool(goal.strip())
        if goal.endswith(MISSED):
            wanted = goal.removesuffix(MISSED)
            lines.append(f"- {what}, against {' | '.join(other)}: {ratio} instead of {wanted}")
    return [f"Of {goals} goals, {len(lines)} are **missed**{':' if lines else '.'}", "", *lines]


def _replace(document: Path, name: str, change: Callable[[Sequence[str]], Sequence[str]]) -> None:
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->\n"
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    body, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{document} has no section {name}")
    lines = "\n".join(["", *change(body.splitlines()), "", ""])
    document.write_text(f"{before}{begin}{lines}{end}{after}", encoding="utf-8")
