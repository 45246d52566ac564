"""A state directory that was really used has only the files that `hashclient.layout` names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures.used_state import use
from hashclient.system.layout import Layout
from tests.kit.state import purpose_of


def files_of(state: Path) -> list[str]:
    return sorted(p.relative_to(state).as_posix() for p in state.rglob("*") if not p.is_dir())


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory after every command that writes to one."""
    with pytest.MonkeyPatch.context() as patch:
        return use(tmp_path_factory.mktemp("used"), patch)


@pytest.mark.slow
def test_every_file_is_one_that_the_layout_names(state: Path) -> None:
    found = files_of(state)
    assert [path for path in found if purpose_of(path) is None] == []
    # The test proves something only if the state has these important files.
    parts = {re.sub(r"(?<=[/-])[0-9a-z]{10}(?=/)|(?<=run-)\d+", "X", path) for path in found}
    assert parts >= {
        *("lock", "seal.key", "matches.db", "inventory.db", "mounts.json", "mounts.lock"),
        *("lists/baseline/manifest.json", "known-good/sources.json", "known-good/run-X"),
        "known-good/listed.json",
        *("trust/main/pinned-root.json", "trust/main/metadata/targets.json"),
        *("audit/log.jsonl", "audit/key.pem", "audit/key.pub"),
        *("quarantine/lock", "quarantine/X/item.json", "quarantine/X/evidence.age"),
        *("fleet/lock", "fleet/published.json", "fleet/known.json", "fleet/known.lock"),
        *("reports/prepare.lock", "reports/r-X/report.json", "reports/r-X/document.json"),
    }


def test_every_path_of_the_layout_is_one_of_its_files_or_above_one(state: Path) -> None:
    layout = Layout(state)
    for name in dir(Layout):
        value = getattr(layout, name)
        if name.startswith("_") or name == "root" or not isinstance(value, Path):
            continue
        path = value.relative_to(state).as_posix()
        below = ("x/manifest.json", "x", "lock", "log.jsonl", "bcdfghjkmn.json")
        assert any(
            purpose_of(f) or purpose_of(f"{f}/pinned-root.json") or purpose_of(f"{path}/run-1")
            for f in (path, *(f"{path}/{name}" for name in below))
        ), name


def test_the_code_names_no_file_of_the_state_elsewhere() -> None:
    package = Path(__file__).parents[2] / "hashclient"
    names = (
        r"seal\.key|matches\.db|inventory\.db|objects\.db|mounts\.json|manifest\.json"
        r"|staging\.json|item\.json"
    )
    for path in package.rglob("*.py"):
        if path.name != "layout.py":
            assert not re.search(f'"({names})"', path.read_text()), path


def test_an_unfinished_file_is_known_as_such() -> None:
    assert purpose_of("lists/baseline/.tmp-abc")
    assert purpose_of("lists/baseline/other") is None
