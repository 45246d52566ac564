"""The CI examples are valid for the hosts' own schemas, and run against a provider on loopback."""

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
from urllib.parse import unquote

import pytest
from pyrage import x25519
from ruamel.yaml import YAML

from fixtures.archives import zip_of
from hashclient.audit.log import read
from hashclient.core.errors import ExitCode
from hashclient.core.kinds import MatchState
from hashclient.matches.store import Matches
from tests.docs.blocks import DOCS, ROOT, marked_blocks, table_rows
from tests.docs.commands import check_invocation, invocations
from tests.kit import UNMEASURED, Site, csv_of, environment, write_tree

pytestmark = pytest.mark.docs

CI = DOCS / "ci.md"
GITHUB = DOCS / "ci" / "github-actions.yml"
ACTION = DOCS / "ci" / "github" / "action.yml"
COMPONENT = DOCS / "ci" / "gitlab" / "templates" / "hashclient.yml"
HOOKS = ROOT / ".pre-commit-hooks.yaml"

LISTED = b"A dummy file that is on the list.\n"
SEAL_KEY = "5a" * 32


def load(path: Path) -> Any:
    return _load(path.read_text())


def _load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def action_steps() -> list[dict[str, Any]]:
    return load(ACTION)["runs"]["steps"]  # type: ignore[no-any-return]


def component() -> tuple[str, str, dict[str, str]]:
    """Return the component's header, its job with the inputs of the document, and the inputs."""
    header, job = COMPONENT.read_text().split("\n---\n")
    (block,) = marked_blocks(CI, "gitlab")
    (included,) = _load(block)["include"]
    name, _, version = included["component"].rpartition("/")[2].partition("@")
    assert (name, len(version)) == (COMPONENT.stem, 40)
    inputs = {name: one.get("default") for name, one in _load(header)["spec"]["inputs"].items()}
    assert included["inputs"].keys() <= inputs.keys()
    inputs |= included["inputs"]
    return header, re.sub(r"\$\[\[ inputs\.([a-z-]+) \]\]", lambda m: inputs[m[1]], job), inputs


def component_job() -> dict[str, Any]:
    return _load(component()[1])["hashclient"]  # type: ignore[no-any-return]


def scripts() -> Iterator[str]:
    """Yield the scripts that the action and the component run."""
    yield "\n".join(step.get("run", "") for step in action_steps())
    yield "\n".join(component_job()["script"])


def valid(schema: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path],
        env=environment(**UNMEASURED),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_are_valid(tmp_path: Path) -> None:
    """GitLab reads the header, inserts the inputs, and then reads the job."""
    valid("vendor.github-workflows", GITHUB)
    valid("vendor.github-actions", ACTION)
    (included,) = marked_blocks(CI, "gitlab")
    for number, text in enumerate((*component()[:2], included)):
        path = tmp_path / f"{number}.yml"
        path.write_text(text)
        valid("vendor.gitlab-ci", path)


def test_their_commands_have_such_options() -> None:
    for script in scripts():
        commands = [check_invocation(line) for line in invocations(script)]
        assert commands == ["init", "fetch", "scan"]


def test_each_input_is_used_and_the_workflow_gives_what_has_no_default() -> None:
    inputs = load(ACTION)["inputs"]
    assert set(re.findall(r"inputs\.([a-z-]+)", ACTION.read_text())) == set(inputs)
    given = load(GITHUB)["jobs"]["scan"]["steps"][-1]["with"]
    assert (
        {name for name, one in inputs.items() if one.get("required")} <= set(given) <= set(inputs)
    )
    _, _, values = component()
    assert set(re.findall(r"inputs\.([a-z-]+)", COMPONENT.read_text())) == set(values)
    assert None not in values.values()


