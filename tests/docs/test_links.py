"""Every link in a document has a target, and none contains a path of the author's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCUMENTS, ROOT

pytestmark = pytest.mark.docs

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as code hosts make them."""
    headings = (re.sub(r"[`*]", "", h).lower() for h in HEADING.findall(prose(document)))
    return {re.sub(r"[^\w -]", "", h).replace(" ", "-") for h in headings}


def local_links(document: Path) -> Iterator[tuple[str, str]]:
    for link in LINK.findall(prose(document)):
        if not link.startswith(("https://", "http://")):
            path, _, anchor = link.partition("#")
            yield path, anchor


@each_document
def test_every_link_leads_somewhere(document: Path) -> None:
    for path, anchor in local_links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        assert target.is_relative_to(ROOT), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


@each_document
def test_no_path_of_a_developers_machine(document: Path) -> None:
    text = document.read_text()
    assert str(ROOT) not in text
    assert "/home/" not in text
