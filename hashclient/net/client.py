"""The only access to the network: gets bytes from one provider, bounded in size and in time.

`Transport.get` returns a whole body or raises; it takes no decision about trust, and stores no
data. `Transport` sends a credential only to the configured origin, follows no redirect and stores
no cookie. `Transport` uses a proxy of the environment only if the configuration requests it.
`credentials` has the rules for requests, `exchange` the rules for answers, `deadline` the rules for
time, and `errors` the message of each failure. Bodies are kept in memory, so `max_bytes` also
bounds the memory.

`TokenSource` gets access tokens with OAuth 2.0's client-credentials grant (RFC 6749, 4.4), and
keeps them in memory only. The token endpoint receives only the id and the secret of the client, and
the provider receives only the token.
"""

from __future__ import annotations

import importlib.util
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from hashclient.config.tables import AccessConfig, ProviderConfig, ServiceDestination
from hashclient.core.errors import AuthorisationError, ConfigError
from hashclient.net.credentials import (
    Access,
    Endpoint,
    OAuth,
    Secrets,
    basic,
    bearer,
    find_proxy,
    load_secrets,
    parse_endpoint,
    tls_context,
)
from hashclient.net.deadline import BoundedBackend, Limits, Resolve
from hashclient.net.errors import (
    CREDENTIAL_HINT,
    HttpStatusError,
    RefusedError,
    TransientError,
    anonymous_fault,
)
from hashclient.net.exchange import Channel, Download
from hashclient.net.peer import PROVIDER, Peer
from hashclient.system.files import user_path
from hashclient.system.log import Log

__all__ = ["Access", "HttpStatusError", "Limits", "OAuth", "RefusedError", "Transport"]

T = TypeVar("T")

_log = Log("net")
#: A pattern for the digest that TUF puts before the name of a target.
_DIGEST_BEFORE = re.compile(r"^[0-9a-f]{32,128}\.")

#: The largest answer of a token endpoint in bytes.
MAX_ANSWER_BYTES = 64 * 1024
# A token is renewed this many seconds before it expires, so that it does not expire during a
# request.
EXPIRY_MARGIN_S = 30.0

# A function that makes one POST request with all its retries; the arguments are the endpoint, the
# headers, the form, and the rules for the answer.
Post = Callable[[Endpoint, dict[str, str], bytes, Download], bytes]


