"""Writes the configuration of nginx or Apache that lets the clients of a repository fetch.

The configuration contains hashes of tokens, but no token. The configuration finds the client by the
hash of the token in a request, and checks the expiry of the token and the lists that the client may
fetch, without another process. The hashes are MD5: without extra modules, nginx and Apache cannot
compute a SHA-256 of a header, but nginx can compute an MD5 with its module `secure_link`, which
each nginx package contains, and Apache can compute an MD5 in expressions. A client without a token
gets the status 401, a client with a token for other lists gets the status 403.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from hashclient.core.errors import UsageError
from hashclient.provider.clients import TOKEN_PATTERN, Client, Token
from hashclient.system.text import printable
from hashclient.trust.additions import NOTICES

#: The number of rows that always fit into nginx's `map` tables of default size.
MANY = 100
#: Apache compares the expiry of tokens with the local time, which may be behind UTC by this time.
#: So the configuration sets an earlier expiry: Apache refuses a token up to a day before its
#: expiry, but never accepts a token after its expiry.
_BEHIND = timedelta(hours=12)
_SERVER_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
#: The paths that every client may fetch. Slashes may be doubled, because a server may be configured
#: to keep double slashes.
_FOR_ALL = (
    rf"/+metadata/+(?:timestamp|[0-9]+\.(?:root|targets|snapshot|{NOTICES}))\.json$"
    rf"|/+targets/+{NOTICES}/"
)
#: A name that no list can have, used for paths that belong to no list and are not in `_FOR_ALL`. A
#: client that may fetch only some lists cannot fetch these paths.
_NO_LIST = "/"


class Site(msgspec.Struct, frozen=True):
    """The site that serves the lists: a host name, paths of files on the server, and a port."""

    name: str
    public: Path
    certificate: Path
    certificate_key: Path
    port: int = 443


def nginx_clients(clients: Sequence[Client], now: datetime) -> str:
    """Return the part of nginx's configuration with the tokens, which changes with each client.

    Tokens that have expired at `now` are left out. For all other tokens, nginx checks the expiry at
    each request.
    """
    tokens = [*_tokens(clients, now)]
    pattern = TOKEN_PATTERN.replace("(", "(?<lists_token_id>", 1)
    checks = [f'    {t.id} "{t.header_md5},{int(t.expires.timestamp())}";' for _, t in tokens]
    names = [f"    {token.id} {client.name};" for client, token in tokens]
    limited = [(client, token) for client, token in tokens if client.lists is not None]
    ids = [f"    {token.id} {token.id};" for _, token in limited]
    allowed = [f'    "{t.id} {name}" 0;' for client, t in limited for name in client.lists or ()]
    # The size of nginx's tables is set only if there are many rows, because another file of the
    # configuration may have set the size already, and nginx refuses a second setting.
    rows = max(len(tokens), len(allowed))
    size = 1 << (8 * rows).bit_length()
    sizes = f"map_hash_max_size {size};\nmap_hash_bucket_size 256;\n" * (rows > MANY)
    return "\n".join(
        [
            "# Made by `hashclient provider server-config nginx`: hashes of tokens, and no token.",
            f"{sizes}map $http_authorization $lists_token {{",
            '    default "";',
            f'    "~^Bearer {pattern}$" $lists_token_id;',
            "}",
            "map $lists_token $lists_check {",
            '    default "";',
            *checks,
            "}",
            "map $lists_token $lists_client {",
            '    default "-";',
            *names,
            "}",
            "# Tokens that are for some lists only, the list that is asked for, and both together.",
            "map $lists_token $lists_some {",
            '    default "";',
            *ids,
            "}",
            "map $uri $lists_wanted {",
            f'    default "{_NO_LIST}";',
            f'    "~^(?:{_FOR_ALL})" "";',
            r'    "~^/+metadata/+[0-9]+\.(?<lists_role>[^/]+)\.json$" $lists_role;',
            r'    "~^/+targets/+lists/+(?<lists_folder>[^/]+)/" $lists_folder;',
            "}",
            'map "$lists_some $lists_wanted" $lists_denied {',
            "    default 1;",
            '    "~^ " 0;',
            '    "~^[^ ]* $" 0;',
            *allowed,
            "}",
            "",
        ]
    )


def nginx_server(site: Site) -> str:
    """Return the part of nginx's configuration that serves the lists and needs no later change.

    Raises:
        UsageError: a name or a path cannot be written into a configuration.
    """
    return f"""\
