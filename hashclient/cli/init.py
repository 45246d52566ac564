"""`init`: pins a provider and its root, the first step on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.core.errors import UsageError
from hashclient.core.patience import ATTEMPTS, TIMEOUT_S
from hashclient.system.files import user_path
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.config.tables import ProviderConfig

_file = existing_path(dir_okay=False)


@click.command("init")
@click.argument("url", required=False)
@click.option(
    "--root",
    "root_file",
    metavar="FILE",
    required=True,
    type=_file,
    help="The provider's root metadata, from a source that you trust.",
)
@click.option(
    "--from",
    "copy",
    metavar="PATH",
    type=existing_path(),
    help="Read this bundle, or this copy of the provider's public/, and use no network. If you "
    "give no URL, each `fetch` needs --from, too.",
)
@click.option(
    "--name",
    metavar="NAME",
    default="main",
    show_default=True,
    help="The name for the provider on this machine.",
)
@click.option(
    "--list",
    "lists",
    multiple=True,
    metavar="NAME",
    help="Fetch this list only. Can be given several times. [default: all]",
)
@click.option("--token-file", metavar="FILE", type=_file, help="File with a bearer token.")
@click.option("--token-env", metavar="VAR", help="Environment variable with a bearer token.")
@click.option("--token-credential", metavar="NAME", help="systemd credential with a bearer token.")
@click.option("--basic-file", metavar="FILE", type=_file, help="File with `user:password`.")
@click.option(
    "--oauth-token-url",
    metavar="URL",
    help="OAuth 2 client credentials: the URL of the token endpoint.",
)
@click.option("--oauth-client-id", metavar="ID", help="OAuth 2: the client's id.")
@click.option(
    "--oauth-secret-file",
    "oauth_client_secret_file",
    metavar="FILE",
    type=_file,
    help="OAuth 2: file with the client's secret.",
)
@click.option(
    "--oauth-secret-env",
    "oauth_client_secret_env",
    metavar="VAR",
    help="OAuth 2: environment variable with the client's secret.",
)
@click.option("--oauth-scope", metavar="SCOPE", help="OAuth 2: the scope to ask for.")
@click.option(
    "--oauth-ca",
    metavar="FILE",
    type=_file,
    help="OAuth 2: CA of the endpoint's certificate (PEM), if not the provider's.",
)
@click.option("--client-cert", metavar="FILE", type=_file, help="Client certificate (PEM) for TLS.")
@click.option(
    "--client-key",
    metavar="FILE",
    type=_file,
    help="The key of the client certificate, if --client-cert does not contain it.",
)
@click.option("--ca", metavar="FILE", type=_file, help="CA of the provider's certificate (PEM).")
@click.option("--proxy", metavar="URL", help="http:// or socks5:// proxy, or `environment`.")
@click.option(
    "--proxy-basic-file", metavar="FILE", type=_file, help="File with the proxy's `user:password`."
)
@click.option(
    "--known-good",
    multiple=True,
    metavar="FILE",
    type=existing_path(exists=True, dir_okay=False),
    help="Digests of files known to be benign: entries with them are excepted, and a generation "
    "that adds many of these entries is refused.",
)
@click.option(
    "--max-churn",
    type=click.FloatRange(0, 1_000_000, min_open=True),
    metavar="SHARE",
    help="Refuse a generation that changes more than this share of the list, for example 0.5.",
)
@click.option(
    "--grace-hours",
    type=click.FloatRange(0, 87_600),
    default=0.0,
    metavar="HOURS",
    help="How long after its expiry a list still counts; at most ten years.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0.05, 3600),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the first byte of an answer.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1, 20),
    default=ATTEMPTS,
    show_default=True,
    metavar="N",
    help="How often to try when the network fails.",
)
@click.option("--allow-http", is_flag=True, help="Accept http://, for a loopback address only.")
@format_option("text", "json")
@pass_app
def command(
    app: App,
    /,
    url: str | None,
    root_file: Path,
    copy: Path | None,
    name: str,
    output_format: str,
    **given: Any,
) -> None:
    """Pin a provider and its root of trust, and check that it works.

    The provider is contacted once; with --from, its exported file is read. The configuration is
    written only if everything verifies. The configuration names the files of secrets, and never
    contains a secret: keep secrets in files that only you can read.

    \b
      hashclient init https://lists.example.org/v1 --root root.json \\
          --token-file /etc/hashclient/token
      hashclient init https://lists.example.org/v1 --root root.json \\
          --client-cert client.pem --client-key client.key --ca ca.pem
      hashclient init --root root.json --from lists.bundle

    Exit codes: 2 wrong options, 4 unreachable, 5 not authorised, 6 the root does not fit the
    provider; all are in `hashclient --help`.
    """
    from hashclient.config.owners import files_named
    from hashclient.fetch.pinning import pin_provider

    if url is None and copy is None:
        raise UsageError(
            "missing argument 'URL'",
            hint="give the provider's address or, without a network, --from",
        )
    provider = _provider(url, given)
    app.refuse_shared(root_file, "root.json")
    for named, key_name in files_named(provider):
        app.refuse_shared(Path(named), key_name)
    offered = pin_provider(app.session, name, provider, root_file, copy)
    document = {
        "provider": name,
        "url": provider.url,
        "lists": offered,
        "config": app.settings.config_path,
    }
    text = f"provider {name} is pinned; it offers: {', '.join(offered) or 'no list yet'}"
    app.show(output_format, document, text)
    if not offered:
        app.warn(
            f"provider {name} offers no list: there is nothing to check files against",
            "ask the provider for a list; `hashclient fetch` gets it as soon as it is offered",
        )
    app.say(f"configuration: {printable(app.settings.config_path)}")
    if offered:
        app.say("next: hashclient fetch" if url else "next: hashclient fetch --from PATH")


def _provider(url: str | None, given: Mapping[str, Any]) -> ProviderConfig:
    """Return the provider for config.toml; `given` maps keys of [providers] to option values.

    Raises:
        UsageError: an option of OAuth 2 is missing.
    """
    from hashclient.config.tables import OAuthConfig, ProviderConfig

    values = {key: _in_file(value) for key, value in given.items()}
    of_oauth = [key for key in values if key.startswith("oauth_")]
    oauth = {key.removeprefix("oauth_"): values.pop(key) for key in of_oauth}
    is_oauth = any(oauth.values())
    if is_oauth and not (oauth["token_url"] and oauth["client_id"]):
        raise UsageError(
            "oauth needs both --oauth-token-url and --oauth-client-id",
            hint="give both, and --oauth-secret-file or --oauth-secret-env",
        )
    values["lists"] = values["lists"] or None
    address = None if url is None else url.rstrip("/")
    endpoint = OAuthConfig(**oauth) if is_oauth else None
    return ProviderConfig(url=address, root_sha256="", oauth=endpoint, **values)


def _in_file(value: Any) -> Any:
    """Return a value in the form for config.toml, where all paths are absolute."""
    if isinstance(value, tuple):
        return tuple(map(_in_file, value))
    return str(user_path(str(value)).absolute()) if isinstance(value, Path) else value
