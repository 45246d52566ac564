"""The man page of config.toml, made from `docs/operations/configuration.md`.

A test compares `docs/operations/configuration.md` with the code, so the man page agrees with the
code as well. The manual is plain Markdown: headings, paragraphs, tables of two columns, and fenced
examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from docs.manpages.commands import CONFIG_PAGE, NAME, bold, bold_quoted, example
from hashclient.core.version import __version__

_COMMENT = re.compile(r"<!--.*?-->\n", re.DOTALL)
_LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")
_BLOCKS = re.compile(r"(```.*?^```$|^#+ .*?$)", re.MULTILINE | re.DOTALL)
#: The bar that ends a cell of a table; a bar within a cell is written `\|`.
_BAR = re.compile(r"(?<!\\)\|")


def config_page(manual: str, made: date) -> str:
    """Return the man page; `manual` is the text of `docs/operations/configuration.md`."""
    _title, _, text = manual.partition("\n")
    lines = [
        f'.TH {CONFIG_PAGE.upper()} 5 {made:%Y-%m-%d} "{NAME} {__version__}" "{NAME} manual"',
        ".SH NAME",
        rf"{CONFIG_PAGE} \- config.toml, the configuration of {NAME}",
        ".SH DESCRIPTION",
        *_sections(_COMMENT.sub("", text)),
        ".SH SEE ALSO",
        f"{bold(NAME)}(1)",
    ]
    return re.sub(r"^(\.S[HS] .*)\n\.PP$", r"\1", "\n".join(lines), flags=re.MULTILINE) + "\n"


def _sections(text: str) -> Iterator[str]:
    for block in _BLOCKS.split(text):
        if block.startswith("```"):
            yield from example(block.split("\n")[1:-1])
        elif block.startswith("#"):
            yield f".SS {_plain(block.lstrip('# '))}"
        else:
            for paragraph in re.split(r"\n{2,}", block.strip("\n")):
                yield from _paragraph(paragraph)


def _paragraph(text: str) -> Iterator[str]:
    if text.startswith("|"):
        # The first two lines of a table, its heading and a rule, are skipped.
        for row in text.split("\n")[2:]:
            _, key, what, _ = _BAR.split(row)
            yield from (".TP", _plain(key), _plain(what))
    elif text:
        yield from (".PP", _plain(text))


def _plain(text: str) -> str:
    """Return a line of Markdown as roff: code is bold, and a link becomes its text."""
    return bold_quoted(_LINK.sub(r"\1", text.replace(r"\|", "|")))
