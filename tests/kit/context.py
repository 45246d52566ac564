"""A context of click for a command that is looked at and not called."""

from __future__ import annotations

from typing import Any

import click

from hashclient.cli.main import cli


def context_of(command: click.Command, **more: Any) -> click.Context:
    """Return a context with the settings of the program.

    click keeps the option for help that it makes first: in another context it would be another
    option, in all later calls of the process as well.
    """
    return click.Context(command, **{**cli.context_settings, **more})
