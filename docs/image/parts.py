"""Functions that the builds of the OCI image and of Debian's package share.

    python -m docs.image.parts dist/hashclient-*.whl    # the bill of materials of a wheel

All dates are the date of the commit. Both builds install only wheels that the lock file names.
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
#: The release of Debian that image and package are made for, and the version of its Python.
SUITE, PYTHON = "trixie", "3.13"
#: Packages of Debian that the program needs; Debian's tools add the packages these depend on.
RUNTIME = ("ca-certificates", "libseccomp2", "libstdc++6", "python3", "tzdata")
#: Names of processor architectures: the kernel's name, and Debian's name.
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
#: The platforms of wheels that run on `SUITE`, whose glibc is newer than these wheels need.
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
#: Parts of the installed packages that nothing reads at run time.
USELESS = ("bin", "pyarrow/include", "pyarrow/tests", "pyarrow/src", "numpy/_core/include")


def output_of(*words: str | Path, epoch: int | None = None) -> str:
    """Run a program in the root of the source tree, and return its output.

    With `epoch`, the files that the program makes have this date (in seconds since 1970).
    """
    dated = None if epoch is None else {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, env=dated)
    return str(done.stdout, "utf-8").strip()


def commit_time() -> int:
    """Return the time of the commit, in seconds since 1970."""
    return int(output_of("git", "log", "-1", "--format=%ct"))


def formatted(epoch: int) -> str:
    """Return a time in the form of ISO 8601, in UTC."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def version() -> str:
    """Return the program's version, which is read from the source text."""
    text = (ROOT / "hashclient/core/version.py").read_text()
    return str(re.findall(r'"(.+)"', text)[-1])


def install(site: Path, work: Path, epoch: int) -> None:
    """Install the locked wheels and a wheel of this commit into `site`; `work` is temporary.

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
    # pip installs the wheel by its version, because pip records a path in the installation.
    output_of(*pip, "--no-index", f"--find-links={work}", "--upgrade", f"hashclient=={version()}")
    for name in USELESS:
        shutil.rmtree(site / name, ignore_errors=True)


def finish(target: Path, kind: str, others: list[dict[str, Any]], epoch: int) -> None:
    """Write the bill of materials of `target` beside `target`, and print the size of `target`.

    The bill is CycloneDX 1.6 and contains `others` and every package of the lock file.
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
