"""Writing what was measured into a document, with the machine and the versions under it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Name the machine, the kernel, and the versions of what the figures depend on."""
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
    """Name the commit of this checkout, and say so if files differ from it."""
    words = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--dirty"]
    return subprocess.check_output(words, text=True).strip()


def _openssl() -> str:
    return " ".join(ssl.OPENSSL_VERSION.split()[:2])


def write_section(document: Path, name: str, scale: float, lines: Sequence[str]) -> None:
    """Replace what is between the marks of section `name` of a document.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->\n"
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{document} has no section {name}")
    note = f"Measured at scale {scale:g}, at commit {commit()}, on {machine()}."
    body = "\n".join(["", *lines, "", note, "", ""])
    document.write_text(f"{before}{begin}{body}{end}{after}", encoding="utf-8")
