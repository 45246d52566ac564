"""Opens, writes and closes FILE of the option `--output`, also if the command fails.

A script or a CI job may show FILE after a run. If a command fails, FILE must never contain the
output of an earlier run, because a scan that fails at its start would look like the successful scan
of yesterday. So FILE is emptied before any other step that can fail. A later failure is written
into FILE, in the format of the output. `status` replaces FILE in one step, because another program
may read FILE at any time. If `status` fails, it replaces FILE by a text about the failure.

If a log rotator renames FILE during a scan and sends SIGHUP, the scan opens a new FILE. The renamed
file contains the earlier outcomes, and no summary. The new FILE begins like any output, and
contains the later outcomes and the summary of the whole run. If the format is a single document,
such as JSON, the whole output is written to the renamed file.

A lock on FILE prevents that two runs write to FILE. A lock that was taken by a user who may only
read FILE is ignored. A FILE that is also an input is refused, because the content of the input
would be lost before it is checked.

A run that is killed by SIGKILL leaves an empty FILE, and a killed `status` leaves the old FILE,
    which contains the time at which it was written. If config.toml is not valid, an output that
    only config.toml names is not emptied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

import click

from hashclient.cli.output import Hangup, OutputError, json_text, output_error
from hashclient.core.errors import ExitCode, HashclientError, LockedError, StateError, UsageError
from hashclient.system.files import acquire, write_all
from hashclient.system.text import printable

#: The commands that empty FILE first, and the commands that replace FILE in one step.
_EMPTIED = frozenset({"scan", "lookup", "matches"})
_REPLACED = frozenset({"status"})
#: The commands whose output has no last line that shows that the output is complete.
_ENDLESS = frozenset({"matches"})
#: The commands that may run so long that a log rotator renames FILE meanwhile.
_REOPENED = frozenset({"scan", "lookup"})
#: The parameters that name inputs: for all commands, for some commands with many values, and for
#: some commands with one value.
_INPUTS_OF_ALL = ("config_path", "seal_key_file")
_INPUTS = ("paths", "sources")
_SINGLE_INPUTS = ("files_from",)


#: The errors that mean a wrong path, and not a failing disk.
_WRONG_PLACE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
)


class OutputFile:
    """The output file of one run: FILE of the option `--output`, or no file."""

    def __init__(self) -> None:
        """Create the object; `prepare` or `open` opens FILE."""
        self._command = ""
        self._format = ""
        self._path: Path | None = None
        self._stream: TextIO | None = None
        self._is_begun = self._is_whole = False
        self._inputs: Sequence[str] = ()
        self._hangup = Hangup()
        #: The function that returns the text at the beginning of each FILE; None if the output must
        #: not be split into several files.
        self._again: Callable[[], str | None] | None = None
        self._warn: Callable[[str, str | None], object] = lambda _message, _hint: None

    def prepare(
        self, context: click.Context, name: str, command: click.Command, words: Sequence[str]
    ) -> None:
        """Find `--output` in the arguments `words` of command `name`, and empty FILE.

        A second call does not empty FILE again, so `prepare` may be called again after config.toml
        has been read. Wrong arguments are ignored, because the command reports them later.

        Raises:
            UsageError: FILE cannot be opened, or is an input.
            LockedError: another run is writing to FILE.
        """
        if name not in _EMPTIED | _REPLACED or not {"-h", "--help"}.isdisjoint(words):
            return
        if isinstance(command, click.Group):
            words = words[words[:1] == ["list"] :]  # `matches list` is the same as `matches`
            # The value of an option may be the name of a subcommand, for example of a list.
            parsed = click.Context(command, resilient_parsing=True, ignore_unknown_options=True)
            _, rest, _ = command.make_parser(parsed).parse_args([*words])
            if not command.commands.keys().isdisjoint(rest[:1]):
                return  # only the list of matches has `--output`
        if not _may_be_named(context, name, command, words):
            return
        found = command.make_context(
            name,
            _without_values_of_flags(command, words),
            parent=context,
            resilient_parsing=True,
            ignore_unknown_options=True,
            allow_extra_args=True,
        )
        path = found.params.get("output")
        if not isinstance(path, Path):
            return
        self._command, self._format = name, found.params.get("output_format") or "text"
        if name in _REPLACED:
            self._path = path
        elif path != self._path:
            inputs = [str(word) for key in _INPUTS for word in found.params.get(key) or ()]
            inputs += [word for key in _SINGLE_INPUTS if (word := found.params.get(key))]
            inputs += [word for key in _INPUTS_OF_ALL if (word := context.params.get(key))]
            self._empty(path, [*inputs, *found.args])
            if name in _REOPENED:
                self._hangup.watch()

    @contextlib.contextmanager
    def open(
        self,
        path: Path | None,
        to_stdout: Callable[[str], None],
        *,
        again: Callable[[], str | None] | None = None,
        warn: Callable[[str, str | None], object] = lambda _message, _hint: None,
    ) -> Iterator[Callable[[str], None]]:
        """Yield a function that writes a line to `path` or stdout; flush all lines at the end.

        If the output can be split into several files, `again` returns the text at the beginning of
        a file. If `again` is None, SIGHUP does not open FILE again, and `warn` is called with a
        warning and a hint instead.

        Raises:
            UsageError, LockedError: see `prepare`.
            OutputError: writing failed.
        """
        if path is None:
            yield to_stdout
            return
        if path != self._path or self._stream is None:
            self._empty(path, [])
        self._again, self._warn = again, warn

        def write(line: str) -> None:
            self._reopen()
            self._is_begun = True
            self._put(line)

        try:
            yield write
        except BaseException:
            with contextlib.suppress(OSError):
                # The outcomes that were found before the error are written.
                self._opened_stream().flush()
            raise
        self._finish()
        self._is_whole = True

    def reopen_if_asked(self) -> None:
        """Open FILE again after a SIGHUP; a run calls this repeatedly while it writes no line."""
        if self._hangup.is_asked:
            try:
                self._reopen()
            except OutputError:
                # The next call that writes a line raises the error again.
                self._hangup.is_asked = True

    def _reopen(self) -> None:
        """Open FILE again after a SIGHUP, if its path now leads to another file.

        Raises:
            OutputError: not all lines could be written to the renamed file.
        """
        path = self._path
        if not self._hangup.is_asked or path is None or self._stream is None:
            return
        self._hangup.is_asked = False
        status = os.fstat(self._stream.fileno())
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), status):
                return
        if not stat.S_ISREG(status.st_mode):
            return
        if self._again is None:
            why = f"{self._format} is one document"
            self._warn(
                f"the output was not opened again: {why}", "all of it is in the renamed file"
            )
            return
        self._finish()
        try:
            fd = _emptied(path, self._inputs)
        except (UsageError, LockedError) as error:
            self._warn(f"the output was not opened again: {error.message}", None)
            return
        self._close_stream()
        self._stream = _text_stream(fd)
        if self._is_begun and (header := self._again()) is not None:
            self._put(header)

    def _put(self, line: str) -> None:
        try:
            self._opened_stream().write(line + "\n")
        except OSError as error:
            raise output_error(error, self._path) from error

    def _finish(self) -> None:
        """Flush all lines to FILE, and check for errors that appear only when FILE is closed.

        Raises:
            OutputError: a line could not be written.
        """
        stream = self._opened_stream()
        try:
            stream.flush()
            # A network file system may report a full disk only when the file is closed.
            os.close(os.dup(stream.fileno()))
        except OSError as error:
            raise output_error(error, self._path) from error

    def _opened_stream(self) -> TextIO:
        assert self._stream is not None, "it is open while an output is written"
        return self._stream

    def fail(self, code: ExitCode, message: str, now: Callable[[], datetime]) -> None:
        """Write into FILE that the command failed.

        A complete output is kept. Outcomes from before the failure are also kept, if the missing
        last line shows that the output is incomplete. An error of writing is ignored, because the
        command already reports another error.
        """
        if self._path is None or self._is_whole:
            return
        with contextlib.suppress(OSError, HashclientError):
            if self._command in _REPLACED:
                text = _failed_status(self._format, code, message)
                replace(self._path, text.encode(errors="backslashreplace"))
            elif not self._is_begun or self._command in _ENDLESS:
                text = _failed_output(self._command, self._format, code, message, now())
                self._write_failure(text)

    def close(self) -> None:
        """Close FILE, and restore the earlier handler of SIGHUP."""
        self._hangup.end()
        self._close_stream()

    def _close_stream(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream = None

    def _empty(self, path: Path, inputs: Sequence[str]) -> None:
        self._close_stream()
        self._stream = _text_stream(_emptied(path, inputs))
        self._path, self._inputs, self._is_begun = path, inputs, False

    def _write_failure(self, text: str) -> None:
        """Replace the content of FILE by `text`, unless text was already written into a pipe."""
        stream = self._stream
        assert stream is not None
        if self._is_begun:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return
            kept = os.dup(stream.fileno())
            # The text in the buffer of the stream is discarded by flushing it to the null device.
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - the path of a device
                os.dup2(nowhere.fileno(), stream.fileno())
            self._close_stream()
            os.ftruncate(kept, 0)
            os.lseek(kept, 0, os.SEEK_SET)
            stream = self._stream = _text_stream(kept)
        stream.write(text)
        stream.flush()


def write_whole(to_stdout: Callable[[str], None], output: Path | None, text: str) -> None:
    """Write a result to stdout, or replace the file `output` by the result in one step.

    Raises:
        UsageError, OutputError: see `replace`.
    """
    if output is not None:
        replace(output, f"{text}\n".encode(errors="backslashreplace") if text else b"")
    elif text:
        to_stdout(text)


def replace(path: Path, data: bytes) -> None:
    """Replace the file `path` by `data` in one step; the umask decides who can read the file.

    A pipe, a device or the target of `/dev/stdout` is not replaced; `data` is written to it.

    Raises:
        UsageError: `path` must not be written to, or its directory does not exist.
        OutputError: `path` cannot be written; an existing file is unchanged.
    """
    from hashclient.system.outputs import place_of, replaced_file

    try:
        if path.is_symlink() and path.exists():
            # A symbolic link to stdout may have any name.
            for stream_fd in (1, 2):
                if os.path.samestat(path.stat(), os.fstat(stream_fd)):
                    write_all(stream_fd, data)
                    return
        if path.exists() and not path.is_file() and not path.is_dir():
            with place_of(path) as place, os.fdopen(place.open(), "wb", buffering=0) as stream:
                write_all(stream.fileno(), data)
            return
    except OSError as error:
        raise output_error(error, path) from error
    mask = os.umask(0o077)
    os.umask(mask)
    try:
        with replaced_file(path, mode=0o666 & ~mask) as stream:
            stream.write(data)
    except StateError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _WRONG_PLACE:
            raise _cannot_open(path, cause) from error
        raise OutputError(error.message, hint="choose another --output") from error


def _emptied(path: Path, inputs: Sequence[str]) -> int:
    """Open `path` for writing, and empty it if it is a regular file; return the descriptor.

    Raises:
        UsageError: `path` cannot be opened, or is one of the `inputs`.
        LockedError: another run is writing to FILE.
    """
    from hashclient.system.outputs import place_of

    try:
        with place_of(path) as place:
            fd = place.open()
    except (OSError, ValueError) as error:
        raise _cannot_open(path, error) from error
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            _refuse_inputs(path, status, inputs)
            _lock(fd, path)
            os.ftruncate(fd, 0)
    except OSError as error:
        os.close(fd)
        raise _cannot_open(path, error) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _text_stream(fd: int) -> TextIO:
    return os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace")


def _may_be_named(
    context: click.Context, name: str, command: click.Command, words: Sequence[str]
) -> bool:
    """Return whether `--output` may be given; if not, the arguments need not be parsed twice."""
    option = next(one for one in command.params if one.name == "output")
    return (
        # If the option has a short flag, the arguments are always parsed, because the short flag
        # may follow other short flags in one argument.
        any(flag[1] != "-" or word.startswith(flag) for flag in option.opts for word in words)
        or option.value_from_envvar(context) is not None
        or "output" in (context.default_map or {}).get(name, {})
    )


def _without_values_of_flags(command: click.Command, words: Sequence[str]) -> list[str]:
    """Return `words` without the values of flags: `--sort=yes` becomes `--sort`."""
    flags = {
        name
        for option in command.params
        if isinstance(option, click.Option) and option.is_flag
        for name in option.opts
    }
    names = [word.partition("=")[0] for word in words]
    return [name if name in flags else word for name, word in zip(names, words, strict=True)]


def _cannot_open(path: Path, error: OSError | ValueError) -> UsageError:
    why = getattr(error, "strerror", None) or "not a path"
    return UsageError(
        f"cannot open the output {printable(path)}: {why}", hint="choose another --output"
    )


def _refuse_inputs(path: Path, status: os.stat_result, inputs: Sequence[str]) -> None:
    for word in inputs:
        with contextlib.suppress(OSError, ValueError):
            # `-` is stdin. Names are not converted to Path, because a name may have any bytes.
            found = os.fstat(0) if word == "-" else os.stat(word)  # noqa: PTH116 - a name
            if os.path.samestat(found, status):
                raise UsageError(
                    f"the output {printable(path)} is an input as well",
                    hint="choose another --output; nothing was written to it",
                )


def _lock(fd: int, path: Path) -> None:
    """Lock FILE against other runs until this process ends."""
    try:
        locked = acquire(fd)
    except OSError:
        return  # the file system does not support locks
    if not locked and _may_be_of_a_run(os.fstat(fd)):
        raise LockedError(
            f"another run is writing to the output {printable(path)}",
            hint="wait until it has finished, or choose another --output",
        )


def _may_be_of_a_run(status: os.stat_result) -> bool:
    """Return whether a user who locks the file with this `status` may write to the file.

    The users are found in /proc/locks. Every user who can read a file can lock the file. A lock
    must not stop a run from replacing an old output if the user who took the lock cannot write to
    the file.
    """
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    writers = {0, os.getuid(), os.geteuid(), status.st_uid}
    try:
        with open("/proc/locks", encoding="ascii") as locks:  # noqa: PTH123 - a file of the kernel
            lines = [line.split() for line in locks]
        holders = [words[4] for words in lines if words[1] == "FLOCK" and words[5] == device]
        return not holders or any(_real_uid(pid) in writers for pid in holders)
    except (OSError, ValueError, IndexError):
        return True


def _real_uid(pid: str) -> int | None:
    """Return the real user id of a process; None if the process has ended."""
    try:
        # The user id is read from the file and is not the owner of the file, because root owns the
        # file if the memory of the process is private.
        status = Path(f"/proc/{int(pid)}/status")
        with status.open(encoding="utf-8", errors="replace") as lines:
            found = [line.split()[1] for line in lines if line.startswith("Uid:")]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(found[0])


def _failed_output(
    command: str, output_format: str, code: ExitCode, message: str, now: datetime
) -> str:
    """Return the output for a command that failed before it had a result."""
    from hashclient.core.verdict import Summary
    from hashclient.formats.registry import FORMATS, Context, formatter

    summary = Summary(lists=())
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        summary.stopped = code
    else:
        summary.failed, summary.failure = code, message
    written = formatter(
        output_format if output_format in FORMATS else "text", Context(command, now)
    )
    parts = (written.begin(), written.end(summary))
    return "".join(f"{part}\n" for part in parts if part is not None)


def _failed_status(output_format: str, code: ExitCode, message: str) -> str:
    """Return the output for a command `status` that has failed."""
    if output_format == "prometheus":
        from hashclient.status.prometheus import render_failure

        return render_failure(int(code))
    if output_format == "json":
        return json_text({"problems": [message], "exit_code": code}) + "\n"
    return f"problem       {message}\n"
