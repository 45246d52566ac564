"""The provider's ceremonies: they run as written, and a client follows each step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, free_port, marked_blocks, run_script
from tests.docs.test_quickstart import EXPECTED_EXIT, checked

pytestmark = pytest.mark.docs

PROVIDER = DOCS / "provider.md"
SERVE = """
hashclient provider serve repo --bind 127.0.0.1:PORT > served &
for _ in $(seq 300); do [ -s served ] && break; sleep 0.05; done
hashclient --state-dir client init https://127.0.0.1:PORT/ --root root.json \\
    --ca repo/keys/serve/ca.pem --token-file repo/keys/serve/token
"""
FETCH = "hashclient --state-dir client fetch\n"


def run(steps: list[str], directory: Path) -> str:
    """Run steps that all have to succeed, and return their output."""
    for number, name in enumerate(("entries.csv", "more.txt", "another.txt")):
        (directory / name).write_text(f"{number:032x}  file {number}\n")
    script = EXPECTED_EXIT.sub(checked, "".join(steps)).replace("PORT", str(free_port()))
    code, output = run_script(f"set -e\n{script}", directory)
    assert code == 0, output
    return output


@pytest.mark.slow
def test_the_ceremony_of_the_root_keys(tmp_path: Path) -> None:
    make, publish, rotate, swap, renew = marked_blocks(PROVIDER, "ceremony")
    output = run(
        [
            *(make, "cp repo/root.json .\n", publish, SERVE, FETCH),
            *(rotate, swap, FETCH, renew, FETCH),
            "hashclient provider status repo\n",
        ],
        tmp_path,
    )
    assert "role root needs 2 signing keys, 0 here" in output
    generations = re.findall(r"list baseline: .*generation (\d)[,;]", output)
    assert generations == ["2", "3", "3"]
    assert re.search(r"^root +3 +2 of 3 ", output, re.MULTILINE)
    here = {path.name.split("-")[0] for path in (tmp_path / "repo/keys").glob("*.pem")}
    assert here == {"baseline", "snapshot", "timestamp"}
    held = [path.name for who in ("alice", "bob", "carol") for path in (tmp_path / who).iterdir()]
    assert len(set(held)) == 3


@pytest.mark.slow
def test_new_keys_for_a_list_that_was_pushed_ahead(tmp_path: Path) -> None:
    make = "hashclient provider init repo\ncp repo/root.json .\n"
    publish = "hashclient provider publish repo --list baseline entries.csv\n"
    output = run(
        [make, publish, SERVE, FETCH, *marked_blocks(PROVIDER, "pushed-ahead"), FETCH], tmp_path
    )
    assert "nothing new, generation 1" in output
