"""The examples for CI: valid for the hosts' own schemas, and run against a provider on loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyrage import x25519
from ruamel.yaml import YAML

from hashclient.audit.log import read
from hashclient.core.kinds import MatchState
from hashclient.errors import ExitCode
from hashclient.matches.store import Matches
from tests.docs.blocks import DOCS, ROOT, marked_blocks, table_rows
from tests.docs.commands import check_invocation, invocations
from tests.kit import UNMEASURED, Site, csv_of, environment, write_tree

pytestmark = pytest.mark.docs

CI = DOCS / "ci.md"
GITHUB = DOCS / "ci" / "github-actions.yml"
GITLAB = DOCS / "ci" / "gitlab-ci.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"

LISTED = b"A dummy file that is on the list.\n"
SEAL_KEY = "5a" * 32


def load(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


@pytest.mark.parametrize(
    ("schema", "path"), [("vendor.github-workflows", GITHUB), ("vendor.gitlab-ci", GITLAB)]
)
def test_it_is_valid(schema: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path],
        env=environment(**UNMEASURED),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_their_commands_have_such_options() -> None:
    scripts = [step.get("run", "") for step in load(GITHUB)["jobs"]["scan"]["steps"]]
    for script in ("\n".join(scripts), "\n".join(load(GITLAB)["hashclient"]["script"])):
        commands = [check_invocation(line) for line in invocations(script)]
        assert commands == ["init", "fetch", "scan"]


def test_the_document_names_what_the_examples_use() -> None:
    text = CI.read_text()
    used = set(re.findall(r"\b(?:vars|secrets)\.(\w+)", GITHUB.read_text()))
    used |= set(re.findall(r"\$(HASHCLIENT_\w+)", GITLAB.read_text()))
    assert {name for name in used if f"`{name}`" not in text} == set()
    (block,) = marked_blocks(CI, "others")
    assert [check_invocation(line) for line in invocations(block)] == ["init", "fetch", "scan"]
    (block,) = marked_blocks(CI, "pre-commit")
    (repo,) = YAML(typ="safe", pure=True).load(block)["repos"]
    assert [hook["id"] for hook in repo["hooks"]] == [hook["id"] for hook in load(HOOKS)]
    codes = [row[0] for row in table_rows(CI, "## Others")]
    named = {int(code) for row in codes if row != "others" for code in row.split(", ")}
    assert named <= set(ExitCode)


def test_actions_are_pinned_to_a_commit() -> None:
    for step in load(GITHUB)["jobs"]["scan"]["steps"]:
        if "uses" in step:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"])
    assert len(re.findall(r"@[0-9a-f]{40} # v\d", GITHUB.read_text())) == 4


def test_no_step_has_an_expression_in_its_script() -> None:
    """Names that others choose (branches, files) would be run; a variable is only text."""
    for step in load(GITHUB)["jobs"]["scan"]["steps"]:
        assert "${{" not in step.get("run", "")


def assignments(path: Path) -> dict[str, str]:
    """Return what a step has written into one of the host's files."""
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in pairs}


