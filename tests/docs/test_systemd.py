"""The systemd units: valid for systemd itself, and as restricted as the document says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS
from tests.docs.commands import check_invocation, invocations

pytestmark = pytest.mark.docs

UNITS = DOCS / "systemd"
PAGE = DOCS / "operations" / "systemd.md"
SERVICES = sorted(path.name for path in UNITS.glob("hashclient-*.service"))
TIMERS = sorted(path.name for path in UNITS.glob("*.timer"))

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


def analyze(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *args],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(params=[False, True], ids=["as it is", "with quarantine"])
def units(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the installed form of the units, with a program of this machine."""
    directory = tmp_path / "systemd"
    shutil.copytree(UNITS, directory, ignore=shutil.ignore_patterns("optional"))
    if request.param:
        shutil.copytree(UNITS / "optional", directory, dirs_exist_ok=True)
    for path in directory.glob("*.service"):
        text = path.read_text()
        for program in ("/usr/local/bin/hashclient", "/usr/sbin/sendmail"):
            text = text.replace(program, sys.executable)
        path.write_text(text)
    return directory


def test_every_service_has_its_timer_or_runs_always() -> None:
    always = ["hashclient-serve.service", "hashclient-watch.service"]
    timed = [name.replace(".timer", ".service") for name in TIMERS]
    assert sorted(timed + always) == SERVICES
    for name in always:
        assert "[Install]" in (UNITS / name).read_text()


def settings(path: Path) -> list[str]:
    """Return the names of the settings of a unit's service, in order."""
    _, _, section = path.read_text().replace("\\\n", " ").partition("[Service]\n")
    lines = section.partition("\n[")[0].splitlines()
    return [line.partition("=")[0] for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", SERVICES)
def test_the_common_part_does_not_undo_the_settings_of_a_unit(name: str) -> None:
    """systemd reads a drop-in after the unit; an empty value there would reset a setting."""
    common = settings(UNITS / "hashclient-.service.d" / "10-common.conf")
    own = settings(UNITS / name)
    assert {"CapabilityBoundingSet", "RestrictAddressFamilies", "UMask"} <= set(own)
    assert len(own) == len(set(own))
    # The settings that are in both files add values and replace none.
    assert set(common) & set(own) <= {"Environment", "LoadCredential"}


def test_only_scan_and_watch_may_ask_by_leases() -> None:
    for name in SERVICES:
        lines = (UNITS / name).read_text().splitlines()
        given = [line for line in lines if "CAP_LEASE" in line]
        words = "CAP_DAC_READ_SEARCH CAP_LEASE"
        expected = [f"AmbientCapabilities={words}", f"CapabilityBoundingSet={words}"]
        reads = name in ("hashclient-scan.service", "hashclient-watch.service")
        assert given == (expected if reads else [])


@needs_systemd
def test_systemd_finds_nothing_wrong_with_them(units: Path) -> None:
    done = analyze("verify", "--man=no", *(units / name for name in (*SERVICES, *TIMERS)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_they_are_as_closed_as_the_document_says(units: Path) -> None:
    promised = re.search(r"exposure level of at most (\d+\.\d)", PAGE.read_text())
    assert promised is not None
    threshold = str(round(10 * float(promised[1])))
    for name in SERVICES:
        done = analyze("security", "--offline=true", f"--threshold={threshold}", units / name)
        assert done.returncode == 0, done.stdout


def test_the_units_start_existing_commands_with_existing_options() -> None:
    for name in SERVICES:
        (line,) = invocations((UNITS / name).read_text())
        command = check_invocation(line)
        parts = {"metrics": "status", "purge": "quarantine", "checkpoint": "audit"}
        assert command.split()[0] == parts.get(part := name[11:-8], part)


def test_metrics_are_written_where_the_unit_may_and_the_link_of_the_document_leads() -> None:
    unit = (UNITS / "hashclient-metrics.service").read_text()
    (output,) = re.findall(r"--output (\S+)", unit)
    (cache,) = re.findall(r"^CacheDirectory=(\S+)$", unit, re.MULTILINE)
    assert Path(output).parent == Path("/var/cache", cache)
    assert "CacheDirectoryMode=0755" in unit and "UMask=0022" in unit
    assert f"ln -s {output} /var/lib/prometheus/node-exporter/\n" in PAGE.read_text()
    # Exit code 2 for a missing file must count as a failure of the unit.
    assert re.findall(r"^SuccessExitStatus=(.*)$", unit, re.MULTILINE) == ["3 5 6 7 8 9"]


def test_an_outage_is_told_once_a_day() -> None:
    text = (UNITS / "notify-hashclient@.service").read_text()
    assert "StartLimitIntervalSec=20h\nStartLimitBurst=1\n" in text
    # Messages are at least 20 hours apart. A weekly unit could report a lasting outage only once a
    # week, so no timer is weekly.
    for name in TIMERS:
        (when,) = re.findall(r"^OnCalendar=(.*)$", (UNITS / name).read_text(), re.MULTILINE)
        assert "weekly" not in when


def test_each_is_described() -> None:
    text = PAGE.read_text()
    for name in SERVICES:
        assert f"`{name.removesuffix('.service')}`" in text
