"""clamdscan asks the daemon about files, in each mode: by stream, by path, by open file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clamd import serving
from tests.gateways.door import NO_VERDICT, Door
from tests.gateways.objects import FILES, FOUND_FILES, WITHOUT_VERDICT
from tests.gateways.programs import SOCKET, needs, output_of, recipe
from tests.kit import csv_of, make_state, write_tree

pytestmark = [pytest.mark.deep, needs("clamdscan")]

CLEAN, FOUND, ERROR = 0, 1, 2
MODES = [
    "",
    "--fdpass",
    "--stream",
    "--multiscan",
    "--allmatch",
    "--multiscan --fdpass",
    "--allmatch --fdpass",
    "--multiscan --stream",
    "--allmatch --stream",
]


def asked(socket: object, directory: Path, mode: str, *paths: Path) -> tuple[int, str]:
    """Run the recipe with another mode, and return its exit code and its output."""
    configuration = directory / "clamd.conf"
    places = {SOCKET: socket, "/tmp/clamd.conf": configuration, "FILE...": '"$@"'}
    script = recipe("recipe-clamdscan", {**places, "--fdpass": f"--no-summary {mode}"})
    return output_of("sh", "-c", script, "sh", *paths)


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode or "contscan")
def test_files(gate: Door, tmp_path: Path, mode: str, rule: str) -> None:
    gate.open(rule)
    tree = write_tree(tmp_path / "t", FILES)
    made = {what: asked(gate.socket, tmp_path, mode, tree / what)[0] for what in FILES}
    unknown = {"found": FOUND, "error": ERROR, "ok": CLEAN}[rule]
    assert made == {
        "clean": CLEAN,
        **dict.fromkeys(FOUND_FILES, FOUND),
        **dict.fromkeys(WITHOUT_VERDICT, unknown),
        "long": unknown
        if "stream" in mode
        else CLEAN,  # the limit of length applies only to streams
    }


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode or "contscan")
def test_a_tree(gate: Door, tmp_path: Path, mode: str) -> None:
    gate.open()
    tree = write_tree(tmp_path / "t", FILES)
    code, told = asked(gate.socket, tmp_path, mode, tree)
    said = {line for line in told.splitlines() if not line.endswith(": OK")}
    names = {"film": "e-film", "picture": "e-picture", "whole": "e-zip"}
    assert (code, said) == (
        FOUND,
        {f"{tree / what}: Hashclient.base.{names.get(what, 'e-1')} FOUND" for what in FOUND_FILES}
        | {f"{tree / what}: {NO_VERDICT}Unread FOUND" for what in WITHOUT_VERDICT}
        | ({f"{tree / 'long'}: {NO_VERDICT}Length FOUND"} if "stream" in mode else set()),
    )


@pytest.mark.parametrize(("rule", "code"), [("found", FOUND), ("error", ERROR), ("ok", CLEAN)])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode or "contscan")
def test_stale_lists(gate: Door, tmp_path: Path, mode: str, rule: str, code: int) -> None:
    gate.open(rule, stale=True)
    tree = write_tree(tmp_path / "t", FILES)
    assert asked(gate.socket, tmp_path, mode, tree / "clean")[0] == code
    assert asked(gate.socket, tmp_path, mode, tree / "match")[0] == FOUND


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode or "contscan")
def test_nobody_there(gate: Door, tmp_path: Path, mode: str) -> None:
    gate.close()
    tree = write_tree(tmp_path / "t", FILES)
    assert asked(gate.socket, tmp_path, mode, tree / "match")[0] == ERROR


def test_a_match_among_errors(gate: Door, tmp_path: Path) -> None:
    gate.open("error")
    tree = write_tree(tmp_path / "t", FILES)
    code, told = asked(gate.socket, tmp_path, "", tree)
    assert (code, "unread: encrypted, zip, encrypted. ERROR" in told) == (FOUND, True)


def test_it_sends_the_whole_of_a_large_file(tmp_path: Path) -> None:
    """By default clamdscan would send the first 100 MB and call the file clean."""
    large = bytes(101 << 20)
    tree = write_tree(tmp_path / "t", {"large": large})
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": large})})
    with serving(state, tmp_path / "run") as daemon:
        for mode in ("--stream", "--fdpass", ""):
            assert asked(daemon.unix, tmp_path, mode, tree / "large")[0] == FOUND
