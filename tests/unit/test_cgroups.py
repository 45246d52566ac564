"""Limits of control groups, read from files as the kernel shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hashclient.scan.executors.here import default_jobs
from hashclient.system import cgroups
from hashclient.system.cgroups import available_memory, usable_processors

V2 = "0::/a.slice/b.service\n"
V1 = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/docker/x\n"


def groups(directory: Path, own: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Write the files that the kernel would show; return their directory."""
    for name, text in files.items():
        path = directory / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "own").write_text(own)
    return {"mounted": directory / "cgroup", "own_groups": directory / "own"}


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {}, 8),
        (V2, {"a.slice/b.service/cpu.max": "max 100000\n"}, 8),
        (V2, {"a.slice/b.service/cpu.max": "200000 100000\n"}, 2),
        # A quota is rounded up to a whole number of processors.
        (V2, {"a.slice/b.service/cpu.max": "150000 100000\n"}, 2),
        (V2, {"a.slice/b.service/cpu.max": "1000 100000\n"}, 1),
        # A quota above the number of processors has no effect.
        (V2, {"a.slice/b.service/cpu.max": "9000000 100000\n"}, 8),
        # The parent group has a lower quota.
        (
            V2,
            {"a.slice/b.service/cpu.max": "400000 100000\n", "a.slice/cpu.max": "300000 100000\n"},
            3,
        ),
        # A container sees its own group as the top group, whatever path /proc/self/cgroup has.
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        (V2, {"cpu.max": "200000 100000\n"}, 2),
        ("0::/../../x\n", {"cpu.max": "200000 100000\n"}, 2),
        # Version 1 of control groups.
        (V1, {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "-1\n"}, 8),
        (
            V1,
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            V1,
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        # A value that cannot be parsed sets no limit.
        (V2, {"a.slice/b.service/cpu.max": "100000\n"}, 8),
        (V2, {"a.slice/b.service/cpu.max": "100000 0\n"}, 8),
        (V2, {"a.slice/b.service/cpu.max": "-5 100000\n"}, 8),
        (V2, {"a.slice/b.service/cpu.max": "9" * 30 + " 100000\n"}, 8),
        (V2, {"a.slice/b.service/cpu.max": "ü 100000\n"}, 8),
        ("", {"cpu.max": "100000 100000\n"}, 8),
        ("nonsense\n0:x\n::\n", {"cpu.max": "100000 100000\n"}, 8),
    ],
)
def test_a_quota_is_worth_processors(
    tmp_path: Path, own: str, files: Mapping[str, str], expected: int
) -> None:
    assert usable_processors(8, **groups(tmp_path, own, files)) == expected


def test_where_there_are_no_groups_nothing_is_limited(tmp_path: Path) -> None:
    nowhere = {"mounted": tmp_path / "x", "own_groups": tmp_path / "y"}
    assert usable_processors(5, **nowhere) == 5


def test_a_scan_starts_no_more_workers_than_the_quota_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = groups(tmp_path, V2, {"a.slice/b.service/cpu.max": "50000 100000\n"})
    monkeypatch.setattr(cgroups, "MOUNTED", there["mounted"])
    monkeypatch.setattr(cgroups, "OWN_GROUPS", there["own_groups"])
    assert default_jobs() == 1


MEMINFO = "MemTotal:  8000 kB\nMemAvailable:  4000 kB\nHugePages_Total: 0\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (V2, {}, 4000 << 10),
        (V2, {"a.slice/b.service/memory.max": "max\n"}, 4000 << 10),
        (
            V2,
            {
                "a.slice/b.service/memory.max": "1000000\n",
                "a.slice/b.service/memory.current": "600000\n",
                "a.slice/b.service/memory.stat": "anon 1\ninactive_file 100000\nodd\n",
            },
            500_000,
        ),
        # A parent group has less memory left, or is over its limit.
        (
            V2,
            {
                "a.slice/b.service/memory.max": "1000000\n",
                "a.slice/b.service/memory.current": "600000\n",
                "a.slice/memory.max": "700000\n",
                "a.slice/memory.current": "800000\n",
            },
            0,
        ),
        (
            V1,
            {
                "memory/docker/x/memory.limit_in_bytes": "2000000\n",
                "memory/docker/x/memory.usage_in_bytes": "500000\n",
                "memory/docker/x/memory.stat": "total_inactive_file 7\n",
            },
            1_500_007,
        ),
        # No limit, as control groups of version 1 write it.
        (
            V1,
            {
                "memory/docker/x/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/docker/x/memory.usage_in_bytes": "500000\n",
            },
            4000 << 10,
        ),
    ],
)
def test_memory_is_what_the_machine_and_each_group_have_left(
    tmp_path: Path, own: str, files: Mapping[str, str], expected: int
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    where = groups(tmp_path, own, files)
    assert available_memory(**where, meminfo=tmp_path / "meminfo") == expected


def test_memory_is_unknown_where_nothing_says_it(tmp_path: Path) -> None:
    nowhere = {"mounted": tmp_path / "x", "own_groups": tmp_path / "y"}
    assert available_memory(**nowhere, meminfo=tmp_path / "z") is None
