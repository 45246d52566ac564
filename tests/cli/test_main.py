"""The program as a whole: help, version, unknown commands, signals, errors without traceback."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import click
import msgspec
import pytest

from hashclient.cli import main as module
from hashclient.cli.main import COMMANDS, cli, exit_code_table
from hashclient.cli.options import TIME
from hashclient.cli.output import Terminated
from hashclient.config import settings as config
from hashclient.config import tables
from hashclient.core.errors import ExitCode, StateError
from hashclient.core.version import __version__
from hashclient.index import manifest, open_lists
from hashclient.migrations import version
from tests.kit import (
    ROOT,
    UNMEASURED,
    arguments,
    call,
    csv_of,
    environment,
    make_state,
    run,
    wait_until,
    write_tree,
)
from tests.kit.context import context_of


def test_the_version() -> None:
    result = run("--version")
    assert (result.code, result.out) == (0, f"hashclient {__version__}\n")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_on_another_system_it_ends_with_a_sentence_at_once(system: str) -> None:
    begin = f"import sys; sys.platform = {system!r}; from hashclient.__main__ import main; main()"
    words = [sys.executable, "-c", begin, "--version"]
    done = subprocess.run(
        words, env=environment(**UNMEASURED), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    first, hint = done.stderr.splitlines()
    assert first == f"hashclient: runs on Linux only, and this is {system}"
    assert hint.startswith("hint: ")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_and_every_exit_code(flag: str) -> None:
    result = call(flag)
    assert result.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.out
    assert exit_code_table() in result.out


def all_commands(command: click.Command, *path: str) -> list[tuple[str, ...]]:
    found = [path]
    if isinstance(command, click.Group):
        context = context_of(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += all_commands(inner, *path, name)
    return found


@pytest.mark.parametrize("path", all_commands(cli), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    assert result.code == 0
    assert result.out.startswith("Usage: hashclient")
    for line in result.out.splitlines():
        assert len(line) <= 100
        assert line.isprintable()


@pytest.mark.parametrize("path", [[], ["audit"], ["provider"]])
def test_a_command_that_needs_another_shows_its_help(path: list[str]) -> None:
    result = run(*path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: hashclient")
    assert "Commands:" in result.err


def test_a_mistyped_command_is_reported_with_the_right_one() -> None:
    result = run("scn", "x")
    assert result.code == 2
    assert result.err == (
        "hashclient: error: no such command 'scn'; did you mean 'scan'?\n"
        "hint: see `hashclient --help`\n"
    )


def test_the_help_that_is_named_is_that_of_the_command() -> None:
    result = run("fetch", "--list")
    assert result.code == 2
    assert result.err.endswith("requires an argument\nhint: see `hashclient fetch --help`\n")


@pytest.mark.sampled
@pytest.mark.parametrize("args", [["frob"], ["--frob"], ["scan", "--frob", "."], ["status", "x"]])
def test_unknown_commands_and_options(args: list[str]) -> None:
    result = run(*args)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("hashclient: error: ")
    assert "hint: see `hashclient" in result.err


@pytest.mark.sampled
@pytest.mark.parametrize("path", [[], ["audit"], ["inventory"], ["provider"]])
def test_commands_are_listed_with_whole_sentences(path: list[str]) -> None:
    result = run(*path, "--help", env={"COLUMNS": "80"})
    listed = result.out.partition("Commands:")[2].partition("\n\n")[0]
    assert listed.count("\n") > 1
    assert not any(line.endswith("...") for line in listed.splitlines())


def test_a_global_option_behind_the_command(tmp_path: Path) -> None:
    result = run("scan", "--config", "x", tmp_path)
    assert result.code == 2
    assert "hint: put this option before the command: `hashclient --config scan …`\n" in result.err
    result = run("provider", "init", "--state-dir", tmp_path, tmp_path)
    assert (
        "hint: put this option before the command: `hashclient --state-dir provider init …`"
        in result.err
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", ["~no-such-user-here/x", "\udcff/x"])
def test_odd_places(path: str) -> None:
    result = run("--state-dir", path, "scan", ".")
    assert result.code in {2, 8}
    assert all(line.isprintable() for line in result.err.splitlines())


def test_no_configuration_or_code_is_read_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("frob = ")
    (tmp_path / "hashclient.py").write_text("raise SystemExit(99)")
    # The current directory is not on the import path, as in an installed program.
    code = "import sys; sys.path.remove(''); from hashclient.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--state-dir", tmp_path / "state", "scan", "."],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 8
    assert "no list has been fetched" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "hashclient: interrupted\n"),
        (Terminated(), 143, "hashclient: terminated\n"),
        (StateError("broken", hint="mend it"), 8, "hashclient: error: broken\nhint: mend it\n"),
        (
            click.UsageError("Wrong."),
            2,
            "hashclient: error: wrong\nhint: see `hashclient --help`\n",
        ),
        (click.Abort(), 130, "hashclient: interrupted\n"),
    ],
)
def test_every_end_has_its_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def failing(**_: object) -> None:
        raise error

    monkeypatch.setattr(module.cli, "main", failing)
    result = call()
    assert (result.code, result.err) == (code, said)


def test_a_bug_is_reported_without_its_insides_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(**_: object) -> None:
        raise ZeroDivisionError("a secret value")

    monkeypatch.setattr(module.cli, "main", failing)
    assert module._run([]) == ExitCode.BUG
    said = capsys.readouterr().err
    assert said.startswith("hashclient: internal error: ZeroDivisionError\nhint: ")
    assert "secret" not in said
    monkeypatch.setenv("HASHCLIENT_DEBUG", "1")
    module._run([])
    assert "Traceback" in capsys.readouterr().err


#: A script that runs the program and sends it a signal while a module is loaded: of the command
#: line, of a command, or of a library. The signal is sent within `exec`, where SIGINT would end
#: Python itself.
SIGNALLED = """
import os, sys
number, name = int(sys.argv[1]), sys.argv[2]
class Finder:
    def find_spec(self, fullname, path=None, target=None):
        if fullname == name:
            exec(f"import os; os.kill(os.getpid(), {number})")
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["--state-dir", sys.argv[3], "fetch"]
from hashclient.__main__ import main
main()
"""


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["hashclient.cli.main", "click", "hashclient.cli.fetch", "numpy"])
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_while_modules_are_loaded_ends_it_in_words(
    tmp_path: Path, name: str, number: int, code: int, said: str
) -> None:
    (tmp_path / "config.toml").write_text(
        '[providers.main]\nurl = "https://127.0.0.1:1"\nroot_sha256 = "00"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number)), name, str(tmp_path)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.strip() == f"hashclient: {said}"


@pytest.mark.slow
def test_a_sigint_ignored_in_the_background_stays_ignored(tmp_path: Path) -> None:
    script = SIGNALLED.replace("import os, sys", "import os, sys, signal", 1).replace(
        "number, name", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nnumber, name", 1
    )
    for name in ("click", "hashclient.cli.fetch"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(int(signal.SIGINT)), name, str(tmp_path)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2 and "no provider is configured" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_any_command(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The tested command waits for its input."""
    assert run("provider", "init", tmp_path / "repo").code == 0
    read, write = os.pipe()
    process = subprocess.Popen(
        arguments("provider", "publish", tmp_path / "repo", "--list", "base", "-"),
        env=environment(),
        stdin=read,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(read)
    os.write(write, b"# comment\n")

    def waits() -> bool:
        """Return whether the process has read all bytes of its input, and waits for more."""
        unread = int.from_bytes(fcntl.ioctl(write, termios.FIONREAD, bytes(4)), sys.byteorder)
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return unread == 0 and state == "S"

    wait_until(waits, process.pid)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    os.close(write)
    assert process.returncode == code
    assert err.strip() == f"hashclient: {'interrupted' if code == 130 else 'terminated'}"


@pytest.mark.sampled
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_whose_output_nobody_reads(
    number: signal.Signals, code: int
) -> None:
    read, write = os.pipe()
    room = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(
        arguments("scan", "--help"), env=environment(), stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(write)

        def is_full() -> bool:
            unread = fcntl.ioctl(read, termios.FIONREAD, bytes(4))
            return int.from_bytes(unread, sys.byteorder) == room

        wait_until(is_full, process.pid)
        process.send_signal(number)
        try:
            assert process.wait(timeout=20) == code
        finally:
            os.close(read)


SLOW = {"httpx", "tuf", "pyarrow", "rich", "multiprocessing"}
#: Modules that some commands must not load: modules for containers and fetches, a module that numpy
#: needs only for unique values, a parser for any form of a key, and modules for matches, rulings,
#: clusters and threads.
IN_VAIN = {
    "cryptography.hazmat.primitives.serialization",
    *("numpy.ma", "queue", "random", "secrets", "socket", "subprocess", "email.header"),
    *("hashclient.containers.cage", "hashclient.containers.mailfacts"),
    *("hashclient.containers.mimedecode", "hashclient.cli.fetch", "hashclient.lists.bounds"),
    *("hashclient.matches.store", "hashclient.scan.run.whereabouts"),
    *("hashclient.index.fingerprints", "hashclient.scan.cluster.address"),
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("args", "needless"),
    [
        (("--version",), SLOW | {"numpy"}),
        (("status",), SLOW),
        (("scan", str(ROOT / "LICENSE")), SLOW | IN_VAIN),
    ],
)
def test_a_start_imports_only_what_the_command_needs(
    tmp_path: Path, args: tuple[str, ...], needless: set[str]
) -> None:
    state = make_state(tmp_path, {"base": csv_of({"e-1": b"listed"})})
    (state / "config.toml").write_text('[providers.main]\nurl = ""\nroot_sha256 = ""\n')
    code = (
        "import os, sys; from hashclient.cli.main import main\n"
        "os._exit = lambda code: sys.exit(print(*sorted(sys.modules)) or code)\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--state-dir", state, *args],
        env=environment(**UNMEASURED),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "hashclient.cli.main" in loaded
    assert loaded & needless == set()


def test_values_that_every_start_decodes_have_no_annotations_as_texts() -> None:
    for at_start in (config, tables, manifest, open_lists, version):
        kinds = [kind for kind in vars(at_start).values() if isinstance(kind, type)]
        decoded = [kind for kind in kinds if issubclass(kind, msgspec.Struct)]
        assert decoded
        for kind in decoded:
            if kind.__module__ == at_start.__name__:
                annotations = vars(kind).get("__annotations__", {}).values()
                assert not any(isinstance(one, str) for one in annotations), kind


PRIVATE = """
import ctypes, os, resource, sys
from hashclient.scan.check import checker
from hashclient.scan.sources import interface, walk
from hashclient.cli.main import main

report, *argv = sys.argv[1:]

def note(what):
    status = open("/proc/self/status").read()
    bus = int(status.split("SigCgt:")[1].split()[0], 16) >> 6 & 1
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    with open(report, "a") as stream:
        print(what, *resource.getrlimit(resource.RLIMIT_CORE), dumpable, bus, file=stream)

walk.TASK_NAMES = interface.TASK_NAMES = 1
checking = checker.Checker.check

def check_and_note(self, task, **options):
    note("worker")
    return checking(self, task, **options)

checker.Checker.check = check_and_note
front_end, end = os.getpid(), os._exit

def note_and_end(code):
    note("front-end" if os.getpid() == front_end else "worker")
    end(code)

os._exit = note_and_end
main(argv)
"""


@pytest.mark.slow
def test_memory_is_private_in_every_process(tmp_path: Path) -> None:
    """All processes of a command keep their memory private, and can report an unreadable index."""
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": b"listed"}, sized=False)})
    trees = [write_tree(tmp_path / f"{n}", {"f": b"x"}) for n in range(3)]
    report = tmp_path / "report"
    for argv in (["scan", "--jobs", "2", *trees], ["status"], ["provider", "init", tmp_path / "p"]):
        done = subprocess.run(
            [sys.executable, "-c", PRIVATE, report, "--state-dir", state, *argv],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
    noted = report.read_text().splitlines()
    assert sorted(set(noted)) == ["front-end 0 0 0 1", "worker 0 0 0 1"]
    assert noted.count("front-end 0 0 0 1") == 3


def test_memory_that_runs_out_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module.cli, "main", failing)
    assert module._run([]) == ExitCode.STATE
    said = capsys.readouterr().err
    assert said.startswith("hashclient: error: there is not enough memory\nhint: ")


def named(path: tuple[str, ...]) -> click.Command:
    """Return the command with this path."""
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        inner = command.get_command(context_of(command), name)
        assert inner is not None
        command = inner
    return command


def test_every_option_that_takes_a_time_takes_it_in_the_same_spellings() -> None:
    """A regression test: `matches --since` refused times that `audit show --since` accepted."""
    found = {
        f"{' '.join(path)} {parameter.opts[0]}": parameter.type
        for path in all_commands(cli)
        for parameter in named(path).params
        if {"--since", "--expires"} & set(parameter.opts) and parameter.metavar == "TIME"
    }
    assert {"audit show --since", "matches --since", "provider notice publish --expires"} <= set(
        found
    )
    assert set(found.values()) == {TIME}


@pytest.mark.parametrize(
    "words",
    ["quarantine purge", "quarantine add", "matches close", "report prepare", "report submit"],
)
def test_ids_that_an_option_can_stand_for_are_shown_as_optional(words: str) -> None:
    (argument,) = (p for p in named(tuple(words.split())).params if p.nargs == -1)
    assert re.fullmatch(r"\[[A-Z]+…\]", str(argument.metavar))


def test_lookup_claims_to_compute_no_digest() -> None:
    assert "computed digests" not in call("lookup", "--help").out
    assert "computed digests" in call("scan", "--help").out


#: A number that exceeds 64 bits, and exceeds any count that a library accepts.
HUGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (path, parameter.opts[0])
        for path in all_commands(cli)
        for parameter in named(path).params
        if isinstance(parameter, click.Option)
        and isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
        and not parameter.count
    ],
)
def test_no_number_is_too_large_for_words(command: tuple[str, ...], option: str) -> None:
    """The message for each option names the allowed numbers, and no number causes a crash."""
    parameter = next(p for p in named(command).params if option in p.opts)
    kind = parameter.type
    assert isinstance(kind, click.IntRange | click.FloatRange)
    assert kind.max is not None
    result = call(*command, option, HUGE)
    assert result.code == 2
    assert " number from " in result.err or " number above " in result.err


