"""`provider serve` runs a server for trials; `server-config` configures nginx or Apache."""

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
    help="A loopback address; port 0 takes a free port.",
)
@format_option("text", "json")
@click.option("-v", "--verbose", is_flag=True, help="Log requests to stderr.")
@pass_app
def serve(app: App, directory: Path, bind: str, output_format: str, verbose: bool) -> None:
    """Serve REPO on this machine, to test a client.

    The server uses HTTPS on loopback only, with a new certificate and a new bearer token. When it
    is ready, it prints its address; Ctrl-C ends it. For real clients, publish REPO/public with a
    web server.

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
            # The line shows the options for a client that is started in another terminal.
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
        help="The path of public/ on the web server. [default: REPO/public]",
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
        help="The key of the certificate.",
    ),
    click.option(
        "--port",
        type=click.IntRange(1, 65535),
        default=443,
        show_default=True,
        metavar="N",
        help="The port of the web server.",
    ),
    click.option(
        "--only-clients",
        is_flag=True,
        help="Write only the clients and no `server` block, for a server that exists already.",
    ),
    click.option(
        "--output",
        type=existing_path(dir_okay=False),
        metavar="FILE",
        help="Write the configuration to FILE, readable only for its owner. [default: stdout]",
    ),
)


@server_config.command("nginx")
@repo_argument
@_site_options
@pass_app
def nginx(app: App, /, directory: Path, **given: Any) -> None:
    """Write a configuration for nginx, for the clients of REPO only.

    The configuration has hashes of tokens, but no token. It refuses a token that has expired, and
    lets a client fetch its lists only. After each change of clients, write the configuration again
    and reload nginx: until then, a revoked client can still fetch.

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
    """Write a configuration for Apache, for the clients of REPO only.

    Apache needs the modules ssl, rewrite, setenvif and headers. Apache compares tokens with its
    local time: so a token may be refused up to a day before it expires, but an expired token is
    never accepted.

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
    """Write the configuration of a web server, and show the command `reload` as the next step."""
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
        app.say(f"written: {printable(output)}; make the web server read it with `{reload}`")
    if not any(client.valid_tokens(app.now()) for client in clients):
        app.warn("nobody may fetch yet", "`hashclient provider client add` adds a client")