def test_the_document_names_what_the_examples_use() -> None:
    text = CI.read_text()
    used = set(re.findall(r"\b(?:vars|secrets)\.(\w+)", GITHUB.read_text()))
    used |= set(re.findall(r"\bHASHCLIENT_(?:TOKEN|SEAL_KEY)\b", COMPONENT.read_text()))
    assert len(used) == 3
    assert {name for name in used if f"`{name}`" not in text} == set()
    (block,) = marked_blocks(CI, "others")
    assert [check_invocation(line) for line in invocations(block)] == ["init", "fetch", "scan"]
    (block,) = marked_blocks(CI, "pre-commit")
    (repo,) = _load(block)["repos"]
    assert [hook["id"] for hook in repo["hooks"]] == [hook["id"] for hook in load(HOOKS)]
    codes = [row[0] for row in table_rows(CI, "## Others")]
    named = {int(code) for row in codes if row != "others" for code in row.split(", ")}
    assert named <= set(ExitCode)


def test_actions_are_pinned_to_a_commit() -> None:
    for step in [*load(GITHUB)["jobs"]["scan"]["steps"], *action_steps()]:
        if "uses" in step:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"])
    text = GITHUB.read_text() + ACTION.read_text()
    assert len(re.findall(r"@[0-9a-f]{40} # v\d", text)) == 4


def test_no_step_has_an_expression_in_its_script() -> None:
    """Names of branches or files in an expression would run as code; a variable is only text."""
    assert not [step for step in action_steps() if "${{" in step.get("run", "")]
    assert "$[[" not in COMPONENT.read_text().partition("  script:")[2]


def test_only_the_steps_that_need_a_secret_have_it() -> None:
    have = {
        step.get("name"): {n for n in ("token", "seal-key") if f"inputs.{n} " in str(step)}
        for step in action_steps()
    }
    assert {name: secrets for name, secrets in have.items() if secrets} == {
        "Inputs": {"token", "seal-key"},
        "Pin the provider and fetch its lists": {"token", "seal-key"},
        "Scan": {"seal-key"},
    }


def assignments(path: Path) -> dict[str, str]:
    """Return the variables that a step has written into one of the host's files."""
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in pairs}


