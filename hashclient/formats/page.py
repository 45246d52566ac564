"""A page of HTML that loads nothing, and whose policy keeps it from doing so."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib import resources

from hashclient.core.version import __version__
from hashclient.formats.htmltable import Markup, element


def document(title: str, content: Iterable[Markup], script_name: str | None = None) -> str:
    """Return a page that needs nothing else, with a script of this package if one is named."""
    style = _resource("page.css")
    script = "" if script_name is None else _resource(script_name)
    policy = (
        f"default-src 'none'; style-src {_source(style)};"
        + (f" script-src {_source(script)};" if script else "")
        + " base-uri 'none'; form-action 'none'"
    )
    footer = (
        f"Written by hashclient {__version__}. This page holds no content of files and no digests;"
        " it loads nothing and works without a network."
    )
    lines = [
        Markup("<!doctype html>"),
        Markup('<html lang="en">'),
        Markup("<head>"),
        Markup('<meta charset="utf-8">'),
        # The policy counts only for elements after it.
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="robots" content="noindex">'),
        Markup('<meta name="referrer" content="no-referrer">'),
        element("title", f"{title} · hashclient"),
        Markup(f"<style>{style}</style>"),
        Markup("</head>"),
        Markup("<body>"),
        *content,
        element("footer", element("p", footer)),
        Markup(f"<script>{script}</script>" if script else ""),
        Markup("</body>"),
        Markup("</html>"),
    ]
    return "\n".join(lines)


def _resource(name: str) -> str:
    return resources.files("hashclient.formats").joinpath(name).read_text("utf-8")


def _source(text: str) -> str:
    """Return the source in a policy for an inline style or script with exactly this text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
