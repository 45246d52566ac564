"""The configuration of a web server that lets in the clients of a repository.

For nginx: it has no function of its own that hashes a header with SHA-256, but its module
`secure_link` computes an MD5 of any text, compares it with another and looks at a time, and each
package of nginx has it. A token's id selects the hash to compare with. So the configuration holds
hashes and no token, checks the expiry of each token, and needs no other process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from hashclient.errors import UsageError
from hashclient.provider.clients import TOKEN_PATTERN, Client
from hashclient.system.text import printable

#: The number of tokens that fit into the tables that nginx makes by default.
MANY = 100
_SERVER_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Site(msgspec.Struct, frozen=True):
    """Where the lists are served: a host name, files on the server, and a port."""

    name: str
    public: Path
    certificate: Path
    certificate_key: Path
    port: int = 443


def nginx_clients(clients: Sequence[Client], now: datetime) -> str:
    """Return the part on who may fetch: it changes with each client, and holds no token.

    Tokens that have expired at `now` are left out; later, nginx sees for itself.
    """
    tokens = [(client.name, token) for client in clients for token in client.valid_tokens(now)]
    pattern = TOKEN_PATTERN.replace("(", "(?<lists_token_id>", 1)
    checks = [f'    {t.id} "{t.header_md5},{int(t.expires.timestamp())}";' for _, t in tokens]
    names = [f"    {token.id} {name};" for name, token in tokens]
    # nginx's default suffices for some hundreds; another file may have set it already.
    size = 1 << (8 * len(tokens)).bit_length()
    sizes = f"map_hash_max_size {size};\nmap_hash_bucket_size 256;\n" * (len(tokens) > MANY)
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
            "",
        ]
    )


def nginx_server(site: Site) -> str:
    """Return the part that serves the lists to these clients; it does not change.

    Raises:
        UsageError: a name or a path cannot be written into a configuration of nginx.
    """
    if not _SERVER_NAME.fullmatch(site.name):
        raise UsageError(f"not a host name: {printable(site.name)}")
    return f"""\
server {{
    listen {site.port} ssl;
    server_name {site.name};
    ssl_certificate     {_path(site.certificate)};
    ssl_certificate_key {_path(site.certificate_key)};
    ssl_protocols       TLSv1.2 TLSv1.3;

    secure_link     $lists_check;
    secure_link_md5 $http_authorization;
    if ($secure_link != "1") {{ return 401; }}

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


def _path(path: Path) -> str:
    """Return a path as nginx takes it.

    Raises:
        UsageError: it is not absolute, or has a character with a meaning in nginx.
    """
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or set(text) & set("\"'$\\;{}#"):
        raise UsageError(
            f"cannot be in a configuration of nginx: {printable(path)}",
            hint="give a path from / on, without quotes, `$`, `;`, `#`, braces and backslashes",
        )
    return f'"{text}"'
