"""HTML that no text can break: elements are made by a function, and text is always escaped."""

from __future__ import annotations

import html

from hashclient.formats.fields import words


class Markup(str):
    """Text that is HTML already; every other text is plain."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | bool | None) -> Markup:
    """Return an element; a child that is not Markup is text.

    An attribute of True has no value; one of False or None is left out. Underscores in names stand
    for dashes, and the last one for nothing, so that `class_` and `for_` can be written.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        key = key.removesuffix("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        elif value not in (None, False):
            parts.append(f' {key}="{text(str(value))}"')
    parts.append(f">{joined(*children)}</{name}>")
    return Markup("".join(parts))


def joined(*parts: str) -> Markup:
    """Return `parts` one after the other; those that are not Markup are text."""
    return Markup("".join(part if isinstance(part, Markup) else text(part) for part in parts))


def text(plain: str) -> Markup:
    """Return `plain` as HTML; characters that a page cannot show are escaped as on a terminal."""
    return Markup(html.escape(words(plain)))
