"""The quick start: its commands run as written and end with the exit codes that it names."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, free_port, marked_blocks, run_script

pytestmark = pytest.mark.docs

QUICKSTART = DOCS / "quickstart.md"
EXPECTED_EXIT = re.compile(r"^(?P<command>\S.*?) +# exit (?P<code>\d+)$", re.MULTILINE)


def checked(match: re.Match[str]) -> str:
    """Return a command that ends with 0 if the given command ends with the expected exit code."""
    command, code = match["command"], match["code"]
    return f"c=0; {command} || c=$?; [ $c = {code} ] || {{ echo 'not exit {code}:' $c; exit 1; }}"


@pytest.mark.slow
def test_the_commands_end_as_they_should(tmp_path: Path) -> None:
    script = EXPECTED_EXIT.sub(checked, "".join(marked_blocks(QUICKSTART, "quickstart")))
    assert script.count("not exit") == 8
    (cron,) = marked_blocks(QUICKSTART, "cron")
    variable, line = cron.replace("/srv/trial", str(tmp_path)).splitlines()
    command = line.split(maxsplit=5)[5]
    script += f"unset HASHCLIENT_STATE_DIR\necho CRON\n{variable} sh -c '{command}'\n"
    # When the script cannot start a scan, it does not show the report of the day before.
    script += "mv state/lists state/gone; echo CHECK; ./check.sh files/other.txt || echo $?\n"
    script += f"echo CRON\n{variable} sh -c '{command.replace(' --fetch', '')}' || true\n"
    script = f"set -e\n{script}"
    code, output = run_script(script.replace("8443", str(free_port())), tmp_path)
    assert code == 0, output
    before, mail, failed_mail = output.split("CRON\n")
    mail, failed_check = mail.split("CHECK\n")
    assert "FOUND:\n" in before
    assert re.match(r"match     files/listed\.txt  \[[a-z0-9]{10}\]  baseline 1-1 ", mail)
    assert mail.endswith("exit 10: 1 match\n")
    assert "no verdict, exit code 8\n" in failed_check and failed_check.endswith("\n8\n")
    assert '"exit_code": 8}' in failed_check and "listed.txt" not in failed_check
    assert "exit 8: " in failed_mail and "listed.txt" not in failed_mail


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_and_nothing_waits_for_ever(tmp_path: Path) -> None:
    script = marked_blocks(QUICKSTART, "quickstart")[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _, output = run_script(f"{script.replace('8443', port)}\necho ON", tmp_path)
    assert f"cannot listen at 127.0.0.1:{port}" in output
    assert output.endswith("ON\n")
