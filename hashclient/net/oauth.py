"""Access tokens by OAuth 2.0's client-credentials grant (RFC 6749, 4.4), kept in memory only.

The token endpoint gets the client's id and secret only; the provider gets the token only. How the
request travels (deadline, retries, TLS) is the caller's business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import quote, urlencode

import msgspec

from hashclient.errors import AuthorisationError, ConfigError
from hashclient.net.credentials import Endpoint, OAuth, basic, bearer
from hashclient.net.errors import CREDENTIAL_HINT, HttpStatusError, RefusedError
from hashclient.net.exchange import Download

MAX_ANSWER_BYTES = 64 * 1024
# A token is renewed this long before it expires, so that it does not expire on the way.
EXPIRY_MARGIN_S = 30.0

# Endpoint, headers, form, rules of the answer: one POST with all its retries.
Post = Callable[[Endpoint, dict[str, str], bytes, Download], bytes]


class _Answer(msgspec.Struct):
    """The members of a token answer that matter (RFC 6749, 5.1)."""

    access_token: str
    token_type: str
    expires_in: float | None = None


class TokenSource:
    """The current access token; fetched when first needed, and again when it has become invalid."""

    def __init__(
        self,
        oauth: OAuth,
        endpoint: Endpoint,
        client_secret: str,
        post: Post,
        monotonic: Callable[[], float],
    ) -> None:
        """Keep the settings; the first use fetches a token."""
        # The grant's own rule: id and secret are form-encoded before Basic (RFC 6749, 2.3.1).
        self._client = basic(quote(oauth.client_id, safe=""), quote(client_secret, safe=""))
        self._scope = oauth.scope
        self._endpoint = endpoint
        self._post = post
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._header: str | None = None
        self._expires: float | None = None

    def header(self, refused: str | None = None) -> str:
        """Return the Authorization header; a new one if the current one is `refused`.

        Raises:
            AuthorisationError: the token endpoint refuses the client, or its answer is not a
                token.
            UnreachableError: it cannot be reached.
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
            # The RFC's status for a client or a scope that is not accepted.
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
        # The message repeats neither the answer nor the decoder's error: they may hold a token.
        return AuthorisationError(
            f"token endpoint does not answer with a bearer token: {self._endpoint.url}",
            hint="check token_url",
        )