#: Commands that search for parts of the state. A directory that they cannot enter is not a bug, and
#: does not count as empty.
LOOKING = (
    ("inventory", "stats"),
    ("inventory", "prune"),
    ("inventory", "mounts"),
    ("matches",),
    ("report", "submit", "--all"),
    ("report", "status"),
    ("quarantine", "list"),
    ("status",),
    ("fetch",),
    ("scan", "."),
)


@pytest.mark.sampled
@pytest.mark.parametrize("how", ["closed", "too long"])
def test_a_state_directory_that_cannot_be_looked_into(tmp_path: Path, how: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[providers.main]\nurl = "https://localhost/"\nroot_sha256 = "{0:064}"\n')
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    state = closed / "state" if how == "closed" else tmp_path / ("x" * 300)
    script = (
        "import json, sys; from hashclient.cli import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    print(int(main._run([*sys.argv[2:], *arguments])), *arguments)"
    )
    prefix = (
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if not os.geteuid() else []
    )
    command = [sys.executable, "-c", script, json.dumps(LOOKING), "--config", str(config)]
    done = subprocess.run(
        [*prefix, *command, "--state-dir", state],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "internal error" not in done.stderr
    codes = {line for line in done.stdout.splitlines() if line[0].isdigit()}
    assert codes == {" ".join(("8", *arguments)) for arguments in LOOKING}