@dataclass
class Runner:
    """A machine of a CI host: a checkout of a project, and what the host puts around a script."""

    directory: Path
    site: Site
    token: str
    files: dict[str, bytes]
    outputs: dict[str, str] = field(default_factory=dict)
    #: Of each step that ran: its name, its exit code and what it printed.
    ran: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.project = write_tree(self.directory / "project", self.files)
        self.temp = self.directory / "temp"
        tools = self.directory / "tools"
        for directory in (self.project / ".hashclient", self.temp, tools):
            directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.site.repository.root_file, self.project / ".hashclient" / "root.json")
        (self.project / ".hashclient" / "requirements.txt").write_text("hashclient\n")
        # No package is installed: this `python` makes environments with this checkout in them.
        start = shlex.join([sys.executable, "-P", "-m", "hashclient"])
        shim = tools / "python"
        shim.write_text(
            '#!/bin/sh\nset -eu\n[ "$1 $2" = "-m venv" ]\nmkdir -p "$3/bin"\n'
            'printf \'#!/bin/sh\\n[ "$1" = install ]\\n\' > "$3/bin/pip"\n'
            f'printf \'#!/bin/sh\\nexec {start} "$@"\\n\' > "$3/bin/hashclient"\n'
            'chmod +x "$3/bin/pip" "$3/bin/hashclient"\n'
        )
        shim.chmod(0o755)
        self.environ = {
            **environment(
                # The provider on loopback has an authority of its own.
                HASHCLIENT_INIT_CA=str(self.site.endpoint.ca),
                HOME=str(self.directory),
                RUNNER_TEMP=str(self.temp),
            ),
            "PATH": f"{tools}:{os.environ['PATH']}",
        }

    def shell(self, script: str, *options: str, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", *options, "-c", script],
            cwd=self.project,
            env={**self.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def value(self, text: str) -> str:
        """Replace the expressions of a workflow as GitHub does."""
        known = {
            "vars.HASHCLIENT_PROVIDER_URL": self.site.endpoint.url,
            "secrets.HASHCLIENT_TOKEN": self.token,
            "secrets.HASHCLIENT_SEAL_KEY": SEAL_KEY,
            "runner.temp": str(self.temp),
            "steps.scan.outputs.exit-code": self.outputs.get("exit-code", ""),
            "steps.scan.outputs.sarif": self.outputs.get("sarif", ""),
            "github.run_id": "1",
        }
        return re.sub(r"\$\{\{ *([a-zA-Z_.-]+) *\}\}", lambda m: known[m[1]], text)

    def github(self) -> int:
        """Run the steps of the workflow until one fails; return the last one's exit code."""
        code = 0
        for step in load(GITHUB)["jobs"]["scan"]["steps"]:
            if condition := step.get("if"):
                output, _, expected = condition.partition(" == ")
                if self.value(f"${{{{ {output} }}}}") != expected.strip("'"):
                    continue
            if "run" not in step:
                self.ran.append((step["uses"].split("@")[0], 0, self.value(str(step["with"]))))
                continue
            paths = {f"GITHUB_{n}": self.directory / n for n in ("ENV", "PATH", "OUTPUT")}
            for path in paths.values():
                path.write_text("")
            env = {name: self.value(value) for name, value in step.get("env", {}).items()}
            code, said = self.shell(
                step["run"], "-e", **env, **{n: str(p) for n, p in paths.items()}
            )
            self.ran.append((step["name"], code, said))
            if code:
                break
            self.environ |= assignments(paths["GITHUB_ENV"])
            for line in paths["GITHUB_PATH"].read_text().splitlines():
                self.environ["PATH"] = f"{line}:{self.environ['PATH']}"
            self.outputs |= assignments(paths["GITHUB_OUTPUT"])
        return code

    def gitlab(self) -> tuple[int, str]:
        for path in (self.project, *self.project.rglob("*")):  # as GitLab's helper makes a checkout
            path.chmod(path.stat().st_mode | 0o222)
        job = load(GITLAB)["hashclient"]
        variables = {k: v.replace("/tmp/", f"{self.temp}/") for k, v in job["variables"].items()}
        script = "\n".join(job["script"]).replace("/tmp/", f"{self.temp}/")
        variables |= {
            "HASHCLIENT_PROVIDER_URL": self.site.endpoint.url,
            "HASHCLIENT_TOKEN": self.token,
        }
        return self.shell(script, "-eo", "pipefail", **variables)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"e-1": LISTED}))
        yield site


CLEAN = {"src/main.py": b"print()\n", "--output=x/y": b"A name that looks like an option.\n"}
CASES = pytest.mark.parametrize(
    ("more", "code"), [({}, 0), ({"images/a.dat": LISTED}, 10)], ids=["clean", "match"]
)