class Transport:
    """Fetches resources of one provider; several threads may use one `Transport` at once.

    A `Transport` is a context manager; without a `with` block, call `close`. The clocks, the wait
    between attempts, the randomness of this wait and the name lookup are arguments, so that a test
    can replace them.
    """

    def __init__(
        self,
        access: Access,
        *,
        limits: Limits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random.random,
        resolve: Resolve = socket.getaddrinfo,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        """Read the secrets and certificates that `access` names, without connecting.

        `on_bytes` is called with the number of received bytes of a body, and with a negative number
        when an interrupted body is requested again from its beginning. The thread that called `get`
        calls `on_bytes`.

        Raises:
            ConfigError: a secret or certificate cannot be used, or the package for SOCKS is not
                installed.
        """
        self._peer = access.peer
        self._base = parse_endpoint(
            access.url, f"{access.peer.name} URL", allow_http=access.allow_http
        )
        self._limits = Limits() if limits is None else limits
        self._monotonic = monotonic
        self._now = now
        self._wait = wait
        self._random = random
        self._on_bytes = on_bytes
        self._backend = BoundedBackend(resolve)
        self._proxy = None if access.proxy is None else find_proxy(access.proxy, self._base)
        if self._proxy is not None and self._proxy.scheme == "socks5":
            _require_socks()
        secrets = load_secrets(access)
        context = tls_context(access.ca, access.client_cert, access.client_key)
        self._provider = Channel(
            context,
            self._backend,
            self._limits,
            monotonic,
            now,
            self._proxy,
            secrets.proxy_user,
            access.peer,
        )
        self._authorization = secrets.authorization
        #: The HTTP statuses that mean that a credential is missing, if none is configured.
        self._anonymous: frozenset[int] = frozenset()
        if secrets.authorization is None and access.oauth is None and access.client_cert is None:
            self._anonymous |= {401, 403}
        if secrets.proxy_user is None:
            self._anonymous |= {407}
        self._token_channel: Channel | None = None
        self._tokens: TokenSource | None = None
        if access.oauth is not None:
            self._prepare_oauth(access, access.oauth, secrets)

    def _prepare_oauth(self, access: Access, oauth: OAuth, secrets: Secrets) -> None:
        endpoint = parse_endpoint(oauth.token_url, "token URL", allow_http=access.allow_http)
        channel = Channel(
            # The client certificate is for the provider only, so the token endpoint does not
            # receive it.
            tls_context(access.ca if oauth.ca is None else oauth.ca),
            self._backend,
            self._limits,
            self._monotonic,
            self._now,
            self._proxy,
            secrets.proxy_user,
            access.peer,
        )

        def post(place: Endpoint, headers: dict[str, str], form: bytes, into: Download) -> bytes:
            return self._persist(place, lambda: channel.attempt("POST", place, headers, into, form))

        self._token_channel = channel
        self._tokens = TokenSource(
            oauth, endpoint, secrets.client_secret or "", post, self._monotonic
        )

    def __enter__(self) -> Transport:
        """Return the transport itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self.close()

    def close(self) -> None:
        """Close the connections to the provider and to the token endpoint."""
        self._provider.close()
        if self._token_channel is not None:
            self._token_channel.close()

    def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
        """Fetch `url`.

        The body has at most `max_bytes`, and exactly `expected_bytes` if that is given.

        Raises:
            VerificationError: the address is not a plain address below the provider's URL (nothing
                is sent then), or the body is too long or compressed.
            UnreachableError: the provider could not be reached in time, or did not answer properly;
                an `HttpStatusError` if the status is the reason, as with 404 and redirects.
            AuthorisationError: the credential or the client certificate was refused; `RefusedError`
                if the status says so (401, 403, or 407 from a proxy).
        """
        body = self._get(url, max_bytes, expected_bytes)
        _log.debug("got %s: %d bytes", _name_in(url), len(body))
        return body

    def _get(self, url: str, max_bytes: int, expected_bytes: int | None) -> bytes:
        # 1. A request is sent only to an address below the provider's address.
        endpoint = self._base.locate(url)
        download = Download(endpoint.url, max_bytes, expected_bytes, self._on_bytes, self._peer)
        # 2. The server may have revoked a token that `TokenSource` fetched, so the token is renewed
        #    once.
        if self._tokens is None:
            return self._fetch(endpoint, download, self._authorization)
        header = self._tokens.header()
        try:
            return self._fetch(endpoint, download, header)
        except RefusedError as error:
            if error.status != 401:
                raise
        return self._fetch(endpoint, download, self._tokens.header(refused=header))

    def exchange(
        self,
        method: str,
        url: str,
        answer: Download,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        content: bytes | Iterable[bytes] | None = None,
        content_bytes: int = 0,
    ) -> bytes:
        """Make one request without retries, and return the body of the answer.

        `answer`: the rules for the answer. `content_bytes` is the length of `content`. Tokens of
        `TokenSource` are not used.

        Raises:
            HashclientError: the request has failed as in `get`, or `content` has raised the error.
        """
        endpoint = self._base.locate(url)
        sent = dict(headers)
        if content is not None:
            sent["Content-Length"] = str(content_bytes)
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        try:
            return self._provider.attempt(method, endpoint, sent, answer, content, content_bytes)
        except TransientError as fault:
            raise fault.error from fault.__cause__

    def _fetch(self, endpoint: Endpoint, download: Download, authorization: str | None) -> bytes:
        headers = {} if authorization is None else {"Authorization": authorization}
        return self._persist(
            endpoint, lambda: self._provider.attempt("GET", endpoint, headers, download)
        )

    def _persist(self, endpoint: Endpoint, attempt: Callable[[], T]) -> T:
        """Repeat `attempt` at `endpoint` as long as a retry may help and the limits allow it."""
        limits = self._limits
        failures, waited = 0, 0.0
        while True:
            try:
                return attempt()
            except RefusedError as error:
                if error.status not in self._anonymous:
                    raise
                raise anonymous_fault(self._peer, error, endpoint.url) from error
            except TransientError as fault:
                # The pause is random (full jitter), so that clients that failed at the same time do
                # not retry at the same time.
                pause = self._random() * min(limits.backoff_max_s, limits.backoff_s * 2**failures)
                pause = max(pause, fault.retry_after_s or 0.0)
                failures += 1
                if failures >= limits.attempts or waited + pause > limits.retry_total_s:
                    raise fault.error from fault.__cause__
                _log.info(
                    "attempt %d of %d has failed, the next is in %.1f s: %s",
                    *(failures, limits.attempts, pause, fault.error.message),
                )
            self._wait(pause)
            waited += pause


def _name_in(url: str) -> str:
    """Return the file name in an address, without the digest that TUF puts before it."""
    return _DIGEST_BEFORE.sub("", url.partition("?")[0].rpartition("/")[2])


def _require_socks() -> None:
    if importlib.util.find_spec("socksio") is None:
        raise ConfigError(
            "a socks5 proxy needs the package socksio", hint="pip install 'httpx[socks]'"
        )


class _Answer(msgspec.Struct):
    """The fields that this program reads in the JSON of a token endpoint (RFC 6749, 5.1)."""

    access_token: str
    token_type: str
    expires_in: float | None = None


class TokenSource:
    """The current access token.

    A token is fetched when it is first needed, and again when it has become invalid.
    """

    def __init__(
        self,
        oauth: OAuth,
        endpoint: Endpoint,
        client_secret: str,
        post: Post,
        monotonic: Callable[[], float],
    ) -> None:
        """Store the settings; the first call of `header` fetches a token."""
        # The client-credentials grant requires that id and secret are form-encoded before they are
        # used in Basic (RFC 6749, 2.3.1).
        self._client = basic(quote(oauth.client_id, safe=""), quote(client_secret, safe=""))
        self._scope = oauth.scope
        self._endpoint = endpoint
        self._post = post
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._header: str | None = None
        self._expires: float | None = None

    def header(self, refused: str | None = None) -> str:
        """Return the Authorization header; return a new header if the current one is `refused`.

        Raises:
            AuthorisationError: the token endpoint refuses the client, or its answer is not a token.
            UnreachableError: the token endpoint cannot be reached.
        """
        with self._lock:
            expired = self._expires is not None and self._monotonic() >= self._expires
            if self._header is None or expired or self._header == refused:
                self._header = None
                self._header = self._fetch()
            return self._header

    def _fetch(self) -> str:
        form = {"grant_type": "client_credentials"}
        if self._scope is not None:
            form["scope"] = self._scope
        headers = {
            "Authorization": self._client,
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        download = Download(self._endpoint.url, MAX_ANSWER_BYTES)
        asked = self._monotonic()
        try:
            body = self._post(self._endpoint, headers, urlencode(form).encode(), download)
        except HttpStatusError as error:
            # RFC 6749 requires status 400 for a client or a scope that is not accepted.
            if error.status != 400:
                raise
            raise RefusedError(
                f"token endpoint refuses the client: {self._endpoint.url}",
                error.status,
                hint=CREDENTIAL_HINT,
            ) from error
        try:
            answer = msgspec.json.decode(body, type=_Answer, strict=False)
            header = bearer(answer.access_token, "token")
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ConfigError):
            raise self._unusable() from None
        if answer.token_type.lower() != "bearer":
            raise self._unusable()
        self._expires = None
        if answer.expires_in is not None:
            self._expires = asked + max(0.0, answer.expires_in - EXPIRY_MARGIN_S)
        return header

    def _unusable(self) -> AuthorisationError:
        # The answer or the decoder's error may contain a token, so the message repeats neither.
        return AuthorisationError(
            f"token endpoint does not answer with a bearer token: {self._endpoint.url}",
            hint="check token_url",
        )


def access_of(url: str, config: AccessConfig | ServiceDestination, peer: Peer = PROVIDER) -> Access:
    """Return the `Access` for the address `url`; messages call the server `peer`.

    Raises:
        ConfigError: the settings contradict each other.
    """
    fields = {**msgspec.to_builtins(config), "url": url, "peer": msgspec.to_builtins(peer)}
    return msgspec.convert(fields, Access, dec_hook=lambda _path, text: user_path(text))


def limits_of(
    provider: ProviderConfig | ServiceDestination, *, has_another: bool = False
) -> Limits:
    """Return the time limits for `provider`; `timeout_s` scales every wait.

    `has_another` says that the provider has another address. If `has_another` is set, all waits
    between attempts together are at most as long as an answer may take, because another server can
    answer in place of a busy server.
    """
    usual = Limits()
    scale = provider.timeout_s / usual.base_s
    return Limits(
        base_s=provider.timeout_s,
        stall_s=usual.stall_s * scale,
        min_rate=provider.min_rate_kib_s * 1024,
        attempts=provider.attempts,
        backoff_s=usual.backoff_s * scale,
        backoff_max_s=usual.backoff_max_s * scale,
        retry_total_s=provider.timeout_s if has_another else usual.retry_total_s * scale,
    )
