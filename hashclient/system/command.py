"""Runs a program that the configuration names, with limits on its environment, time and output.

The program gets its input as a file. The program gets only few variables of our environment, since
others may hold keys and tokens. Error messages never contain its output.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from hashclient.core.errors import ConfigError, UnreachableError

#: The only variables of our environment that a program gets.
_KEPT = frozenset({"HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"})
_READ_BYTES = 1 << 16


class _TooMuchError(Exception):
    """The program writes more than it may."""


def run_command(
    words: Sequence[str],
    given: bytes,
    environ: Mapping[str, str],
    limit_s: float,
    *,
    of: str,
    most_bytes: int | None = None,
) -> bytes:
    """Give bytes to a program on its standard input; return its output after its end.

    `of` says whose program it is, for messages. Without `most_bytes`, nobody reads the output of
    the program. After any error, the program and its children are killed.

    Raises:
        ConfigError: the program is not named by an absolute path, or cannot be run.
        UnreachableError: the program was not done in time, ended with another code than 0, or wrote
            more.
    """
    if not words[0].startswith("/"):
        raise ConfigError(
            f"command of {of} does not begin with an absolute path",
            hint='such as command = ["/usr/local/bin/page"]',
        )
    end = time.monotonic() + limit_s
    try:
        # The input is a file, not a pipe: the program gets all of it even if this process is
        # killed.
        with open(os.memfd_create("given"), "w+b") as stream:  # noqa: PTH123 - not a path
            stream.write(given)
            stream.seek(0)
            process = subprocess.Popen(
                words,
                stdin=stream,
                stdout=subprocess.DEVNULL if most_bytes is None else subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={key: value for key, value in environ.items() if key in _KEPT},
                start_new_session=True,
            )
    except OSError as error:
        raise ConfigError(f"command: cannot be run: {error.strerror}") from error
    with process:
        try:
            output = b"" if most_bytes is None else _read(process, most_bytes, end)
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"command: not done within {limit_s:.1f} s") from error
        except _TooMuchError as error:
            raise UnreachableError(f"command: writes more than {most_bytes} bytes") from error
        finally:
            if process.returncode is None:
                # Nobody has waited for the process yet, so no other process can have its number.
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise UnreachableError(f"command: ended with {process.returncode}")
    return output


def _read(process: subprocess.Popen[bytes], most_bytes: int, end: float) -> bytes:
    """Return all that a program writes until its output is closed."""
    assert process.stdout is not None
    output, fd = b"", process.stdout.fileno()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while poller.poll(max(0.0, end - time.monotonic()) * 1000):
        if not (data := os.read(fd, _READ_BYTES)):
            return output
        output += data
        if len(output) > most_bytes:
            raise _TooMuchError
    raise subprocess.TimeoutExpired(process.args, 0)