@pytest.mark.slow
@CASES
def test_the_workflow(site: Site, tmp_path: Path, more: dict[str, bytes], code: int) -> None:
    runner = Runner(tmp_path, site, site.token, CLEAN | more)
    assert runner.github() == code, runner.ran
    steps = [name for name, _, _ in runner.ran]
    assert steps[-3:] == ["Scan", "github/codeql-action/upload-sarif", "Verdict"]
    path = runner.temp / "hashclient.sarif"
    assert str(path) in runner.ran[-2][2]
    (run,) = json.loads(path.read_text())["runs"]
    found = [r["locations"][0]["physicalLocation"]["artifactLocation"] for r in run["results"]]
    assert [location["uri"] for location in found] == sorted(more)
    annotation = {0: "Every file was read", 10: "::error::A file is on a list"}
    assert runner.ran[-1][2].startswith(annotation[code])
    # Neither a secret nor the name of a file is in the log of the job.
    said = "".join(text for _, _, text in runner.ran if not text.startswith("{"))
    assert site.token not in said and SEAL_KEY not in said and "images" not in said


@pytest.mark.slow
def test_the_workflow_uses_the_lists_of_an_earlier_run(site: Site, tmp_path: Path) -> None:
    first = Runner(tmp_path / "first", site, site.token, CLEAN)
    assert first.github() == 0
    second = Runner(tmp_path / "second", site, site.token, CLEAN)
    lists = first.temp / "hashclient" / "lists"
    assert str(lists) in str(next(text for n, _, text in first.ran if n == "actions/cache"))
    shutil.copytree(lists, second.temp / "hashclient" / "lists")
    site.requests.clear()
    assert second.github() == 0
    assert not [line for line in site.requests if ".parquet" in line], site.requests


@pytest.mark.slow
@pytest.mark.parametrize(("token", "code"), [("wrong", 5), ("", 2)])
def test_the_workflow_without_a_credential(
    site: Site, tmp_path: Path, token: str, code: int
) -> None:
    runner = Runner(tmp_path, site, token, CLEAN)
    assert runner.github() == code
    name, _, said = runner.ran[-1]
    assert name == "Pin the provider and fetch its lists"
    assert "hashclient: error: " in said


@pytest.mark.slow
def test_the_workflow_without_a_report(site: Site, tmp_path: Path) -> None:
    """A scan that cannot even begin uploads nothing, and its exit code is the job's.

    Its report says that it failed; uploaded, it would close all alerts.
    """
    runner = Runner(tmp_path, site, site.token, CLEAN)
    runner.environ["HASHCLIENT_SCAN_JOBS"] = "none"
    assert runner.github() == 2
    assert [name for name, _, _ in runner.ran][-2:] == ["Scan", "Verdict"]
    assert runner.ran[-1][2] == "::error::No verdict: hashclient ended with exit code 2.\n"
    report = json.loads((runner.temp / "hashclient.sarif").read_text())
    assert report["runs"][0]["invocations"][0]["executionSuccessful"] is False


@pytest.mark.slow
@CASES
def test_the_gitlab_job(site: Site, tmp_path: Path, more: dict[str, bytes], code: int) -> None:
    runner = Runner(tmp_path, site, site.token, CLEAN | more)
    found, said = runner.gitlab()
    assert found == code, said
    (name,) = load(GITLAB)["hashclient"]["artifacts"]["paths"]
    lines = [json.loads(line) for line in (runner.project / name).read_text().splitlines()]
    assert lines[-1]["exit_code"] == code
    assert [line["path"] for line in lines[:-1] if line["type"] == "match"] == [
        f"./{path}" for path in more
    ]


