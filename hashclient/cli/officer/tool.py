"""The command line of `hashclient-verify`, the one-file program for recipients of packages.

The program needs only Python's standard library and the programs `openssl`, which verifies
signatures, and `age`, which decrypts sealed files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hashclient.cli.officer import answering
from hashclient.cli.officer.age import opener_of
from hashclient.cli.output import end_now, open_streams
from hashclient.cli.package_lines import FORMATS, package_lines
from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.version import __version__
from hashclient.packages.index import check, extract
from hashclient.system.text import counted, printable

NAME = "hashclient-verify"
_ABOUT = """\
Verify packages, notes and answers, and list their content. All files of a package are checked
against each other and against one signature. No machine can know the owner of the key: compare it
with the reporter's key, by telephone for example. No content is shown, and content is only written
with --extract. `hashclient-verify answer --help` says how to answer a package.
"""
_NEEDS = """\
Needs Python 3.11 on Linux, OpenSSL 3 (openssl), and age (age) for sealed files.
Exit codes: 0 all files verify, 2 wrong usage or no package, 5 the key does not open a package or
evidence, 6 a file does not verify, 8 a file cannot be written.
"""


def main() -> NoReturn:
    """Run the command line in `sys.argv`, and exit with its exit code."""
    open_streams()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except HashclientError as error:
        _fail(error)
        code = int(error.exit_code)
    except KeyboardInterrupt:
        code = int(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a bug must not end with the exit code of a verdict
        _say(f"{NAME}: internal error: {type(error).__name__}: {printable(str(error))}")
        code = int(ExitCode.BUG)
    end_now(code)


def run(words: Sequence[str]) -> int:
    """Run the command line `words`: verify packages or write an answer; return the exit code."""
    if words[:1] == ["answer"]:
        return answering.run(words[1:])
    options = _parser().parse_args(words)
    opener = opener_of(options.identity) if options.identity else None
    if options.extract is not None and opener is None:
        _parser().error("--extract needs a key that opens the evidence: --identity FILE")
    key = options.public_key
    checked = [check(path, opener=opener, public_key=key) for path in options.packages]
    if options.extract is not None and opener is not None:
        checked = [extract(one, options.extract, opener, public_key=key) for one in checked]
    for line in package_lines(checked, options.format, compared=key is not None):
        sys.stdout.write(line + "\n")
    code = 0
    for one in checked:
        if one.error is not None:
            _fail(one.error, f"{printable(one.path)}: " if len(checked) > 1 else "")
            code = max(code, int(one.error.exit_code))
        if one.closed:
            closed = counted(len(one.closed), "match")
            _say(f"{NAME}: {printable(one.path)}: evidence that the key does not open: {closed}")
            code = max(code, int(ExitCode.UNAUTHORISED))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=NAME, description=_ABOUT, epilog=_NEEDS)
    parser.add_argument("packages", metavar="PACKAGE", nargs="+", type=Path)
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--identity", metavar="FILE", action="append", type=Path, default=[], help="a secret key"
    )
    parser.add_argument("--public-key", metavar="HEX", help="the reporter's audit key")
    parser.add_argument(
        "--extract", metavar="DIR", type=Path, help="write opened evidence to DIR/REPORT/MATCH.bin"
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    return parser


def _fail(error: HashclientError, where: str = "") -> None:
    _say(f"{NAME}: error: {where}{error.message}")
    if error.hint:
        _say(f"hint: {error.hint}")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
