"""A click context for a command that is examined but not called."""

from __future__ import annotations

from typing import Any

import click

from hashclient.cli.main import cli


def context_of(command: click.Command, **more: Any) -> click.Context:
    """Return a context with the settings of the program.

    click caches the first help option that it makes: a context with other settings would change the
    option for all later calls of the process.
    """
    return click.Context(command, **{**cli.context_settings, **more})
