"""Runs a program named in the configuration, with limits on its environment, time and output.

The standard input of the program is a file. The program gets only the environment variables in
`_KEPT`, because other variables may contain keys and tokens. Error messages never contain output of
the program.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from hashclient.core.errors import ConfigError, UnreachableError

#: The environment variables that are passed to a program.
_KEPT = frozenset({"HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"})
_READ_BYTES = 1 << 16


class _TooMuchError(Exception):
    """The program wrote more than `most_bytes` bytes."""


def run_command(
    words: Sequence[str],
    given: bytes,
    environ: Mapping[str, str],
    limit_s: float,
    *,
    of: str,
    most_bytes: int | None = None,
) -> bytes:
    """Run a program with `given` as its standard input; return its output.

    `of` names the part of the configuration that names the program, for messages. `most_bytes` is
    the limit of the length of the output; if it is None, the output is discarded. After any error,
    the program and its children are killed.

    Raises:
        ConfigError: the program is not named by an absolute path, or cannot be run.
        UnreachableError: the program did not end within `limit_s` seconds, ended with another code
            than 0, or wrote more than `most_bytes`.
    """
    if not words[0].startswith("/"):
        raise ConfigError(
            f"command of {of} does not begin with an absolute path",
            hint='such as command = ["/usr/local/bin/page"]',
        )
    end = time.monotonic() + limit_s
    try:
        # The input is a file, not a pipe, so the program gets the whole input even if this process
        # is killed.
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
    except ValueError as error:
        raise ConfigError(f"command of {of} has a character that is zero") from error
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
                # No code has waited for the process yet, so the kernel has not reused its process
                # id.
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise UnreachableError(f"command: ended with {process.returncode}")
    return output


def _read(process: subprocess.Popen[bytes], most_bytes: int, end: float) -> bytes:
    """Return what a program writes until it closes its output."""
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