@pytest.mark.slow
@CASES
def test_the_pre_commit_hook(site: Site, tmp_path: Path, more: dict[str, bytes], code: int) -> None:
    """Called as pre-commit calls it: the entry, its arguments, then names of files."""
    (hook,) = load(HOOKS)
    assert hook["language"] == "python" and hook["types"] == ["file"]
    state = tmp_path / "state"
    assert site.run(*site.init_arguments(), state=state).code == 0
    assert site.run("fetch", state=state).code == 0
    runner = Runner(tmp_path, site, site.token, CLEAN | more)
    runner.shell("python -m venv ../venv")
    words = [*shlex.split(hook["entry"]), *hook["args"], *CLEAN, *more]
    script = f"PATH=../venv/bin:$PATH; {shlex.join(words)}"
    found, said = runner.shell(script, HASHCLIENT_STATE_DIR=str(state))
    assert found == code, said
    assert f"{len(CLEAN) + len(more)} inputs: " in said
    for path in more:
        assert re.search(rf"^match +{path} ", said, re.MULTILINE)


POLICY = """
[quarantine]
recipients = ["{recipient}"]

[report.to.police]
kind = "package"
directory = "{directory}"

[[policy]]
actions = ["quarantine", "report"]

[scan]
quarantine = true
policy_check = false
no_actions = false
"""


@dataclass
class Machine:
    """The machine of a committer or a runner: with a policy that quarantines and reports."""

    state: Path
    runner: Runner

    def untouched(self) -> bool:
        """Return whether the match is recorded, and nothing else was done or is wanted."""
        with Matches(self.state) as record:
            found = [(match.state, match.in_place) for match in record.find()]
            wanted = record.wanting_report()
        events = {r.event for r in read(self.state / "audit")}
        assert found == [(MatchState.FOUND, True)] and not wanted
        assert not [e for e in events if e.startswith(("quarantine", "report"))]
        assert not (self.state / "quarantine").exists() and not (self.state / "reports").exists()
        return (self.runner.project / "images/a.dat").read_bytes() == LISTED


@pytest.fixture
def machine(site: Site, tmp_path: Path) -> Machine:
    state = tmp_path / "state"
    assert site.run(*site.init_arguments(), state=state).code == 0
    assert site.run("fetch", state=state).code == 0
    (tmp_path / "handover").mkdir()
    recipient = x25519.Identity.generate().to_public()
    with (state / "config.toml").open("a") as config:
        config.write(POLICY.format(recipient=recipient, directory=tmp_path / "handover"))
    runner = Runner(tmp_path, site, site.token, CLEAN | {"images/a.dat": LISTED})
    runner.shell("python -m venv ../venv")
    return Machine(state, runner)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--quarantine"]], ids=str)
def test_the_pre_commit_hook_takes_nothing_away_and_reports_nothing(
    machine: Machine, options: list[str]
) -> None:
    """The configuration, the environment and the `args` of a project do not change that."""
    (hook,) = load(HOOKS)
    words = [*shlex.split(hook["entry"]), *options, "--", *CLEAN, "images/a.dat"]
    script = f"PATH=../venv/bin:$PATH; {shlex.join(words)}"
    found, said = machine.runner.shell(
        script, HASHCLIENT_STATE_DIR=str(machine.state), HASHCLIENT_SCAN_QUARANTINE="1"
    )
    assert found == 10, said
    assert machine.untouched()
    # The next scan that is no hook finds it, and does what the policy says.
    again = [word for word in words if word != "--no-actions"]
    script = f"PATH=../venv/bin:$PATH; {shlex.join(again)}"
    found, said = machine.runner.shell(script, HASHCLIENT_STATE_DIR=str(machine.state))
    assert found == 10 and "-> quarantined" in said, said
    assert not (machine.runner.project / "images/a.dat").exists()


