"""Publishes the status of this machine at the end of commands that change the status.

A failure to publish is a warning and never changes the exit code of the command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App
from hashclient.cli.output import Terminated, interrupts
from hashclient.core.errors import HashclientError

if TYPE_CHECKING:
    from hashclient.status.status import Status


def publish_after(app: App) -> None:
    """Publish the status when this command ends or fails, if `publish` in config.toml is set."""
    where = app.settings.config.fleet.publish
    if where is not None:
        click.get_current_context().call_on_close(lambda: _publish_now(app, where))


def _publish_now(app: App, where: str) -> None:
    # A user who has interrupted the command does not want to wait for the publication.
    if interrupts:
        return
    from hashclient.client.client import Client

    try:
        with _warned(app):
            publish_status(app, Client(app.session).status(), where)
    except (KeyboardInterrupt, Terminated):
        app.warn("the status was not published: interrupted")


def publish_status(app: App, status: Status, where: str) -> None:
    """Publish a status; print a warning if it cannot be published.

    `hashclient status` shows the number of failed attempts since the last success.
    """
    from hashclient.fleet.making import publish

    with _warned(app):
        app.debug(f"the status is published: {publish(app.session, status, where)}")


@contextlib.contextmanager
def _warned(app: App) -> Iterator[None]:
    """Print a warning about an error in the `with` block."""
    try:
        yield
    except HashclientError as error:
        app.warn(f"the status was not published: {error.message}", error.hint)
    except OSError as error:
        app.warn(f"the status was not published: {error.strerror or error}")
