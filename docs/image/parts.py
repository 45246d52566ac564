"""The parts of the image and of Debian's package alike: the locked wheels, this commit, the bill.

    python -m docs.image.parts dist/hashclient-*.whl    # the bill of materials of a wheel

All dates are those of the commit. Neither command takes anything that the lock file does not name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: The release of Debian that both are made for, and its Python.
SUITE, PYTHON = "trixie", "3.13"
#: Packages of Debian that the program needs; others come as these depend on them.
RUNTIME = ("ca-certificates", "libseccomp2", "libstdc++6", "python3", "tzdata")
#: Names of a machine: the kernel's, and Debian's.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
#: The wheels of these platforms run here: the glibc of this Debian is newer than they need.
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
#: Parts of packages that nothing at run time reads.
USELESS = ("bin", "pyarrow/include", "pyarrow/tests", "pyarrow/src", "numpy/_core/include")


def output_of(*words: str | Path, epoch: int | None = None) -> str:
    """Run a program in the root of the tree, and return what it has written to stdout.

    With `epoch`, the dates of what it makes are this one.
    """
    dated = None if epoch is None else {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, env=dated)
    return str(done.stdout, "utf-8").strip()


def commit_time() -> int:
    """Return when the commit was made, in seconds since 1970."""
    return int(output_of("git", "log", "-1", "--format=%ct"))


def formatted(epoch: int) -> str:
    """Return a time as ISO 8601 has it, in UTC."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def version() -> str:
    """Return the program's version, read as text."""
    text = (ROOT / "hashclient/core/version.py").read_text()
    return str(re.findall(r'"(.+)"', text)[-1])


def install(site: Path, work: Path, epoch: int) -> None:
    """Install the locked wheels and this commit, as a wheel, into `site`; `work` is for scratch.

    The wheels are those for `PYTHON` and this machine, whatever Python runs this module.
    """
    machine = os.uname().machine
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    pip += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    pip += [f"--platform={name}_{machine}" for name in PLATFORMS]
    pip += ["--root-user-action=ignore", f"--target={site}"]
    output_of(*pip, "--require-hashes", "-r", ROOT / "requirements.lock")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", work)
    output_of(*build, epoch=epoch)
    # The wheel is named by its version: for a path, pip would note that path.
    output_of(*pip, "--no-index", f"--find-links={work}", "--upgrade", f"hashclient=={version()}")
    for name in USELESS:
        shutil.rmtree(site / name, ignore_errors=True)


def finish(target: Path, kind: str, others: list[dict[str, Any]], epoch: int) -> None:
    """Write the bill of materials of `target` beside it, and say how large `target` is.

    The bill is CycloneDX 1.6. The bill names `others`, and everything that the lock file names.
    """
    found = list(others)
    lock = (ROOT / "requirements.lock").read_text()
    for name, number in re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^ ;\\]+)", lock, re.MULTILINE):
        url = f"pkg:pypi/{name}@{number}"
        found.append({"type": "library", "name": name, "version": number, "purl": url})
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": formatted(epoch),
            "component": {"type": kind, "name": "hashclient"},
        },
        "components": sorted(found, key=lambda one: str(one["purl"])),
    }
    text = json.dumps(bill, indent=1, sort_keys=True) + "\n"
    target.with_suffix(".cdx.json").write_text(text)
    sys.stdout.write(f"{target}: {target.stat().st_size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    finish(Path(sys.argv[1]), "library", [], commit_time())