@pytest.mark.slow
def test_the_scans_of_the_examples_take_nothing_away(machine: Machine) -> None:
    """Where a runner is kept from job to job, its configuration may say otherwise."""
    scans = [step["run"] for step in load(GITHUB)["jobs"]["scan"]["steps"] if "id" in step]
    scans.append(load(GITLAB)["hashclient"]["script"][-1])
    scans += marked_blocks(CI, "others")
    for number, script in enumerate(scans):
        (line,) = [i for i in invocations(script) if " scan " in f" {i} "]
        environ = {
            "HASHCLIENT_STATE_DIR": str(machine.state),
            "RUNNER_TEMP": str(machine.runner.temp),
        }
        found, said = machine.runner.shell(f"../venv/bin/hashclient {line}", **environ)
        assert found == 10, (number, said)
        assert machine.untouched()


def with_the_command(script: str) -> str:
    return f"python -m venv ../venv; PATH=../venv/bin:$PATH\n{script}"


@pytest.mark.slow
def test_other_hosts(site: Site, tmp_path: Path) -> None:
    (script,) = marked_blocks(CI, "others")
    runner = Runner(tmp_path, site, site.token, CLEAN | {"images/a.dat": LISTED})
    variables = {
        "HASHCLIENT_STATE_DIR": str(tmp_path / "state"),
        "HASHCLIENT_TOKEN": site.token,
        "PROVIDER_URL": site.endpoint.url,
    }
    code, said = runner.shell(with_the_command(script), **variables)
    assert code == 10, said


@pytest.mark.slow
def test_a_job_goes_on_after_an_outage_and_not_without_a_list(tmp_path: Path) -> None:
    (script,) = marked_blocks(CI, "kept")
    (hook,) = load(HOOKS)
    with Site(tmp_path / "mirror") as mirror:
        for name in ("baseline", "other"):
            mirror.publish(csv_of({"e-1": LISTED}), name)
        public = mirror.repository.public
        kept_back = public / "targets" / "lists" / "other"
        kept_back.rename(tmp_path / "other")
        assert mirror.call(*mirror.init_arguments()).code == 0
        runner = Runner(tmp_path, mirror, mirror.token, CLEAN)
        variables = {"HASHCLIENT_STATE_DIR": str(mirror.state)}
        code, said = runner.shell(with_the_command(script), **variables)
        assert code == 8, said
        assert "list other is not here" in said
        words = [*shlex.split(hook["entry"]), *hook["args"], *CLEAN]
        code, said = runner.shell(with_the_command(shlex.join(words)), **variables)
        assert code == 8, said
        # An outage alone is no reason to stop, when all lists are here.
        (tmp_path / "other").rename(kept_back)
        assert mirror.call("fetch").code == 0
        (public / "metadata" / "timestamp.json").unlink()
        code, said = runner.shell(with_the_command(script), **variables)
        assert code == 0, said
        assert "timestamp.json" in said


@pytest.mark.slow
def test_a_change_is_checked_without_the_files_that_it_deletes(site: Site, tmp_path: Path) -> None:
    (script,) = marked_blocks(CI, "changed")
    runner = Runner(tmp_path, site, site.token, CLEAN | {"old.dat": LISTED, "kept.dat": LISTED})
    state = tmp_path / "state"
    assert site.call(*site.init_arguments(), state=state).code == 0
    assert site.call("fetch", state=state).code == 0
    git = "git -c user.name=x -c user.email=x@example.org"
    begin = f"git init -q; git add -A; {git} commit -qm one; git branch base"
    steps = (
        ("git rm -q old.dat", 0),
        ("echo new > new.txt; git add new.txt", 0),
        ("cp kept.dat bad.dat; git add bad.dat", 10),
    )
    assert runner.shell(begin)[0] == 0
    for number, (change, expected) in enumerate(steps):
        assert runner.shell(f"{change}; {git} commit -qm {number}")[0] == 0
        code, said = runner.shell(
            with_the_command(f"set -o pipefail\n{script}"),
            HASHCLIENT_STATE_DIR=str(state),
            BASE="HEAD~1",
        )
        assert code == expected, said
