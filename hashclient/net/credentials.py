"""How to reach a provider: its address, the credential, and the TLS settings.

`Access` contains the settings of the configuration; only `load_secrets` and `tls_context` read
files and the environment. `Endpoint` has the rules for addresses: which base address is acceptable,
and which addresses are below the base address. This module checks settings before the first
connection; `client` sends bytes. This module imports no large package, because the configuration
imports it.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import msgspec

from hashclient.core.errors import ConfigError, VerificationError
from hashclient.net.peer import PROVIDER, Peer
from hashclient.system.files import read_regular
from hashclient.system.secrets import CREDENTIALS_DIRECTORY, forbidden_bits, read_secret
from hashclient.system.text import printable

#: With this value of `proxy`, the environment variable HTTPS_PROXY or ALL_PROXY names the proxy,
#: except for hosts in NO_PROXY.
FROM_ENVIRONMENT = "environment"
DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080}
SHOWN_URL_CHARS = 200

#: The largest PEM file in bytes; a bundle of authorities, such as the trust store of a system, has
#: about 200 kB.
MAX_PEM_BYTES = 16 << 20
# A pattern for an address: scheme, host (a name or an IPv6 address in brackets), port and path. An
# address with a user name, a query or a fragment does not match the pattern `_URL`.
_URL = re.compile(
    r"(?P<scheme>[a-z0-9]+)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)?",
    re.ASCII | re.IGNORECASE,
)
# A pattern for a part of a path: RFC 3986 `pchar` without percent-encoding, because the path of a
# configured address is sent as it is written.
_PATH_PART = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@-]+", re.ASCII)
# A pattern for a part of a path that may have percent-encoding, but no encoded control characters.
# In this pattern, an escaped slash or question mark belongs to its part of the path.
_ESCAPED_PART = re.compile(
    r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%(?:[2-6][0-9A-F]|7[0-9A-E]|[89A-F][0-9A-F]))+",
    re.ASCII | re.IGNORECASE,
)
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_BEARER = re.compile(r"[\x21-\x7e]+", re.ASCII)


class OAuth(msgspec.Struct, frozen=True):
    """The client-credentials grant (RFC 6749, 4.4): token endpoint, client and secret.

    The token endpoint may have another origin than the provider. The token endpoint receives only
    the id and the secret of the client. `ca`: the certificate authority of the token endpoint; None
    means the authority of the provider.
    """

    token_url: str
    client_id: str
    client_secret_file: Path | None = None
    client_secret_env: str | None = None
    scope: str | None = None
    ca: Path | None = None


class Access(msgspec.Struct, frozen=True):
    """How to reach a provider or a reporting service; the settings are checked without I/O.

    At most one setting of `token_file`, `token_env`, `token_credential`, `basic_file` and `oauth`
    is set. `token_credential`: the name of a systemd credential. `basic_file`: a file that contains
    `user:password`. A client certificate can be combined with any other credential; without
    `client_key`, the file `client_cert` must also contain the key. `ca`: a file of certificate
    authorities; None means the trust store of the system. `proxy`: an http:// or socks5:// address,
    or `FROM_ENVIRONMENT`. Without `proxy`, proxies of the environment are not used. `allow_http`:
    accept http:// addresses, on loopback only. `peer`: the name of the server in messages.

    Raises:
        ConfigError: the settings contradict each other, or an address is not acceptable.
    """

    url: str
    token_file: Path | None = None
    token_env: str | None = None
    token_credential: str | None = None
    basic_file: Path | None = None
    oauth: OAuth | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    ca: Path | None = None
    proxy: str | None = None
    proxy_basic_file: Path | None = None
    allow_http: bool = False
    peer: Peer = PROVIDER

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        base = parse_endpoint(self.url, f"{self.peer.name} URL", allow_http=self.allow_http)
        kinds = {
            "token_file": self.token_file,
            "token_env": self.token_env,
            "token_credential": self.token_credential,
            "basic_file": self.basic_file,
            "oauth": self.oauth,
        }
        chosen = [name for name, value in kinds.items() if value is not None]
        if len(chosen) > 1:
            raise ConfigError(
                f"more than one credential for {base.origin}: {', '.join(chosen)}",
                hint="keep one of them",
            )
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError(
                f"client_key without client_cert for {base.origin}",
                hint="set client_cert, too: the key alone proves nothing",
            )
        if self.oauth is not None:
            self._check_oauth(self.oauth)
        if self.proxy is not None:
            if base.scheme == "http":
                # A proxy could read the credential in a plain http request.
                raise ConfigError(f"a proxy cannot be used with http: {base.origin}")
            proxy = find_proxy(self.proxy, base)
            if self.proxy_basic_file is not None and proxy and proxy.scheme != "http":
                raise ConfigError("proxy_basic_file needs an http:// proxy")
        elif self.proxy_basic_file is not None:
            raise ConfigError("proxy_basic_file without proxy")

    def _check_oauth(self, oauth: OAuth) -> None:
        parse_endpoint(oauth.token_url, "token URL", allow_http=self.allow_http)
        if (oauth.client_secret_file is None) == (oauth.client_secret_env is None):
            raise ConfigError(
                "oauth needs client_secret_file or client_secret_env, and not both",
                hint="set exactly one of them",
            )


class Endpoint(msgspec.Struct, frozen=True):
    """A parsed address: scheme and host in lower case (IPv6 in brackets), port and plain path."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Return scheme, host and port; the default port of the scheme is left out."""
        if self.port == DEFAULT_PORTS[self.scheme]:
            return f"{self.scheme}://{self.host}"
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return the address in its canonical form."""
        return self.origin + self.path

    def locate(self, url: str) -> Endpoint:
        """Parse `url`, and return it if it is equal to this address or below it.

        Raises:
            VerificationError: the address is on another origin, or above the base path, or its path
                is not plain (`..`, also escaped, `?`, `#`, a backslash, a control or a non-ASCII
                character). Other escapes are accepted, because the names of TUF roles are escaped
                in addresses.
        """
        found = _parse(url, _ESCAPED_PART)
        # A base address without a slash at its end also stands for a directory.
        directory = self.path.removesuffix("/") + "/"
        if (
            found is not None
            and found.origin == self.origin
            and (found.path == self.path or found.path.startswith(directory))
        ):
            return found
        raise VerificationError(
            f"address refused: {printable(url[:SHOWN_URL_CHARS])}",
            hint=f"only plain paths below {self.url} are fetched",
        )


def parse_endpoint(url: str, what: str, *, allow_http: bool = False) -> Endpoint:
    """Parse an address from the configuration; `what` is the name of the setting in messages.

    Raises:
        ConfigError: the address is not an https address (http only for loopback, and only if
            allowed); or it has a user name, a query, a fragment or an unusual path. The message
            does not repeat the address, because it may contain a password.
    """
    endpoint = _parse(url)
    if endpoint is None or endpoint.scheme not in ("http", "https"):
        raise ConfigError(
            f"{what} is not acceptable",
            hint="write https://host[:port]/path, without user name, query, fragment or escapes",
        )
    if endpoint.scheme == "http" and not (allow_http and is_loopback(endpoint.host)):
        raise ConfigError(
            f"{what} is not https: {endpoint.origin}",
            hint="plain http is for tests: a loopback host, and --allow-http or `allow_http`",
        )
    return endpoint


def find_proxy(address: str, base: Endpoint) -> Endpoint | None:
    """Return the proxy at `address` for `base`; None if the environment names no proxy.

    Raises:
        ConfigError: `parse_proxy` refuses the address of the proxy.
    """
    if address != FROM_ENVIRONMENT:
        return parse_proxy(address)
    from urllib.request import getproxies, proxy_bypass

    named = getproxies()
    url = named.get("https") or named.get("all")
    return None if url is None or proxy_bypass(base.host.strip("[]")) else parse_proxy(url)


def parse_proxy(url: str) -> Endpoint:
    """Parse the address of a proxy.

    Raises:
        ConfigError: the address is neither http:// nor socks5://, or has a user name or a path.
    """
    endpoint = _parse(url)
    if endpoint is None or endpoint.scheme not in ("http", "socks5") or endpoint.path != "/":
        raise ConfigError(
            "proxy address is not acceptable",
            hint="http://host:port or socks5://host:port; a password goes into proxy_basic_file",
        )
    return endpoint


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an IP address, is a loopback host by its text."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _parse(url: str, part_pattern: re.Pattern[str] = _PATH_PART) -> Endpoint | None:
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme, host = match["scheme"].lower(), match["host"].lower()
    if scheme not in DEFAULT_PORTS:
        return None
    port = DEFAULT_PORTS[scheme] if match["port"] is None else int(match["port"])
    path = match["path"] or "/"
    parts = path[1:].removesuffix("/").split("/") if path != "/" else []
    plain = all(part_pattern.fullmatch(p) and unquote(p) not in (".", "..") for p in parts)
    labels = host.split(".")
    if not plain or not 0 < port < 65536 or any(not 0 < len(label) < 64 for label in labels):
        return None
    if not _is_host(host, labels):
        return None
    return Endpoint(scheme, host, port, path)


def _is_host(host: str, labels: Sequence[str]) -> bool:
    """Return whether httpx accepts a host: checks IP addresses, and encoded international names."""
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif all(map(str.isdecimal, labels)) and len(labels) == 4:
            ipaddress.IPv4Address(host)
        elif host.startswith("xn--"):  # httpx decodes only names that begin with `xn--`
            import httpx  # importing httpx takes long, and other hosts do not need it

            return bool(httpx.URL(f"https://{host}/").host)
    except ValueError:  # the package that decodes names raises UnicodeError, which is a ValueError
        return False
    return True


@dataclass(frozen=True)
class Secrets:
    """The secrets that `load_secrets` has read, which are never shown, compared or stored."""

    authorization: str | None = field(default=None, repr=False)
    client_secret: str | None = field(default=None, repr=False)
    proxy_user: tuple[str, str] | None = field(default=None, repr=False)


def load_secrets(access: Access, environ: Mapping[str, str] | None = None) -> Secrets:
    """Read the credentials that `access` names; `environ` is by default the process's environment.

    Raises:
        ConfigError: a file is missing, readable by others or malformed, or a variable is not set.
    """
    env = os.environ if environ is None else environ
    authorization = client_secret = proxy_user = None
    if access.token_file is not None:
        authorization = bearer(_read_line(access.token_file, "token file", env), "token file")
    elif access.token_env is not None:
        authorization = bearer(_from_env(access.token_env, env), f"variable {access.token_env}")
    elif access.token_credential is not None:
        authorization = bearer(
            _from_systemd(access.token_credential, env), f"credential {access.token_credential}"
        )
    elif access.basic_file is not None:
        user, password = user_and_password(access.basic_file, "basic_file", env)
        authorization = basic(user, password)
    elif access.oauth is not None:
        if access.oauth.client_secret_file is not None:
            path = access.oauth.client_secret_file
            client_secret = _read_line(path, "client secret file", env)
        elif access.oauth.client_secret_env is not None:
            client_secret = _from_env(access.oauth.client_secret_env, env)
    if access.proxy_basic_file is not None:
        proxy_user = user_and_password(access.proxy_basic_file, "proxy_basic_file", env)
    return Secrets(authorization, client_secret, proxy_user)


def bearer(token: str, what: str) -> str:
    """Return the Authorization header for `token`.

    Raises:
        ConfigError: `token` has a character that no token may have (RFC 6750); `what` names its
            source.
    """
    if not _BEARER.fullmatch(token):
        raise ConfigError(f"{what} does not hold a token", hint="one line of printable ASCII")
    return f"Bearer {token}"


def basic(user: str, password: str) -> str:
    """Return the Authorization header for a user and a password (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"


def secret_line(file: Path | None, name: str | None, what: str, environ: Mapping[str, str]) -> str:
    """Return the secret in a file or, without a file, in the environment variable `name`.

    Raises:
        ConfigError: neither a file nor a variable is given, or the secret cannot be used.
    """
    if file is not None:
        return _read_line(file, what, environ)
    if name is None:
        raise ConfigError(f"no {what} is configured")
    return _from_env(name, environ)


def user_and_password(path: Path, what: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the user and the password in a file of one line, with a colon between them.

    Raises:
        ConfigError: the file cannot be read, or has another form.
    """
    user, colon, password = _read_line(path, what, environ).partition(":")
    if not colon or not user:
        raise ConfigError(
            f"{what} does not hold user:password: {printable(path)}", hint="one line, with a colon"
        )
    return user, password


def _read_line(path: Path, what: str, environ: Mapping[str, str]) -> str:
    raw = read_secret(path, what, forbidden=forbidden_bits(path, environ))
    return _one_line(raw, f"{what} {printable(path)}")


def _from_env(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name)
    if not value:
        raise ConfigError(
            f"environment variable is not set: {printable(name)}",
            hint="the variable has to contain the credential",
        )
    return _one_line(os.fsencode(value), f"environment variable {printable(name)}")


def _from_systemd(name: str, environ: Mapping[str, str]) -> str:
    directory = environ.get(CREDENTIALS_DIRECTORY)
    if not directory:
        raise ConfigError(
            f"environment variable is not set: {CREDENTIALS_DIRECTORY}",
            hint="systemd sets it for units with LoadCredential=",
        )
    if not _CREDENTIAL_NAME.fullmatch(name):
        raise ConfigError(f"not the name of a credential: {printable(name)}")
    return _read_line(Path(directory) / name, "credential", environ)


def _one_line(raw: bytes, what: str) -> str:
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = raw.decode("utf-8")
        text.encode("latin-1")
    except UnicodeError:
        text = ""
    if not text or any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text):
        # The message does not repeat the content of a file or variable, because it may be a secret.
        raise ConfigError(
            f"{what}: empty, or with characters a credential cannot have",
            hint="one line of text, without control characters",
        )
    return text


def tls_context(
    ca: Path | None, client_cert: Path | None = None, client_key: Path | None = None
) -> ssl.SSLContext:
    """Return TLS settings: TLS 1.2 or newer, and checked host names.

    The trusted authorities are those in `ca`, or those of the system's trust store.

    Raises:
        ConfigError: a file cannot be read or has unexpected content, or the key is readable by
            others or encrypted.
    """
    try:
        if ca is not None:
            # OpenSSL would wait for a pipe, and would read a device without end
            read_regular(ca, MAX_PEM_BYTES)
        context = ssl.create_default_context(cafile=None if ca is None else os.fspath(ca))
    except OSError as error:
        raise _unusable("certificate authority file", ca, error, "no PEM certificate") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_cert is not None:
        key = client_cert if client_key is None else client_key
        read_secret(key, "client key", forbidden=forbidden_bits(key, os.environ))
        try:
            read_regular(client_cert, MAX_PEM_BYTES)
            # With an empty password, OpenSSL does not ask for a password on the terminal.
            context.load_cert_chain(client_cert, key, password=lambda: b"")
        except OSError as error:
            what = "client certificate or its key"
            raise _unusable(what, client_cert, error, "not PEM, or not a pair") from error
    return context


def _unusable(what: str, path: Path | None, error: OSError, content: str) -> ConfigError:
    reason = content if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
    shown = "system trust store" if path is None else printable(path)
    return ConfigError(
        f"cannot use {what}: {shown}: {reason}",
        hint="check that the file is readable PEM, and that the key is not encrypted",
    )
