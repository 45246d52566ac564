"""Builds a package for Debian: a Python environment with the locked wheels and this commit.

    python -m docs.debian.build dist

It needs `dpkg-deb` and the registry of the wheels, but neither root nor a particular Python. The
same commit gives the same bytes, because all dates are the date of the commit. The package's bill
of materials is written beside it. `docs/debian.md` says which file is installed where.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import sys
import tempfile
import textwrap
from datetime import UTC, datetime
from email import message_from_bytes
from email.utils import format_datetime
from pathlib import Path

from docs.image.parts import (
    MACHINES,
    PYTHON,
    ROOT,
    RUNTIME,
    SUITE,
    commit_time,
    finish,
    install,
    output_of,
    version,
)

HERE = Path(__file__).parent
HOME = "usr/lib/hashclient"
SITE = f"{HOME}/lib/python{PYTHON}/site-packages"
#: Folders of a wheel below `share`, and the folders that Debian uses instead.
SHARED = {"zsh/site-functions": "zsh/vendor-completions"}
_LICENCE = re.compile("licen[cs]e|copying|notice", re.IGNORECASE)
#: The next version of Python, which the package must not be installed with: the environment's
#: packages are in a folder that is named after `PYTHON`.
_NEXT = ".".join([PYTHON.split(".")[0], str(int(PYTHON.split(".")[1]) + 1)])
DEPENDS = (
    *("adduser", "libc6 (>= 2.34)", f"python3 (<< {_NEXT})"),
    *(f"{name} (>= {PYTHON}~)" if name == "python3" else name for name in RUNTIME),
)


def main() -> None:
    """Build the package into the directory that is named on the command line."""
    os.umask(0o022)
    folder, epoch = Path(sys.argv[1]), commit_time()
    architecture = MACHINES[os.uname().machine]
    maintainer = _maintainer()
    changelog = changelog_of((ROOT / "CHANGELOG.md").read_text(), epoch, maintainer)
    number = changelog[changelog.index("(") + 1 : changelog.index(")")]
    target = folder / f"hashclient_{number}_{architecture}.deb"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        install(root / SITE, Path(scratch, "wheels"), epoch)
        _place(root)
        _document(root, changelog)
        _control(root, number, architecture, maintainer)
        words = ("dpkg-deb", "--root-owner-group", "-Zxz", "-z2", "--build")
        output_of(*words, root, target.absolute(), epoch=epoch)
    finish(target, "application", [], epoch)


def _place(root: Path) -> None:
    """Put the environment, the command, the units and the man pages where Debian wants them."""
    site, share = root / SITE, root / "usr/share"
    for found in sorted((site / "share").rglob("*")):
        if found.is_file():
            name = str(found.relative_to(site / "share"))
            for wheel, debian in SHARED.items():
                name = name.replace(wheel, debian)
            if name.startswith("man/"):
                _write(share / f"{name}.gz", gzip.compress(found.read_bytes(), 9, mtime=0))
            else:
                _write(share / name, found.read_bytes())
    shutil.rmtree(site / "share")
    config = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
    _write(root / HOME / "pyvenv.cfg", config.encode())
    start = f"#!/{HOME}/bin/python3 -I\nfrom hashclient.__main__ import main\n\nmain()\n"
    _write(root / HOME / "bin/hashclient", start.encode(), mode=0o755)
    (root / HOME / "bin/python3").symlink_to(f"../../../bin/python{PYTHON}")
    (root / "usr/bin").mkdir()
    (root / "usr/bin/hashclient").symlink_to("../lib/hashclient/bin/hashclient")
    (root / "etc/hashclient").mkdir(parents=True)
    for unit in sorted((ROOT / "docs/systemd").rglob("*")):
        if unit.is_file():
            below = unit.relative_to(ROOT / "docs/systemd")
            optional = below.parts[0] == "optional"
            place = (
                share / "doc/hashclient/examples" if optional else root / "usr/lib/systemd/system"
            )
            text = unit.read_bytes().replace(b"/usr/local/bin/hashclient", b"/usr/bin/hashclient")
            _write(place / below, text)


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def _maintainer() -> str:
    """Return the maintainer that Debian's tools find in the environment, or the commit's author."""
    name, mail = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return (
        f"{name} <{mail}>" if name and mail else output_of("git", "log", "-1", "--format=%an <%ae>")
    )


def changelog_of(text: str, epoch: int, maintainer: str) -> str:
    """Return our changelog in the form that Debian's policy (4.4) demands.

    An unreleased version gets a number that sorts before its release and after earlier builds.
    """
    entries = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        name, _, day = heading.partition(" - ")
        number, date = name.strip("[]"), datetime.fromtimestamp(epoch, UTC)
        if day:
            date = datetime.fromisoformat(day).replace(tzinfo=UTC)
        else:
            commit = output_of("git", "rev-parse", "--short=12", "HEAD")
            number = f"{version()}~git{date:%Y%m%d%H%M%S}.{commit}"
        lines = [f"hashclient ({number}) {SUITE}; urgency=medium", ""]
        for kind, item in re.findall(r"^### (.+)|^- (.+(?:\n  .+)*)", body, re.MULTILINE):
            if kind:
                lines += ["", f"  [ {kind} ]"] if lines[-1] else [f"  [ {kind} ]"]
            plain = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", " ".join(item.split()))
            lines += textwrap.wrap(f"  * {plain}" if plain else "", 78, subsequent_indent=" " * 4)
        lines += ["", f" -- {maintainer}  {format_datetime(date)}", ""]
        entries.append("\n".join(lines))
    return "\n".join(entries)


def _document(root: Path, changelog: str) -> None:
    """Write the changelog, the licences of all files in the package, and lintian's overrides."""
    place = root / "usr/share/doc/hashclient"
    _write(place / "changelog.gz", gzip.compress(changelog.encode(), 9, mtime=0))
    text = (HERE / "copyright").read_text()
    for metadata in sorted((root / SITE).glob("*.dist-info/METADATA")):
        of = message_from_bytes(metadata.read_bytes())
        said = [of["License-Expression"], of["License"]]
        said += [
            kind.rpartition(" :: ")[2] for kind in of.get_all("Classifier", []) if "License" in kind
        ]
        licence = next(
            (line for one in said if one and one != "UNKNOWN" for line in one.splitlines() if line),
            "see below",
        )
        text += f"\n{of['Name']} {of['Version']}: {licence}\n"
        files = [path for path in sorted(metadata.parent.rglob("*")) if _LICENCE.match(path.name)]
        text += "".join(f"  /{path.relative_to(root)}\n" for path in files if path.is_file())
    _write(place / "copyright", text.encode())
    _write(root / "usr/share/lintian/overrides/hashclient", (HERE / "overrides").read_bytes())


def _control(root: Path, number: str, architecture: str, maintainer: str) -> None:
    """Set the modes of all files, and write the control files that dpkg reads."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for path in files:
        path.chmod(0o755 if path.parent == root / HOME / "bin" else 0o644)
    sums = ""
    for path in files:
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        sums += f"{digest}  {path.relative_to(root)}\n"
    values = {
        "VERSION": number,
        "ARCHITECTURE": architecture,
        "MAINTAINER": maintainer,
        "SIZE": str(sum(-(-path.stat().st_size // 1024) for path in files)),
        "DEPENDS": ", ".join(sorted(DEPENDS)),
        "UNITS": " ".join(
            path.name
            for path in sorted((root / "usr/lib/systemd/system").iterdir())
            if path.is_file() and "@" not in path.name
        ),
    }
    for name in ("control", "postinst", "prerm", "postrm"):
        text = re.sub("@([A-Z]+)@", lambda found: values[found[1]], (HERE / name).read_text())
        _write(root / "DEBIAN" / name, text.encode(), mode=0o644 if name == "control" else 0o755)
    _write(root / "DEBIAN/md5sums", sums.encode())


if __name__ == "__main__":
    main()