@dataclass
class Runner:
    """A machine of a CI host: a checkout of a project, and the host's environment for a script."""

    directory: Path
    site: Site
    token: str
    files: dict[str, bytes]
    seal_key: str = SEAL_KEY
    #: The commit at which a pull request or merge request starts.
    base: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    #: For each step that ran: its name, its exit code and its output.
    ran: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.project = write_tree(self.directory / "project", self.files)
        self.temp = self.directory / "temp"
        tools = self.directory / "tools"
        for directory in (self.project / ".hashclient", self.temp, tools):
            directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.site.repository.root_file, self.project / ".hashclient" / "root.json")
        (self.project / ".hashclient" / "requirements.txt").write_text("hashclient\n")
        # No package is installed: this `python` makes environments that contain this checkout.
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
                # The provider on loopback has its own certificate authority.
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
            timeout=240,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def commit(self, change: str) -> str:
        """Change the project, and return the commit."""
        git = "git -c user.name=x -c user.email=x@example.org"
        script = f"git init -q . && {{ {change}; }} && git add -A && {git} commit -qm x"
        code, said = self.shell(f"{script} && git rev-parse @")
        assert code == 0, said
        return said.strip()

    def value(self, text: str, inputs: dict[str, str]) -> str:
        """Replace the expressions of a workflow or an action as GitHub does."""
        known = {
            "vars.HASHCLIENT_PROVIDER_URL": self.site.endpoint.url,
            "secrets.HASHCLIENT_TOKEN": self.token,
            "secrets.HASHCLIENT_SEAL_KEY": self.seal_key,
            "runner.temp": str(self.temp),
            "steps.scan.outputs.exit-code": self.outputs.get("exit-code", ""),
            "steps.scan.outputs.sarif": self.outputs.get("sarif", ""),
            "github.run_id": "1",
            "github.event.pull_request.base.sha": self.base,
            **{f"inputs.{name}": value for name, value in inputs.items()},
        }
        return re.sub(r"\$\{\{ *([a-zA-Z_.-]+) *\}\}", lambda m: known[m[1]], text)

    def github(self) -> int:
        """Run the steps of the action until one fails; return the exit code of the last step."""
        *_, used = load(GITHUB)["jobs"]["scan"]["steps"]
        assert used["uses"].partition("@")[0].endswith(f"/{ACTION.parent.relative_to(ROOT)}")
        action, code = load(ACTION), 0
        inputs = {name: one.get("default", "") for name, one in action["inputs"].items()}
        inputs |= {name: self.value(value, {}) for name, value in used["with"].items()}
        for step in action["runs"]["steps"]:
            if condition := step.get("if"):
                output, _, expected = condition.partition(" == ")
                if self.value(f"${{{{ {output} }}}}", inputs) != expected.strip("'"):
                    continue
            if "run" not in step:
                given = self.value(str(step["with"]), inputs)
                self.ran.append((step["uses"].split("@")[0], 0, given))
                continue
            paths = {f"GITHUB_{n}": self.directory / n for n in ("ENV", "PATH", "OUTPUT")}
            for path in paths.values():
                path.write_text("")
            env = {name: self.value(value, inputs) for name, value in step.get("env", {}).items()}
            assert step["shell"] == "bash"
            code, said = self.shell(
                step["run"], "-eo", "pipefail", **env, **{n: str(p) for n, p in paths.items()}
            )
            self.ran.append((step["name"], code, said))
            if code:
                break
            self.environ |= assignments(paths["GITHUB_ENV"])
            for line in paths["GITHUB_PATH"].read_text().splitlines():
                self.environ["PATH"] = f"{line}:{self.environ['PATH']}"
            self.outputs |= assignments(paths["GITHUB_OUTPUT"])
        return code

    def gitlab(self) -> int:
        """Run the job of the component, and return its exit code."""
        # GitLab's helper makes a checkout with these modes.
        for path in (self.project, *self.project.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o222)
        known = {
            "HASHCLIENT_PROVIDER_URL": self.site.endpoint.url,
            "HASHCLIENT_TOKEN": self.token,
            "HASHCLIENT_SEAL_KEY": self.seal_key,
            "CI_PROJECT_DIR": str(self.project),
            "CI_MERGE_REQUEST_DIFF_BASE_SHA": self.base,
        }
        job = component_job()
        for name, value in job["variables"].items():
            known[name] = re.sub(r"\$(\w+)", lambda m: known[m[1]], value)
        # The runner runs all parts as one script in one shell.
        script = "\n".join(job["script"]).replace("/tmp/", f"{self.temp}/")
        code, said = self.shell(script, "-eo", "pipefail", **known)
        self.ran.append(("script", code, said))
        return code

    def leave(self) -> None:
        """Clean up as a host does before the next job."""
        for path in (self.temp, self.project / ".hashclient" / "state"):
            shutil.rmtree(path, ignore_errors=True)
        self.temp.mkdir()

    def results(self, path: Path) -> list[str]:
        """Return the names of files with results in a SARIF file."""
        (run,) = json.loads(path.read_text())["runs"]
        found = [r["locations"][0]["physicalLocation"]["artifactLocation"] for r in run["results"]]
        return sorted(unquote(location["uri"]) for location in found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"e-1": LISTED}))
        yield site


CLEAN = {"src/main.py": b"print()\n", "--output=x/y": b"A name that looks like an option.\n"}
DAMAGED = zip_of({"a": b"benign"})[:-30]
CASES = pytest.mark.parametrize(
    ("more", "code"), [({}, 0), ({"images/a.dat": LISTED}, 10)], ids=["clean", "match"]
)
HOSTS = pytest.mark.parametrize("host", ["github", "gitlab"])


def sarif_of(runner: Runner, host: str) -> Path:
    """Return the path of a job's SARIF file, as the job names it to its host."""
    if host == "github":
        value: str = load(ACTION)["outputs"]["sarif"]["value"]
        return Path(runner.value(value, {}))
    (name,) = component_job()["artifacts"]["paths"]
    return runner.project / str(name)


