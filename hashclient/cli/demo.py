"""`demo`: runs all steps from a signed list to an exit code on this machine, with dummy files.

Every step runs a real command in its own process, and shows the command, its output and its exit
code. The demo uses only harmless files that it makes, and a list of these files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hashclient.cli.app import App, existing_path, pass_app
from hashclient.core.errors import ExitCode, HashclientError, UnreachableError, UsageError
from hashclient.system.files import make_private_dir, temporary_file_errors

#: The number of seconds that a step may take; every step takes far less.
STEP_TIMEOUT_S = 60


#: The part of config.toml that the demo adds: the officer's key, a recipient of reports, a policy.
_CONFIG = """
[quarantine]
recipients = ["{public}"]

[report]
organisation = "Example Ltd"

[report.to.police]
kind = "package"
directory = "{handover}"
recipients = ["{public}"]

[[policy]]
list = "baseline"
actions = ["quarantine", "report"]
"""


#: A chapter has a title and commands. A command is the text of its arguments, or a pair of this
#: text and the expected exit code if this code is not 0.
_Step = str | tuple[str, ExitCode]
_Chapter = tuple[_Step, ...]

_PROVIDER: Sequence[_Chapter] = (
    (
        "A provider makes its keys, and publishes a list of three dummy files",
        "provider init repo",
        "provider publish repo --list baseline entries.csv",
    ),
    (
        "An export of another body, as ICSE writes it: only the rows that all bodies agree upon",
        "provider publish repo --list baseline --where 'Baseline = true' icse.csv",
        "provider show repo --list baseline",
    ),
    (
        "Each client that may fetch gets a token; the provider keeps its hash",
        "provider client add repo example-ltd --output token",
    ),
    ("The provider serves the list over HTTPS on loopback, to clients with the token",),
)
_CLIENT: Sequence[_Chapter] = (
    (
        "A client pins the provider and its root; a wrong token is refused",
        (
            "init {url} --root repo/root.json --ca ca.pem --token-file wrong-token",
            ExitCode.UNAUTHORISED,
        ),
        "init {url} --root repo/root.json --ca ca.pem --token-file token",
    ),
    ("The client fetches, verifies and seals the list", "fetch", "status"),
    (
        "The client checks files: three are on the list, in any directory and with any name",
        ("scan files", ExitCode.MATCH),
        "scan files/holiday.txt",
    ),
    (
        "The same check for a script, and a check of digests that were computed elsewhere",
        ("scan --format jsonl files", ExitCode.MATCH),
        ("lookup --from sums.txt", ExitCode.MATCH),
    ),
    ("The same check from a program, scan.py:",),
)
_OFFICER: Sequence[_Chapter] = (
    (
        "An officer makes a pair of keys; this machine only gets the public one",
        "quarantine keygen --output officer.key --format json",
    ),
)
_POLICY: Sequence[_Chapter] = (
    (
        "The policy names the actions on matches: first a dry run, then the scan",
        ("scan --policy-check files", ExitCode.MATCH),
        ("scan files", ExitCode.MATCH),
        "quarantine list",
    ),
    (
        "The report that was prepared is handed over as a sealed, signed package",
        "report submit --all",
        "report status",
    ),
)
_NOTICE = (
    "--sender lists@example.org --severity severe --event correction --list baseline"
    " --headline 'entry d-2 is not what it should be'"
)
_LATER: Sequence[_Chapter] = (
    (
        "The provider publishes a notice; an operator acknowledges it",
        f"provider notice publish repo --id n-1 {_NOTICE}",
        "fetch",
        "notices show n-1",
        "notices acknowledge n-1 --reason 'ticket 4711'",
    ),
    (
        "The provider withdraws an entry; the file that was isolated for it goes back",
        "provider withdraw repo --list baseline d-2",
        "fetch",
        "quarantine restore --withdrawn --identity officer.key --reason withdrawn",
        "scan files",
        "matches",
    ),
    ("Somebody tampers with the provider's files: the client refuses them, keeps the old list",),
)
_LOGS: Sequence[_Chapter] = (
    (
        "Signed logs have recorded everything, and show if somebody changes them",
        "audit verify",
        "provider log verify repo",
    ),
)
_PROVIDER_GONE: Sequence[_Chapter] = (
    (
        "The provider is gone: scans go on with the last verified generation",
        ("fetch", ExitCode.UNREACHABLE),
        "scan files/holiday.txt",
    ),
)


#: A Python program that uses the library `hashclient` instead of the commands.
_PROGRAM = """\
import sys
from hashclient import Client

