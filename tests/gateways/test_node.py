"""The package `clamscan` of Node.js asks the daemon about paths and streams."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.door import NAME, NO_VERDICT, Door
from tests.gateways.objects import FILES, FOUND_FILES, WITHOUT_VERDICT
from tests.gateways.programs import SOCKET, needs, output_of, program, recipe
from tests.kit import write_tree

NAMES = {"whole": "e-zip", "film": "e-film", "picture": "e-picture"}
SCRIPT = """
const fs = require("fs");
const NodeClam = require("clamscan");
async function asked(clam, way, path) {
  try {
    const data = way === "path" ? null : fs.createReadStream(path);
    const said = await (data === null ? clam.isInfected(path) : clam.scanStream(data));
    return said.isInfected ? said.viruses : said.isInfected === false ? "clean" : "nothing";
  } catch { return "an exception"; }
}
(async () => {
  %s
  const said = {};
  for (const path of process.argv.slice(2)) said[path] = await asked(clam, process.argv[1], path);
  return said;
})().catch(() => "an exception").then((said) => console.log(JSON.stringify(said)));
"""


def modules() -> Path | None:
    """Return the directory where npm keeps globally installed packages."""
    if program("npm") is None:
        return None
    done = subprocess.run(["npm", "root", "-g"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip())


MODULES = modules()
pytestmark = [
    pytest.mark.deep,
    needs("node", "npm"),
    pytest.mark.skipif(
        MODULES is None or not (MODULES / "clamscan").exists(), reason="not installed: clamscan"
    ),
]


def asked(gate: Door, way: str, tree: Path, *names: str) -> Any:
    """Ask about files by `path` or by `stream`, and return the answers by file name."""
    script = SCRIPT % recipe("recipe-node", {SOCKET: gate.socket})
    paths = [tree / name for name in names]
    code, told = output_of("env", f"NODE_PATH={MODULES}", "node", "-e", script, way, *paths)
    assert code == 0, told
    said = json.loads(told)
    return {Path(p).name: v for p, v in said.items()} if isinstance(said, dict) else said


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
@pytest.mark.parametrize("way", ["path", "stream"])
def test_files(gate: Door, tmp_path: Path, way: str, rule: str) -> None:
    gate.open(rule)
    tree = write_tree(tmp_path / "t", FILES)

    def unknown(word: str) -> object:
        named = [f"{NO_VERDICT}{word}"]
        return {"found": named, "error": "an exception", "ok": "clean"}[rule]

    said = asked(gate, way, tree, *FILES)
    long = said.pop("long")
    # `clamscan` raises an exception if the answer arrives before it has sent everything.
    if way == "stream":
        assert long in ("an exception", unknown("Length"))
    else:
        assert long == "clean"  # the limit of length applies only to streams
    assert said == {
        "clean": "clean",
        **{what: [f"Hashclient.base.{NAMES.get(what, 'e-1')}"] for what in FOUND_FILES},
        **dict.fromkeys(WITHOUT_VERDICT, unknown("Unread")),
    }


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
@pytest.mark.parametrize("way", ["path", "stream"])
def test_stale_lists(gate: Door, tmp_path: Path, way: str, rule: str) -> None:
    gate.open(rule, stale=True)
    tree = write_tree(tmp_path / "t", FILES)
    stale = {"found": [f"{NO_VERDICT}Stale"], "error": "an exception", "ok": "clean"}[rule]
    assert asked(gate, way, tree, "clean", "match") == {"clean": stale, "match": [NAME]}


@pytest.mark.parametrize("way", ["path", "stream"])
def test_nobody_there(gate: Door, tmp_path: Path, way: str) -> None:
    gate.close()
    tree = write_tree(tmp_path / "t", FILES)
    # Some versions connect to the daemon at their start, and others for the first file.
    assert asked(gate, way, tree, "clean") in ("an exception", {"clean": "an exception"})