@pytest.mark.slow
@HOSTS
@pytest.mark.parametrize(
    ("more", "code"),
    [({}, 0), ({"images/a.dat": LISTED}, 10), ({"images/b.zip": DAMAGED}, 3)],
    ids=["clean", "match", "unread"],
)
def test_a_job_ends_with_the_exit_code_of_its_scan(
    site: Site, tmp_path: Path, host: str, more: dict[str, bytes], code: int
) -> None:
    runner = Runner(tmp_path, site, site.token, CLEAN | more)
    assert getattr(runner, host)() == code, runner.ran
    path = sarif_of(runner, host)
    assert runner.results(path) == sorted(more) * (code == 10)
    if host == "github":
        steps = [name for name, _, _ in runner.ran]
        assert steps[-3:] == ["Scan", "github/codeql-action/upload-sarif", "Verdict"]
        assert str(path) in runner.ran[-2][2]
        annotation = {0: "Every", 10: "::error::A file is on a list", 3: "::error::Nothing found"}
        assert runner.ran[-1][2].startswith(annotation[code])
    # The log of the job has neither a secret nor the name of a file.
    said = "".join(text for _, _, text in runner.ran if not text.startswith("{"))
    assert site.token not in said and SEAL_KEY not in said and "images" not in said


@pytest.mark.slow
@HOSTS
def test_a_change_is_checked_by_its_files_alone(site: Site, tmp_path: Path, host: str) -> None:
    """The scan gets only files that the change added or modified."""
    runner = Runner(tmp_path, site, site.token, CLEAN | {"old.dat": LISTED, "kept.dat": LISTED})
    runner.base = runner.commit("echo .hashclient/state >> .git/info/exclude")
    odd = "echo new > $'a\\nname'; chmod +x src/main.py; rm old.dat"
    odd += "; ln -s kept.dat link; ln -s src folder"
    copied = "mkdir -p sub; cp kept.dat sub/ä.dat; mv kept.dat moved.dat"
    for change, code, expected in ((odd, 0, []), (copied, 10, ["moved.dat", "sub/ä.dat"])):
        runner.commit(change)
        assert getattr(runner, host)() == code, runner.ran
        assert runner.results(sarif_of(runner, host)) == expected
        runner.leave()
    runner.base = "1" * 40
    assert getattr(runner, host)() not in (0, 10)
    assert "is not in this checkout" in runner.ran[-1][2]


@pytest.mark.slow
@HOSTS
def test_a_job_uses_the_lists_of_an_earlier_one(site: Site, tmp_path: Path, host: str) -> None:
    first = Runner(tmp_path / "first", site, site.token, CLEAN)
    assert getattr(first, host)() == 0
    second = Runner(tmp_path / "second", site, site.token, CLEAN)
    if host == "github":
        kept = first.temp / "hashclient" / "lists"
        assert str(kept) in next(text for n, _, text in first.ran if n == "actions/cache")
        shutil.copytree(kept, second.temp / "hashclient" / "lists")
    else:
        (name,) = component_job()["cache"]["paths"]
        shutil.copytree(first.project / name, second.project / name)
    site.requests.clear()
    assert getattr(second, host)() == 0
    assert not [line for line in site.requests if ".parquet" in line], site.requests


@pytest.mark.slow
@HOSTS
@pytest.mark.parametrize("secret", ["token", "seal_key"])
def test_a_job_without_a_secret_says_which(
    site: Site, tmp_path: Path, host: str, secret: str
) -> None:
    runner = Runner(tmp_path, site, site.token, CLEAN)
    setattr(runner, secret, "")
    assert getattr(runner, host)() == 2
    name = secret.replace("_", "-") if host == "github" else f"HASHCLIENT_{secret.upper()}"
    ((_, _, said),) = runner.ran
    assert said.count(f" {name} is empty") == 1