with Client("state").scan("files") as run:
    for handled in run:
        print(handled.outcome.kind, handled.outcome.path)
sys.exit(run.exit_code)
"""


#: The header line of an export of the ICSE database.
_ICSE = (
    "MD5;SHA1;PhotoDNA;Image ID;Is distributed;Victim identified;Offender identified;Series name;"
    "Number of submissions;File Available;Media Type;Baseline"
)


def _digest(algorithm: str, text: str) -> str:
    return hashlib.new(algorithm, text.encode(), usedforsecurity=False).hexdigest()


def _icse(texts: Mapping[str, str]) -> list[str]:
    """Return an ICSE export of two dummy files; the column `Baseline` is true for one file."""
    rows = [_ICSE]
    for name, is_agreed in (("notes/c.txt", True), ("notes/b.txt", False)):
        md5, sha1 = (_digest(algorithm, texts[name]).upper() for algorithm in ("md5", "sha1"))
        rows.append(
            f"{md5};{sha1};;{500_000 + len(rows)};False;False;False;;1;True;text;{is_agreed}"
        )
    return rows


class _StepError(HashclientError):
    """The error that a step did not end with the expected exit code."""

    exit_code = ExitCode.BUG


@click.command("demo")
@click.option(
    "--keep",
    metavar="DIR",
    type=existing_path(file_okay=False),
    help="Work in DIR, a new or empty directory, and keep all files there.",
)
@pass_app
def command(app: App, keep: Path | None) -> ExitCode:
    """Show the whole tool at work on this machine, on dummy files.

    A provider on loopback publishes a signed list and serves it over HTTPS with a token. The client
    pins the provider, fetches the list, scans files, isolates and reports files that match, and
    restores a file after its entry is withdrawn. Then the client refuses a list that was tampered
    with. Each step is the command that you would type, with its real output and exit code.

    \b
      hashclient demo
      hashclient demo --keep /tmp/demo     and look around in it afterwards
    """
    if keep is not None:
        make_private_dir(keep)
        # Other users must not write to the directory of --keep, because the demo runs a program in
        # it.
        app.refuse_shared(keep, "directory")
        if any(keep.iterdir()):
            raise UsageError(f"not empty: {keep}", hint="give a new or empty directory to --keep")
        _Demo(app, keep.absolute()).run()
        app.out(f"\nEverything is in {keep}; `export HASHCLIENT_STATE_DIR={keep}/state` to go on.")
        return ExitCode.OK
    with temporary_file_errors(), tempfile.TemporaryDirectory(prefix="hashclient-demo-") as folder:
        app.refuse_shared(Path(folder), "directory")
        _Demo(app, Path(folder)).run()
    return ExitCode.OK


class _Demo:
    """Runs the steps in one directory, and stops at the first step with an unexpected exit code."""

    def __init__(self, app: App, directory: Path) -> None:
        self._app = app
        self._directory = directory
        self._environ = {k: v for k, v in os.environ.items() if not k.startswith("HASHCLIENT_")}
        self._environ["HASHCLIENT_STATE_DIR"] = "state"

    def run(self) -> None:
        self._make_files()
        self._play(_PROVIDER)
        with self._server() as served:
            (self._directory / "wrong-token").write_text("not-the-token\n")
            (self._directory / "wrong-token").chmod(0o600)
            shutil.copy(served["ca"], self._directory / "ca.pem")
            self._client(served["url"].rstrip("/"))
        self._play(_PROVIDER_GONE)
        self._app.out("\nEvery step ended as expected.")

    def _client(self, url: str) -> None:
        self._play(_CLIENT, url=url)
        (self._directory / "scan.py").write_text(_PROGRAM)
        self._app.out(_PROGRAM.strip("\n"))
        self._run("python scan.py", [sys.executable, "-P", "scan.py"], ExitCode.MATCH)
        self._play(_OFFICER)
        public = (self._directory / "officer.key").read_text().split("public key: ")[1].split()[0]
        with (self._directory / "state/config.toml").open("a") as config:
            config.write(_CONFIG.format(public=public, handover=self._directory / "handover"))
        make_private_dir(self._directory / "handover")
        self._play(_POLICY)
        (package,) = (self._directory / "handover").iterdir()
        self._step(f"report verify handover/{package.name} --identity officer.key")
        self._play(_LATER)
        timestamp = self._directory / "repo/public/metadata/timestamp.json"
        original = timestamp.read_bytes()
        timestamp.write_bytes(re.sub(rb'("version": ?)', rb"\g<1>9", original))
        self._step("fetch", ExitCode.UNVERIFIED)
        timestamp.write_bytes(original)
        self._play(_LOGS)

    def _play(self, chapters: Sequence[_Chapter], **values: str) -> None:
        """Run the commands of `chapters`, after replacing names in braces by `values`."""
        for title, *steps in chapters:
            self._app.out(f"\n# {title}")
            for step in steps:
                words, expected = (step, ExitCode.OK) if isinstance(step, str) else step
                self._step(words.format(**values), expected)

    def _make_files(self) -> None:
        """Write dummy files, and the table of digests of three dummy files for the provider."""
        texts = {
            "holiday.txt": "A dummy file about a holiday.\n",
            "notes/a.txt": "A dummy file that is on the list: one.\n",
            "notes/deep/er/renamed.bin": "A dummy file that is on the list: two.\n",
            "notes/b.txt": "A dummy file that nobody listed.\n",
            "notes/c.txt": "A dummy file that another body listed.\n",
        }
        for name, text in texts.items():
            path = self._directory / "files" / name
            make_private_dir(path.parent)
            path.write_text(text)
        rows = ["entry_id,md5,sha256,size,category"]
        for number in ("one", "two", "three"):
            text = f"A dummy file that is on the list: {number}.\n"
            digests = f"{_digest('md5', text)},{_digest('sha256', text)}"
            rows.append(f"d-{len(rows)},{digests},{len(text)},dummy")
        (self._directory / "entries.csv").write_text("\n".join(rows) + "\n")
        (self._directory / "icse.csv").write_text("\r\n".join([*_icse(texts), ""]))
        sums = [f"{_digest('md5', text)}  {name}" for name, text in texts.items()]
        (self._directory / "sums.txt").write_text("\n".join(sums) + "\n")

    def _step(self, words: str, expected: ExitCode = ExitCode.OK) -> None:
        """Run one command of hashclient, show it with its output, and check its exit code."""
        self._run(f"hashclient {words}", self._argv(words), expected)

    def _run(self, shown: str, argv: list[str], expected: ExitCode) -> None:
        self._app.out(f"$ {shown}")
        done = subprocess.run(
            argv,
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
        if done.stdout:
            self._app.out(done.stdout.rstrip("\n"))
        self._app.out(f"[exit {done.returncode}]")
        if done.returncode != expected:
            raise _StepError(f"this step should have ended with exit code {expected.value}")

    @staticmethod
    def _argv(words: str) -> list[str]:
        # With `-P`, Python does not import modules from the directory of the demo.
        return [sys.executable, "-P", "-m", "hashclient", *shlex.split(words)]

    @contextlib.contextmanager
    def _server(self) -> Iterator[dict[str, Any]]:
        """Run `provider serve`; yield the JSON document that the server prints when it is ready."""
        words = "provider serve repo --bind 127.0.0.1:0 --format json"
        self._app.out(f"$ hashclient {words} &")
        with subprocess.Popen(
            self._argv(words),
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as server:
            try:
                assert server.stdout is not None
                line = server.stdout.readline()
                if not line:
                    raise UnreachableError("the provider did not start")
                self._app.out(line.rstrip("\n"))
                served: dict[str, Any] = json.loads(line)
                yield served
            finally:
                server.send_signal(signal.SIGTERM)
