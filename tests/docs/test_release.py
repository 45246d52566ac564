"""Workflows are valid, pin versions and run what people run; each kept format has a page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hashclient.migrations import version
from tests.docs.blocks import ROOT
from tests.kit import UNMEASURED, environment

pytestmark = pytest.mark.docs

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in load(path)["jobs"].values():
        yield from job["steps"]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "release"]


@each_workflow
def test_it_is_valid(path: Path) -> None:
    schema = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run(
        [sys.executable, "-m", *schema, path],
        env=environment(**UNMEASURED),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@each_workflow
def test_every_action_is_pinned_to_a_commit(path: Path) -> None:
    lines = re.findall(r"uses: (.*)", path.read_text())
    assert lines
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@each_workflow
def test_it_may_write_nothing_unless_a_job_says_so(path: Path) -> None:
    assert load(path)["permissions"] == {"contents": "read"}


@each_workflow
def test_it_runs_targets_that_there_are(path: Path) -> None:
    words = [
        word for step in steps(path) for word in re.findall(r"make (\w+)", step.get("run", ""))
    ]
    assert set(words) >= {"check", "test", "dist"}
    assert set(words) <= targets()


def test_every_supported_python_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    supported = [c.rpartition(" ")[2] for c in project["classifiers"] if c.startswith(prefix)]
    ci = load(ROOT / ".github/workflows/ci.yml")
    assert ci["jobs"]["test"]["strategy"]["matrix"]["python-version"] == supported


def test_commands_of_the_release_document_are_targets() -> None:
    text = (ROOT / "RELEASE.md").read_text()
    assert set(re.findall(r"`make (\w+)", text)) <= targets()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_recipient_checks_a_release_by_the_commands_of_the_document(tmp_path: Path) -> None:
    def shell(script: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-euc", script]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    recipe = (ROOT / "Makefile").read_text().partition("\nrelease: ")[2].partition("\n\n")[0]
    sums, sign = (line.strip().replace("$$", "$") for line in recipe.splitlines()[-2:])
    made = shell(
        "ssh-keygen -q -t ed25519 -N '' -C nobody -f key;"
        " echo release $(cut -d' ' -f1,2 key.pub) > signers;"
        f" mkdir dist; cd dist; echo a file > wheel; key=../key; {sums}; {sign}; mv SHA* wheel .."
    )
    assert made.returncode == 0, made.stderr
    text = (ROOT / "RELEASE.md").read_text()
    verify, check = re.findall(r"^    ((?:ssh-keygen|sha256sum) .*)$", text, re.MULTILINE)
    assert shell(verify).returncode == 0
    assert shell(check).stdout == "wheel: OK\n"
    (tmp_path / "wheel").write_text("another file\n")
    assert shell(check).returncode != 0
    with (tmp_path / "SHA256SUMS").open("a") as stream:
        stream.write("\n")
    assert shell(verify).returncode != 0


def test_each_format_has_a_page_that_says_how_it_is_kept() -> None:
    pages = [ROOT / "docs/compatibility.md", ROOT / "docs/operations/upgrading.md"]
    named = set(re.findall(r"hashclient-[a-z-]+/\d", "".join(map(Path.read_text, pages))))
    code = "".join(path.read_text() for path in (ROOT / "hashclient").rglob("*.py"))
    newest: dict[str, str] = {}
    for name, number in sorted(re.findall(r"\"(hashclient-[a-z-]+)/(\d)\"", code)):
        newest[name] = f"{name}/{number}"
    assert named == {*newest.values(), f"{version.FORMAT}/{version.CURRENT}"}


def test_hooks_before_a_commit_run_what_make_check_runs() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck: ")[2].partition("\n\n")[0]
    for hook in load(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]:
        command = hook["entry"].replace(".venv/bin/", "$(BIN)/")
        program, _, module = command.partition(" tests/")
        if module:  # `make check` runs all tests that have the mark `docs`
            assert program in recipe
            assert "\npytestmark = pytest.mark.docs\n" in (ROOT / "tests" / module).read_text()
        else:
            assert command in recipe, command