@pytest.mark.slow
@HOSTS
def test_a_job_with_a_wrong_token(site: Site, tmp_path: Path, host: str) -> None:
    runner = Runner(tmp_path, site, "wrong", CLEAN)
    assert getattr(runner, host)() == 5
    assert "hashclient: error: " in runner.ran[-1][2]
    assert not sarif_of(runner, host).exists()


@pytest.mark.slow
def test_a_scan_that_cannot_begin_uploads_nothing(site: Site, tmp_path: Path) -> None:
    """The job uploads no report of a failed scan, because the host would then close its alerts."""
    runner = Runner(tmp_path, site, site.token, CLEAN)
    runner.environ["HASHCLIENT_SCAN_JOBS"] = "none"
    assert runner.github() == 2
    assert [name for name, _, _ in runner.ran][-2:] == ["Scan", "Verdict"]
    assert runner.ran[-1][2] == "::error::No verdict: hashclient ended with exit code 2.\n"
    report = json.loads(sarif_of(runner, "github").read_text())
    assert report["runs"][0]["invocations"][0]["executionSuccessful"] is False


@pytest.mark.slow
@CASES
def test_the_pre_commit_hook(site: Site, tmp_path: Path, more: dict[str, bytes], code: int) -> None:
    """The hook is called as pre-commit does: the entry, its arguments, then names of files."""
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
    """The machine of a committer or a runner, with a policy that quarantines and reports."""

    state: Path
    runner: Runner

    def untouched(self) -> bool:
        """Return whether the match is recorded, but no action was done and no report is wanted."""
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
    """A project cannot change this by configuration, environment or the `args` of its hook."""
    (hook,) = load(HOOKS)
    words = [*shlex.split(hook["entry"]), *options, "--", *CLEAN, "images/a.dat"]
    script = f"PATH=../venv/bin:$PATH; {shlex.join(words)}"
    found, said = machine.runner.shell(
        script, HASHCLIENT_STATE_DIR=str(machine.state), HASHCLIENT_SCAN_QUARANTINE="1"
    )
    assert found == 10, said
    assert machine.untouched()
    # The next scan outside of the hook finds the file and does the actions of the policy.
    again = [word for word in words if word != "--no-actions"]
    script = f"PATH=../venv/bin:$PATH; {shlex.join(again)}"
    found, said = machine.runner.shell(script, HASHCLIENT_STATE_DIR=str(machine.state))
    assert found == 10 and "-> quarantined" in said, said
    assert not (machine.runner.project / "images/a.dat").exists()


@pytest.mark.slow
def test_the_scans_of_the_examples_take_nothing_away(machine: Machine) -> None:
    """If a runner is reused for other jobs, its configuration may allow actions."""
    (scan,) = [step["run"] for step in action_steps() if step.get("id") == "scan"]
    (other,) = marked_blocks(CI, "others")
    (line,) = [line for line in invocations(other) if " scan " in f" {line}"]
    for script in (f"{scan}\nexit $code", component_job()["script"][-1], f"hashclient {line}"):
        environ = {
            "HASHCLIENT_STATE_DIR": str(machine.state),
            "RUNNER_TEMP": str(machine.runner.temp),
            "GITHUB_OUTPUT": "/dev/null",
        }
        found, said = machine.runner.shell(f"PATH=../venv/bin:$PATH\n{script}", **environ)
        assert found == 10, (script, said)
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
        assert "list other is missing" in said
        words = [*shlex.split(hook["entry"]), *hook["args"], *CLEAN]
        code, said = runner.shell(with_the_command(shlex.join(words)), **variables)
        assert code == 8, said
        # If all lists are present, an unreachable provider does not stop the job.
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
    steps = (("rm old.dat", 0), ("echo new > new.txt", 0), ("cp kept.dat bad.dat", 10))
    runner.commit("true")
    for change, expected in steps:
        runner.commit(change)
        code, said = runner.shell(
            with_the_command(f"set -o pipefail\n{script}"),
            HASHCLIENT_STATE_DIR=str(state),
            BASE="HEAD~1",
        )
        assert code == expected, said