server {{
    listen {site.port} ssl;
    server_name {_name(site)};
    ssl_certificate     {_path(site.certificate)};
    ssl_certificate_key {_path(site.certificate_key)};
    ssl_protocols       TLSv1.2 TLSv1.3;

    secure_link     $lists_check;
    secure_link_md5 $http_authorization;
    if ($secure_link != "1") {{ return 401; }}
    if ($lists_denied) {{ return 403; }}

    root             {_path(site.public)};
    default_type     application/octet-stream;
    disable_symlinks on;
    gzip             off;
    add_header       Cache-Control "private, max-age=604800";

    location = /metadata/timestamp.json {{
        add_header Cache-Control "private, max-age=60";
    }}
}}
"""


def apache_clients(clients: Sequence[Client], now: datetime) -> str:
    """Return the part of Apache's configuration with the tokens, for use in a virtual host."""
    lines = [
        "# Made by `hashclient provider server-config apache`: hashes of tokens, and no token.",
        "SetEnvIfExpr \"md5(req('Authorization')) =~ /^(.+)$/\" LISTS_HASH=$1",
    ]
    for client, token in _tokens(clients, now):
        md5 = base64.urlsafe_b64decode(f"{token.header_md5}==").hex()
        until = f"{token.expires.astimezone(UTC) - _BEHIND:%Y%m%d%H%M%S}"
        only = "" if client.lists is None else f" LISTS_ONLY=,{','.join(client.lists)},"
        lines.append(
            f"SetEnvIfExpr \"reqenv('LISTS_HASH') == '{md5}' && %{{TIME}} < '{until}'\""
            f" LISTS_CLIENT={client.name}{only}"
        )
    return "\n".join([*lines, ""])


def apache_server(site: Site, clients: str) -> str:
    """Return an Apache virtual host that serves the lists, with the part `clients`.

    Raises:
        UsageError: a name or a path cannot be written into a configuration.
    """
    return rf"""<VirtualHost *:{site.port}>
ServerName {_name(site)}
SSLEngine on
SSLCertificateFile    {_path(site.certificate)}
SSLCertificateKeyFile {_path(site.certificate_key)}
SSLProtocol           -all +TLSv1.2 +TLSv1.3

{clients}
RewriteEngine On
RewriteCond %{{ENV:LISTS_CLIENT}} =""
RewriteRule ^ - [R=401,L]
# A token that is for some lists only, and the list that is asked for.
RewriteRule ^ - [E=LISTS_WANTED:{_NO_LIST}]
RewriteRule ^/+metadata/+[0-9]+\.([^/]+)\.json$ - [E=LISTS_WANTED:$1]
RewriteRule ^/+targets/+lists/+([^/]+)/ - [E=LISTS_WANTED:$1]
RewriteRule ^(?:{_FOR_ALL}) - [E=!LISTS_WANTED]
RewriteCond %{{ENV:LISTS_ONLY}} !=""
RewriteCond %{{ENV:LISTS_WANTED}} !=""
RewriteCond %{{ENV:LISTS_ONLY}}|%{{ENV:LISTS_WANTED}} !,([^,|]+),[^|]*\|\1$
RewriteRule ^ - [F,L]

DocumentRoot {_path(site.public)}
<Directory {_path(site.public)}>
    Options None
    AllowOverride None
    Require all granted
    ForceType application/octet-stream
    Header set Cache-Control "private, max-age=604800"
</Directory>
<Location "/metadata/timestamp.json">
    Header set Cache-Control "private, max-age=60"
</Location>
</VirtualHost>
"""


def _nginx(clients: Sequence[Client], now: datetime, site: Site | None) -> str:
    first = nginx_clients(clients, now)
    return first if site is None else f"{first}\n{nginx_server(site)}"


def _apache(clients: Sequence[Client], now: datetime, site: Site | None) -> str:
    first = apache_clients(clients, now)
    return first if site is None else apache_server(site, first)


#: For each kind of server, the function that returns the configuration for the clients with the
#: tokens that are valid at a time. If a site is given, the configuration also serves the lists.
SERVERS: Mapping[str, Callable[[Sequence[Client], datetime, Site | None], str]] = {
    "nginx": _nginx,
    "apache": _apache,
}


def _tokens(clients: Sequence[Client], now: datetime) -> Iterator[tuple[Client, Token]]:
    for client in clients:
        for token in client.valid_tokens(now):
            yield client, token


def _name(site: Site) -> str:
    if not _SERVER_NAME.fullmatch(site.name):
        raise UsageError(f"not a host name: {printable(site.name)}")
    return site.name


def _path(path: Path) -> str:
    """Return a path that can be written into the configuration of nginx or Apache.

    Raises:
        UsageError: the path is not absolute, or has a character with a special meaning in the
            configuration.
    """
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or set(text) & set("\"'$\\;{}#%"):
        raise UsageError(
            f"cannot be in a configuration of a web server: {printable(path)}",
            hint="give a path from / on, without quotes, `$`, `%`, `;`, `#`, braces, backslashes",
        )
    return f'"{text}"'
