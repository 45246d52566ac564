"""`provider serve` and `provider server-config`: web servers for the clients of a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.options import together
from hashclient.cli.output import Terminated
from hashclient.cli.provider_options import repo_argument, repository_at
from hashclient.core.errors import UsageError
from hashclient.system.text import printable


@click.command("serve")
@repo_argument
@click.option(
    "--bind",
    metavar="HOST:PORT",
    default="127.0.0.1:0",
    show_default=True,
    help="A loopback address; port 0 takes a free one.",
)
@format_option("text", "json")
@click.option("-v", "--verbose", is_flag=True, help="Log requests to stderr.")
@pass_app
def serve(app: App, directory: Path, bind: str, output_format: str, verbose: bool) -> None:
    """Serve REPO on this machine, to try a client against it.

    HTTPS with a certificate and a bearer token made for it, on loopback only. One line says
    where, once it listens; Ctrl-C ends it. For others, put REPO/public behind a web server.

    \b
      hashclient provider serve /srv/lists --bind 127.0.0.1:8443
    """
    from hashclient.provider.server import open_server

    def log(text: str) -> None:
        if verbose:
            click.echo(text, err=True)
        else:
            app.debug(text)

    try:
        with open_server(repository_at(app, directory), bind, clock=app.now, log=log) as opened:
            server, at = opened
            # For a client that is started elsewhere.
            ca, token = (str(path.absolute()) for path in (at.ca, at.token_file))
            text = f"serving {at.url} (--ca {printable(ca)} --token-file {printable(token)})"
            app.show(output_format, {"url": at.url, "ca": ca, "token_file": token}, text)
            server.serve_forever()
    except (KeyboardInterrupt, Terminated):
        app.debug("stopped")


@click.group("server-config", short_help="Write the configuration of a web server.")
def server_config() -> None:
    """Write the configuration of a web server that serves a repository to its clients.

    \b
      hashclient provider server-config nginx /srv/lists \\
            --server-name lists.example.org --output /etc/nginx/conf.d/lists.conf
    """


_site_options = together(
    click.option("--server-name", metavar="NAME", help="The host name of the server."),
    click.option(
        "--public",
        type=existing_path(),
        metavar="DIR",
        help="Where public/ is on the web server. [default: REPO/public]",
    ),
    click.option(
        "--certificate",
        type=existing_path(),
        metavar="FILE",
        default="/etc/ssl/lists/server.pem",
        show_default=True,
        help="The certificate of the web server.",
    ),
    click.option(
        "--certificate-key",
        type=existing_path(),
        metavar="FILE",
        default="/etc/ssl/lists/server.key",
        show_default=True,
        help="And its key.",
    ),
    click.option(
        "--port",
        type=click.IntRange(1, 65535),
        default=443,
        show_default=True,
        metavar="N",
        help="Where it listens.",
    ),
    click.option(
        "--only-clients",
        is_flag=True,
        help="Write only the clients and no `server`, for a server that exists already.",
    ),
    click.option(
        "--output",
        type=existing_path(dir_okay=False),
        metavar="FILE",
        help="Replace FILE by it, for its owner alone to read. [default: stdout]",
    ),
)


@server_config.command("nginx")
@repo_argument
@_site_options
@pass_app
def nginx(app: App, /, directory: Path, **given: Any) -> None:
    """Write a configuration for nginx that lets in the clients of REPO.

    It holds hashes of tokens and no token, ends each token in time by itself, and keeps a client to
    its lists. Write it again after each change of clients, and let nginx read it: a client that was
    revoked gets in until then.

    \b
      hashclient provider server-config nginx /srv/lists \\
            --server-name lists.example.org --output /etc/nginx/conf.d/lists.conf
      nginx -t && nginx -s reload
    """
    _write_config(app, directory, "nginx", "nginx -s reload", **given)


@server_config.command("apache")
@repo_argument
@_site_options
@pass_app
def apache(app: App, /, directory: Path, **given: Any) -> None:
    """Write a configuration for Apache that lets in the clients of REPO, as `nginx` does.

    It needs the modules ssl, rewrite, setenvif and headers. Tokens end in Apache's local time: up
    to a day before they expire, and never later.

    \b
      hashclient provider server-config apache /srv/lists \\
            --server-name lists.example.org \\
            --output /etc/apache2/sites-enabled/lists.conf
      apachectl configtest && apachectl graceful
    """
    _write_config(app, directory, "apache", "apachectl graceful", **given)


def _write_config(
    app: App,
    directory: Path,
    kind: str,
    reload: str,
    *,
    server_name: str | None,
    public: Path | None,
    certificate: Path,
    certificate_key: Path,
    port: int,
    only_clients: bool,
    output: Path | None,
) -> None:
    """Write the configuration of a kind of web server, which reads it by the command `reload`."""
    from hashclient.provider.access import all_clients
    from hashclient.provider.serverconfig import SERVERS, Site
    from hashclient.system.outputs import replaced_file

    if only_clients == (server_name is not None):
        raise UsageError("give either --server-name or --only-clients")
    repository = repository_at(app, directory)
    clients, site = all_clients(repository), None
    if server_name is not None:
        where = (public or repository.public).absolute()
        site = Site(server_name, where, certificate.absolute(), certificate_key.absolute(), port)
    text = SERVERS[kind](clients, app.now(), site)
    if output is None:
        app.out(text.rstrip("\n"))
    else:
        with replaced_file(output) as stream:
            stream.write(text.encode())
        app.say(f"written: {printable(output)}; let the web server read it with `{reload}`")
    if not any(client.valid_tokens(app.now()) for client in clients):
        app.warn("nobody may fetch yet", "`hashclient provider client add` lets a client in")
