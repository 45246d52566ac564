"""Code, messages and documents contain none of the words that are listed in this module."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT

pytestmark = pytest.mark.docs

#: The beginning of a sentence, of a clause after `:` or `;`, of an item or of a docstring.
BEGINS = r'(?:(?<=[.:;] )|(?<=""")|(?m:^ *(?:#:? )?(?:(?:[-*]|\d+\.) )?))'

#: Patterns for texts that are hard to read, with the plain words. A blank in a pattern means any
#: white space.
HARD = {
    r"(?<![-.])\banew\b(?!\()": "again",
    r"\bhears?\b": "is called with, records",
    r"\bnothing names\b": "unreferenced, unknown",
    r"\bsize of letters\b": "case",
    r"\bbec(ame|omes?) of\b": "the result, the state",
    r"\bm(ade|akes?) up for\b": "does it later, finishes it",
    r"\b(is|are|was|were|be) had\b": "available, found",
    r"\b(is|are|was|were|be|been) (un)?told\b": "is reported, shown, distinguished",
    r"\btells (of|how|that|when|whether|which|who)\b": "shows, says, returns",
    r'"""Tell (by|how|of|when|whether|which)\b': "Return, Recognise",
    r"\basked for alone\b": "only on request",
    r"\bgiv(es|en) away\b": "shows",
    BEGINS + r"What (is|was|has|had|cannot|could|should|comes|stands|match(es|ed))\b": (
        "the name of the thing: a file that is, a record that was, everything that"
    ),
    BEGINS
    + r"Who (has|owns|can|may|wants|reads|makes|knows|asks)\b": "somebody who, a client that",
    r"\b[Ww]hoever\b": "anyone who, the person who, a program that",
    r"\b(files?|it|that|which) (is|was|are|were) taken away\b": "is isolated, is removed",
}
TEXTS = sorted({*DOCUMENTS, *(ROOT / "hashclient").rglob("*.py")})


def spaced(pattern: str) -> str:
    """Let each blank between two words match any white space."""
    return re.sub(r"(?<=[\w)]) (?=[\w(])", r"\\s+", pattern)


def hard_words(text: str) -> list[str]:
    """Return the parts of a text that are hard to read, each with its line and plain words."""
    return [
        f"line {text.count(chr(10), 0, found.start()) + 1}: {found[0]!r}; say: {plain}"
        for pattern, plain in HARD.items()
        for found in re.finditer(spaced(pattern), text)
    ]


def test_hard_words_are_found() -> None:
    text = (
        "It hears of it.\nMade anew; what nothing names.\n--anew, build.anew(index)\nWho is told?\n"
        "- What was read is clean.\n## What was read\n    # Who has a key can\n"
    )
    assert [line.split(";")[0] for line in sorted(hard_words(text))] == [
        "line 1: 'hears'",
        "line 2: 'anew'",
        "line 2: 'nothing names'",
        "line 4: 'is told'",
        "line 5: '- What was'",
        "line 7: '    # Who has'",
    ]


@pytest.mark.slow
def test_no_text_has_hard_words() -> None:
    found = {path.relative_to(ROOT).as_posix(): hard_words(path.read_text()) for path in TEXTS}
    assert {path: lines for path, lines in found.items() if lines} == {}
