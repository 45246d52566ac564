"""Man pages: complete, valid for an independent checker, and made from the commands only."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date

import click
import pytest

from docs.manpages.commands import CONFIG_PAGE, data_files, page, pages
from docs.manpages.configuration import config_page
from hashclient.cli.main import COMMANDS, cli
from hashclient.core.errors import ExitCode
from tests.kit import ROOT, environment
from tests.kit.context import context_of

MADE = date(2026, 1, 31)
MANUAL = (ROOT / "docs/operations/configuration.md").read_text()
CONFIG = config_page(MANUAL, MADE)
PAGES = pages(MADE)

needs_mandoc = pytest.mark.skipif(shutil.which("mandoc") is None, reason="there is no mandoc")
each_page = pytest.mark.parametrize("name", PAGES)


def shown(text: str) -> str:
    """Return the plain text of a page: without bold, and with the line breaks of the source."""
    done = subprocess.run(
        ["mandoc", "-Tutf8", "-Owidth=1000"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return re.sub(r".\x08", "", done.stdout)


def options_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from parameter.opts
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from options_of(child)


def test_every_command_has_a_page() -> None:
    assert list(PAGES) == ["hashclient", *(f"hashclient-{name}" for name in COMMANDS)]


@needs_mandoc
@each_page
def test_it_is_valid(name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning"],
        input=PAGES[name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@each_page
def test_it_has_the_sections_that_people_look_for(name: str) -> None:
    headings = re.findall(r"^\.SH (.+)$", PAGES[name], re.MULTILINE)
    expected = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXIT STATUS"]
    expected += ["ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"]
    # COMMANDS needs subcommands, and a group may leave the examples to its subcommands.
    optional = {"COMMANDS", "EXAMPLES"}
    assert headings == [h for h in expected if h not in optional or h in headings]
    assert optional & set(headings)


@needs_mandoc
@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_example_is_in_it(name: str) -> None:
    command = cli.get_command(context_of(cli), name)
    assert command is not None
    text = shown(PAGES[f"hashclient-{name}"])
    for flag in options_of(command):
        assert re.search(rf"^ +(-\w, )?{flag}\b", text, re.MULTILINE), flag
    for line in re.findall(r"^ +(hashclient .+?)(?: \\)?$", command.help or "", re.MULTILINE):
        assert re.sub(r" +", " ", line) in re.sub(r" +", " ", text)


@needs_mandoc
def test_that_of_the_program_has_the_exit_codes_and_the_commands() -> None:
    text = shown(PAGES["hashclient"])
    for code in ExitCode:
        assert re.search(rf"^ +{code.value} +{re.escape(code.meaning)}\.$", text, re.MULTILINE)
    for name in COMMANDS:
        assert f"hashclient-{name}(1)\n" in text


@needs_mandoc
def test_any_help_text_is_shown_unchanged() -> None:
    @click.command("odd")
    @click.option("--back-slash", metavar="'QUOTE", help=".SH not a heading…")
    def odd(**_: object) -> None:
        r"""Say `\fBodd\fR` things.

        .TH begins this paragraph, and 'quotes' end it: a\b ^ ~ -- é…

        'TH begins this one.

        \b
          .nf 'a' \n
            'b'
        """

    # A raw docstring has no real backspace, which click needs.
    odd.help = (odd.help or "").replace("\\b\n", "\b\n", 1)
    parent = click.Context(click.Group(), info_name="hashclient")
    text = shown(page(click.Context(odd, parent, "odd"), MADE))
    for line in (
        r"hashclient-odd - say \fBodd\fR things",
        r".TH begins this paragraph, and 'quotes' end it: a\b ^ ~ -- é…",
        "'TH begins this one.",
        r".nf 'a' \n",
        "  'b'",
        "--back-slash 'QUOTE",
        ".SH not a heading…",
    ):
        assert re.search(rf"^ +{re.escape(line)}$", text, re.MULTILINE), line


def test_the_files_are_where_shells_and_man_look() -> None:
    found = data_files(MADE)
    assert {f"share/man/man1/{name}.1" for name in PAGES} < set(found)
    assert "complete -o nosort -F" in found["share/bash-completion/completions/hashclient"]
    assert found["share/zsh/site-functions/_hashclient"].startswith("#compdef hashclient\n")
    fish = found["share/fish/vendor_completions.d/hashclient.fish"]
    assert "complete --no-files --command hashclient" in fish
    assert all(re.search("_HASHCLIENT_COMPLETE=", t) for p, t in found.items() if "man1" not in p)


@pytest.mark.slow
def test_man_pages_are_made_with_click_alone() -> None:
    """A build has click and the build backend, but not the other dependencies of the commands."""
    program = """
import sys
from datetime import date

class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"click", "docs", "hashclient", *sys.stdlib_module_names}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Block())
from docs.manpages.commands import data_files
for path, text in data_files(date(2026, 1, 31)).items():
    print(path, len(text))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(COVERAGE_PROCESS_CONFIG=""),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "".join(f"{p} {len(t)}\n" for p, t in data_files(MADE).items())


@needs_mandoc
def test_the_page_of_the_configuration_is_valid() -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning"],
        input=CONFIG,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout + done.stderr == ""


@needs_mandoc
def test_the_page_of_the_configuration_has_every_key_and_no_markdown() -> None:
    text = shown(CONFIG)
    keys = re.findall(r"^\| `([a-z_0-9]+)` \|", MANUAL, re.MULTILINE)
    assert len(keys) > 30
    for key in keys:
        assert re.search(rf"^ +{key}\b", text, re.MULTILINE), key
    for sign in ("`", "](", "|", "<!--", "##"):
        assert sign not in text, sign
    assert "[[policy]]\n" in text
    assert CONFIG_PAGE.upper() in text
