"""docs/fleet.md: commands run as written, tables agree with the program, the playbook works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fixtures.fleet import NOW, Box
from hashclient.config.settings import parse_config
from hashclient.core.errors import UsageError
from hashclient.fleet.document import Verified, verify_status
from hashclient.fleet.known import load_roster, pins_of
from hashclient.fleet.show import FINDINGS, Row
from hashclient.fleet.writing import metrics
from tests.cli.test_wheel import build
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows
from tests.docs.commands import check_invocation, invocations
from tests.kit import UNMEASURED, Site, call, csv_of, environment, make_state

pytestmark = pytest.mark.docs

PAGE = DOCS / "fleet.md"
CONFIG = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
PLAYBOOK = DOCS / "ansible" / "hashclient.yml"


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    make_state(tmp_path, {"baseline": csv_of({"e-1": b"listed"})})
    (tmp_path / "state" / "config.toml").write_text(CONFIG)
    (tmp_path / "fleet").mkdir()
    blocks = [*(marked_blocks(PAGE, f"fleet-{name}")[0] for name in ("machine", "collector"))]
    page, against, year = (
        marked_blocks(PAGE, f"fleet-{name}")[0] for name in ("page", "against", "summary")
    )
    script = f"""
set -e
export HASHCLIENT_STATE_DIR=$PWD/state
{blocks[0]}
key=$(hashclient audit verify --format json | sed 's/.*"public_key": "\\([0-9a-f]*\\)".*/\\1/')
echo '[machines]' >roster.toml
{blocks[1]}
{page}
{against}
{year}
"""
    code, output = run_script(script, tmp_path)
    assert code == 0, output
    assert "1 machine: 1 well" in output
    assert "1 of 1 machine well" in (tmp_path / "fleet.html").read_text()
    assert "hashclient-fleet-summary/1" in (tmp_path / "2026.html").read_text()
    assert 'state="well"} 1.0' in (tmp_path / "fleet.prom").read_text()


def test_the_findings_are_those_of_the_program() -> None:
    rows = table_rows(PAGE, "## What is shown")
    documented = {row[0].strip("`"): row[2] for row in rows}
    expected = {word: str(int(code)) for word, code in FINDINGS.items()}
    varied = {"failed": "the exit code of the error", "unwell": "the exit code of `status`"}
    assert documented == expected | varied


def test_the_metrics_are_those_that_are_written() -> None:
    document = _verified().document
    text = metrics([Row("web-1", "", "", (), document)])
    written = set(re.findall(r"^# HELP (\w+) ", text, re.MULTILINE))
    rows = table_rows(PAGE, "## What to alert on")
    assert {row[0].strip("`") for row in rows} == written
    (alerts,) = marked_blocks(PAGE, "fleet-alerts")
    rules = YAML(typ="safe").load(alerts)["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"hashclient_\w+", rule["expr"])}
    assert used <= written
    words = {
        w
        for rule in rules
        for found in re.findall(r'=~"([a-z|-]+)"', rule["expr"])
        for w in found.split("|")
    }
    assert words | {"match"} == set(FINDINGS)


def _verified() -> Verified:
    return verify_status(Box(1).file(made=NOW)[1])


def test_the_examples_of_configuration_and_roster_are_read(tmp_path: Path) -> None:
    (config,) = marked_blocks(PAGE, "fleet-config")
    assert parse_config(config, "config.toml").fleet.publish == "/mnt/fleet"
    (text,) = marked_blocks(PAGE, "fleet-roster")
    (tmp_path / "roster.toml").write_text(text)
    assert set(pins_of(load_roster(tmp_path / "roster.toml")).values()) == {
        "web-1",
        "web-2.example.org",
    }


def tasks() -> list[dict[str, Any]]:
    (play,) = YAML(typ="safe").load(PLAYBOOK)
    assert {"name", "hosts", "become", "gather_facts", "vars", "tasks"} == set(play)
    found: list[dict[str, Any]] = play["tasks"]
    return found


def test_the_playbook_has_commands_that_are_there_and_one_module_a_task() -> None:
    commands = []
    for task in tasks():
        (module,) = [key for key in task if key.startswith("ansible.builtin.")]
        assert task["name"][0].isupper()
        words = task[module]
        for text in (words.get("cmd"), words.get("job")):
            if text is not None:
                assert text.startswith("{{ hashclient }} ")
                plain = re.sub(r"\{\{.*?\}\}", "x", text.replace("{{ hashclient }}", "hashclient"))
                commands += [check_invocation(rest) for rest in invocations(plain)]
    assert commands == ["init", "fetch", "scan", "fetch", "audit verify"]


#: A `crontab` program for a cron that keeps its table in one file.
CRONTAB = """#!/bin/sh
if [ "$1" = -l ]; then exec cat "$CRONTAB"; else exec cp "$1" "$CRONTAB"; fi
"""


@pytest.mark.slow
def test_the_playbook_sets_up_this_machine_from_a_folder_and_changes_nothing_again(
    tmp_path: Path,
) -> None:
    """The server has a virtual environment but no index, so the folder has all needed packages."""
    there, state, place = (tmp_path / name for name in ("machine", "state", "fleet"))
    (play := tmp_path / "play").mkdir()
    (tree := tmp_path / "tree").mkdir()
    (tree / "a").write_bytes(b"listed")
    place.mkdir()
    (play / "tokens").mkdir()
    shutil.copy(PLAYBOOK, play)
    build(play / "wheels")
    (here := tmp_path / "packages").mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.suffix != ".pth" and not path.name.startswith(("hashclient", "pip")):
            (here / path.name).symlink_to(path)
    (programs := tmp_path / "programs").mkdir()
    (programs / "crontab").write_text(CRONTAB)
    (programs / "crontab").chmod(0o755)
    environ = environment(
        **UNMEASURED,
        ANSIBLE_PIPELINING="1",
        ANSIBLE_HOME=str(tmp_path / "ansible"),
        CRONTAB=str(tmp_path / "crontab"),
        LC_ALL="C.UTF-8",
        PATH=os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        PYTHONPATH=str(here),
    )

    def run_there(*words: str | Path) -> subprocess.CompletedProcess[str]:
        # Ansible forks beside its threads and may hang; the test then fails.
        return subprocess.run(
            words,
            cwd=play,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    with Site(tmp_path) as site:
        site.publish(csv_of({"e-1": b"listed"}))
        shutil.copy(site.repository.root_file, play / "root.json")
        shutil.copy(site.endpoint.token_file, play / "tokens" / "web-1")
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "index": "--no-index",
            "prefix": str(there),
            "configuration": str(state),
            "hashclient": f"{there}/bin/hashclient --state-dir {state}",
            "lists_url": site.endpoint.url,
            "init_options": f"--ca {site.endpoint.ca}",
            "publish_to": str(place),
            "scan": f"--format jsonl --output {tmp_path}/scan.jsonl {tree}",
        }
        (play / "inventory").write_text("[hashclient]\nweb-1\n")
        (play / "settings.json").write_text(json.dumps(variables))
        words = ("ansible-playbook", "-i", "inventory", "-e", "@settings.json", "hashclient.yml")
        for changed in (True, False):
            done = run_there(*words)
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("changed=0" not in done.stdout) is changed, done.stdout
        assert str(there) in run_there(there / "bin" / "python", "-c", WHERE).stdout
        table = (tmp_path / "crontab").read_text()
        jobs = re.findall(r"^\d+ (?:\*|2) \* \* \* (.*)$", table, re.MULTILINE)
        assert [run_there("sh", "-c", job).returncode for job in jobs] == [0, 10]
    look = ("--state-dir", tmp_path / "collector", "fleet", "show", place, "--format", "jsonl")
    shown = call(*look, "--roster", play / "roster.toml")
    (row,) = shown.lines
    assert (shown.code, row["machine"], row["state"]) == (10, "web-1", "match")


WHERE = "import hashclient; print(hashclient.__file__)"


def test_the_playbook_writes_configuration_and_roster_that_are_read(tmp_path: Path) -> None:
    by_name = {task["name"]: task for task in tasks()}
    block = by_name["Say where the status goes"]["ansible.builtin.blockinfile"]["block"]
    config = parse_config(block.replace("{{ publish_to }}", "s3://bucket/x"), "config.toml")
    assert (config.fleet.publish, config.fleet.every_hours) == ("s3://bucket/x", 26)
    line = by_name["Note the key in the roster"]["ansible.builtin.lineinfile"]["line"]
    line = line.replace("{{ inventory_hostname }}", "web-1")
    line = re.sub(r"\{\{ \(log.*?\}\}", "0" * 64, line)
    roster = by_name["Begin the roster"]["ansible.builtin.lineinfile"]["line"] + "\n" + line
    (tmp_path / "roster.toml").write_text(roster)
    assert load_roster(tmp_path / "roster.toml") == {"web-1": "0" * 64}
    # If a machine has another key than before, the next run does not pin the new key.
    assert "regexp" not in by_name["Note the key in the roster"]["ansible.builtin.lineinfile"]
    (tmp_path / "roster.toml").write_text(f"{roster}\n{line.replace('0' * 64, '1' * 64)}\n")
    with pytest.raises(UsageError, match="not a roster"):
        load_roster(tmp_path / "roster.toml")
