"""The package for Debian: the same bytes twice, valid, and installed and purged in a chroot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.debian.build import DEPENDS, HERE, changelog_of
from docs.image.parts import RUNTIME, SUITE
from tests.docs.blocks import DOCS, marked_blocks
from tests.docs.test_image import BUILD_S, needs
from tests.docs.test_quickstart import EXPECTED_EXIT, QUICKSTART, checked
from tests.kit import ROOT

pytestmark = pytest.mark.docs

PAGE = DOCS / "debian.md"
#: The `PATH` of Debian's administrators.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SCRIPTS = ("postinst", "prerm", "postrm")

#: A script for the folder of the quick start: a watch of a folder, and a daemon with a client.
MORE = """
hashclient watch --format jsonl files > watched 2> watch.log & watch=$!
until grep -qs watching watch.log; do kill -0 $watch; sleep 0.1; done
cp files/listed.txt files/new.txt
until grep -qs new.txt watched; do kill -0 $watch; sleep 0.1; done
kill $watch
hashclient serve --bind "unix:$PWD/socket" > served & serve=$!
until grep -qs listening served; do kill -0 $serve; sleep 0.1; done
python3 - <<'END'
import socket, struct
data = open("files/listed.txt", "rb").read()
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect("socket")
    asking.sendall(b"zINSTREAM\\0" + struct.pack(">I", len(data)) + data + bytes(4))
    answer = asking.recv(1000)
assert b"FOUND" in answer, answer
END
kill $serve
"""


def output_of(*words: str | Path) -> str:
    done = subprocess.run(
        words,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(folder: Path) -> Path:
    needs("dpkg-deb")
    output_of(sys.executable, "-m", "docs.debian.build", folder)
    (package,) = folder.glob("*.deb")
    return package


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"))


@pytest.mark.deep
def test_the_package_is_the_same_twice(package: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == package.read_bytes()


@pytest.mark.deep
def test_lintian_finds_no_error(package: Path) -> None:
    needs("lintian")
    # lintian warns when root runs it, but its exit code counts only errors.
    output_of("lintian", "--allow-root", "--fail-on=error", package)


def inside(root: Path, *words: str) -> str:
    """Run a program as root in a chroot whose network has only loopback."""
    return output_of(
        *("bwrap", "--bind", root, "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run"),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--cap-add", "ALL", "--clearenv"),
        *("--setenv", "PATH", PATH, "--setenv", "DEBIAN_FRONTEND", "noninteractive"),
        *words,
    )


@pytest.mark.deep
def test_it_is_installed_used_upgraded_removed_and_purged(package: Path, tmp_path: Path) -> None:
    needs("mmdebstrap", "bwrap", root=True)
    root = tmp_path / "root"
    included = ",".join(["adduser", *RUNTIME])
    options = ("--quiet", "--mode=root", "--variant=minbase", f"--include={included}")
    output_of("mmdebstrap", *options, SUITE, root)
    shutil.copy(package, root / "first.deb")
    # The same package is built with a later version.
    output_of("dpkg-deb", "-R", package, tmp_path / "again")
    control = tmp_path / "again/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", "Version: 9", control.read_text()))
    options = ("--root-owner-group", "-Zgzip", "-z1", "--build")
    output_of("dpkg-deb", *options, tmp_path / "again", root / "second.deb")

    inside(root, "dpkg", "-i", "/first.deb")
    state, wants = root / "var/lib/hashclient", root / "etc/systemd/system"
    assert state.stat().st_mode & 0o777 == 0o700 and state.stat().st_uid != 0
    assert not list(wants.rglob("hashclient*"))
    assert list((root / "usr/lib/hashclient").rglob("*.pyc"))
    as_user = (
        "runuser",
        "-u",
        "hashclient",
        "--",
        "env",
        "HASHCLIENT_STATE_DIR=/var/lib/hashclient",
    )
    inside(root, *as_user, "hashclient", "demo")
    script = EXPECTED_EXIT.sub(checked, "".join(marked_blocks(QUICKSTART, "quickstart")))
    script = script.replace("$PWD/state", "/var/lib/hashclient") + MORE
    script = f"set -e\ntrap 'kill $(jobs -p) 2> /dev/null || :' EXIT\ncd $(mktemp -d)\n{script}"
    inside(root, *as_user, "bash", "-c", script)
    matches = (*as_user, "hashclient", "matches")
    found = inside(root, *matches)
    assert "new.txt" in found

    # The administrator has enabled this unit of the package.
    link = wants / "timers.target.wants/hashclient-scan.timer"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("/usr/lib/systemd/system/hashclient-scan.timer")
    (root / "etc/hashclient/root.json").write_text("{}")
    inside(root, "dpkg", "-i", "/second.deb")
    assert inside(root, *matches) == found
    inside(root, "dpkg", "--remove", "hashclient")
    assert not os.path.lexists(root / "usr/bin/hashclient")
    assert not (root / "usr/lib/hashclient").exists()
    inside(root, "dpkg", "-i", "/second.deb")
    assert inside(root, *matches) == found and (root / "etc/hashclient/root.json").exists()
    sealed = state / "quarantine/item/evidence.age"
    sealed.parent.mkdir(parents=True, exist_ok=True)
    sealed.touch()
    inside(root, "dpkg", "--purge", "hashclient")
    assert sealed.exists() and not (root / "etc/hashclient").exists()
    inside(root, "dpkg", "-i", "/second.deb")
    assert inside(root, *matches) == found
    for path in state.rglob("*.age"):
        path.unlink()
    inside(root, "dpkg", "--purge", "hashclient")
    assert not state.exists()
    assert not os.path.lexists(link)
    assert "hashclient" not in inside(root, "dpkg-query", "-W")


def test_the_changelog_becomes_debians() -> None:
    text = """# Changelog

## [Unreleased]

### Added

- A [page](docs/a.md#b) that is long enough for a second line, so that it is seen how the second
  line goes on.

### Fixed

- One.

## [1.0.0] - 2030-01-02

- Two.
"""
    made = changelog_of(text, 1_900_000_000, "A <a@example.org>")
    first, second = re.split(r"(?m)^(?=hashclient)", made)[1:]
    assert re.match(
        r"hashclient \(\S+~git20300317174640\.[0-9a-f]+\) trixie; urgency=medium\n\n", first
    )
    assert (
        first.partition("\n\n")[2]
        == """  [ Added ]
  * A page that is long enough for a second line, so that it is seen how the
    second line goes on.

  [ Fixed ]
  * One.

 -- A <a@example.org>  Sun, 17 Mar 2030 17:46:40 +0000

"""
    )
    assert (
        second
        == """hashclient (1.0.0) trixie; urgency=medium

  * Two.

 -- A <a@example.org>  Wed, 02 Jan 2030 00:00:00 +0000
"""
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_ones_that_sh_can_read(name: str) -> None:
    text = (HERE / name).read_text()
    assert text.startswith("#!/bin/sh\nset -e\n")
    output_of("sh", "-n", HERE / name)


def test_the_page_names_what_the_package_needs_and_where_things_are() -> None:
    text = PAGE.read_text()
    for relation in DEPENDS:
        assert relation.split()[0] in text, relation
    for place in (
        "/usr/lib/hashclient",
        "/usr/bin/hashclient",
        "/var/lib/hashclient",
        "/etc/hashclient",
    ):
        assert f"`{place}`" in text, place
