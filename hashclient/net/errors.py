"""Translates failures of the network into errors of hashclient.

Only this module translates exceptions of httpx, httpcore, ssl and sockets, and decides whether a
retry may help. This module does no I/O. No message repeats a text that the server has sent, because
the text could be anything.
"""

from __future__ import annotations

import email.utils
import socket
import ssl
from datetime import UTC
from http import HTTPStatus

import httpcore
import httpx

from hashclient.core.errors import (
    AuthorisationError,
    HashclientError,
    UnreachableError,
    VerificationError,
)
from hashclient.net.deadline import DeadlineExceededError
from hashclient.net.peer import NEW_PROVIDER, PROVIDER, Peer

CREDENTIAL_HINT = "check the credential, and that it has not been revoked or expired"
NO_CREDENTIAL_HINT = (
    "if you were given a token, name its file with --token-file, or `token_file` in config.toml;"
    " `hashclient init --help` names other kinds of credentials"
)
NO_PROXY_CREDENTIAL_HINT = (
    "name a file with `user:password` with --proxy-basic-file, or `proxy_basic_file` in config.toml"
)
CLIENT_CERT_HINT = "check client_cert and client_key, and that the server knows the certificate"
#: Texts of nginx's page for status 400: they show that a client certificate is missing or refused,
#: which the status alone does not show.
_NO_CERTIFICATE_PAGE = b"No required SSL certificate was sent"
_BAD_CERTIFICATE_PAGE = b"The SSL certificate error"
_STATUS_400_HINT = "some servers answer 400 to a client certificate that is missing or not accepted"
TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
REFUSING_STATUSES = frozenset({401, 403, 407})

#: The exceptions that the transport catches when it makes a request.
FOREIGN = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpx.HTTPError,
    httpx.InvalidURL,
)

# OpenSSL's codes for refusing the certificate of a server (X509_V_ERR_*), with a description and
# advice for each.
_CERTIFICATE_FAULTS = {
    9: ("is not yet valid", "check the clock of this machine"),
    10: ("has expired", "tell the owner of the server, and check the clock of this machine"),
    62: ("is for another host name", "check the URL"),
    64: ("is for another address", "check the URL"),
} | dict.fromkeys(
    (2, 18, 19, 20, 21),
    (
        "comes from an unknown authority",
        "if the server has its own authority, name that with --ca, or `ca` in config.toml",
    ),
)
# The TLS alerts (RFC 8446, 6.2) by which a server refuses a client certificate, or requires one,
# with a description.
_CLIENT_CERT_ALERTS = {
    "CERTIFICATE_REQUIRED": "requires a client certificate",
    "BAD_CERTIFICATE": "refuses the client certificate",
    "UNSUPPORTED_CERTIFICATE": "refuses the client certificate",
    "CERTIFICATE_REVOKED": "says that the client certificate is revoked",
    "CERTIFICATE_EXPIRED": "says that the client certificate has expired",
    "CERTIFICATE_UNKNOWN": "refuses the client certificate",
    "UNKNOWN_CA": "does not know the authority of the client certificate",
    "ACCESS_DENIED": "refuses the client certificate",
}
_OLD_TLS_REASONS = frozenset(
    {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"}
)


class HttpStatusError(UnreachableError):
    """The provider answered with a status that means neither success nor refusal."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        """Store the `status`, so that a caller can distinguish 404 from 503."""
        super().__init__(message, hint=hint)
        self.status = status


class RefusedError(AuthorisationError):
    """The provider (401, 403; nginx also 400) or the proxy (407) refused the credential."""

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        """Store the `status`, so that a caller can distinguish 401 from 403."""
        super().__init__(message, hint=hint)
        self.status = status


class TransientError(Exception):
    """Contains an error after which another attempt may succeed; only the transport sees it."""

    def __init__(self, error: UnreachableError, retry_after_s: float | None = None) -> None:
        """Store the error to raise after the last attempt, and the wait that the server wants."""
        super().__init__(error.message)
        self.error = error
        self.retry_after_s = retry_after_s


def network_hint(peer: Peer) -> str:
    """Return the hint for a failure whose cause may be the network."""
    return f"check the network and the URL; {peer.kept}"


def foreign_fault(
    peer: Peer, error: Exception, origin: str, url: str
) -> HashclientError | TransientError:
    """Translate an exception that ended a request to `origin`.

    The class of the exception is in `FOREIGN`, or belongs to the optional package for SOCKS.
    """
    # The cause is taken from the arguments, because httpcore's pool raises its errors again without
    # `__cause__`.
    cause = next((item for item in error.args if isinstance(item, Exception)), None)
    if isinstance(error, DeadlineExceededError):
        return UnreachableError(
            f"{peer.name} is too slow: {url}: time is up", hint=_slow_hint(peer)
        )
    if not isinstance(error, FOREIGN):
        return UnreachableError(
            f"proxy does not connect to {origin}", hint="check that the proxy speaks SOCKS5"
        )
    if isinstance(error, httpcore.ProxyError):
        return _proxy_fault(peer, error, origin)
    if isinstance(error, httpx.InvalidURL):
        return VerificationError("address refused: not a URL")
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
        return _tls_fault(peer, cause, origin)
    if isinstance(cause, socket.gaierror | UnicodeError):
        what = f"cannot find {peer.name}: {origin}: name lookup failed"
    elif isinstance(error, httpcore.ConnectError) and not isinstance(cause, ssl.SSLError):
        what = f"{peer.name} does not answer: {origin}: {_reason(cause)}"
    elif isinstance(error, httpcore.NetworkError):
        what = f"connection broke: {url}: {_reason(cause)}"
    elif isinstance(error, httpcore.TimeoutException):
        what = f"{peer.name} has stopped sending: {url}"
    else:
        what = f"answer is cut short or breaks HTTP: {url}"
    return TransientError(UnreachableError(what, hint=network_hint(peer)))


def status_fault(
    peer: Peer, status: int, url: str, retry_after_s: float | None = None
) -> HashclientError | TransientError:
    """Translate a status of HTTP that is not the expected status."""
    if status in REFUSING_STATUSES:
        who = "proxy" if status == 407 else peer.name
        return RefusedError(
            f"{who} refuses the credential: {url}: {_status_text(status)}",
            status,
            hint=CREDENTIAL_HINT,
        )
    if 300 <= status < 400:
        return HttpStatusError(
            f"{peer.name} redirects, which is not followed: {url}: {_status_text(status)}",
            status,
            hint=f"ask the {peer.name} for its final URL",
        )
    if status not in TRANSIENT_STATUSES:
        hint = network_hint(peer)
        if status == 400 and peer in {PROVIDER, NEW_PROVIDER}:
            hint = f"{_STATUS_400_HINT}; {peer.kept}"
        return HttpStatusError(
            f"{peer.name} answers: {url}: {_status_text(status)}", status, hint=hint
        )
    hint = _slow_hint(peer)
    if retry_after_s is not None:
        hint = f"try again in {retry_after_s:.0f} s; {peer.kept}"
    error = HttpStatusError(
        f"{peer.name} is busy or broken: {url}: {_status_text(status)}", status, hint=hint
    )
    return TransientError(error, retry_after_s)


def anonymous_fault(peer: Peer, error: RefusedError, url: str) -> RefusedError:
    """Return the error for a refused request to `url` for which no credential is configured.

    `error` is the refusal, with the status 401, 403, or 407 from a proxy.
    """
    who, hint = peer.name, NO_CREDENTIAL_HINT
    if error.status == 407:
        who, hint = "proxy", NO_PROXY_CREDENTIAL_HINT
    what = "asks for a credential, and none is configured"
    if error.status == 403:
        what = "refuses access, and no credential is configured"
    text = f"{who} {what}: {url}: {_status_text(error.status)}"
    return RefusedError(text, error.status, hint=hint)


def page_fault(
    peer: Peer, fault: HashclientError | TransientError, page: bytes, url: str
) -> HashclientError | TransientError:
    """Return `fault`, or a more exact error if the body of the answer says more than the status."""
    if isinstance(fault, HttpStatusError) and fault.status == 400:
        for text, what in (
            (_NO_CERTIFICATE_PAGE, "requires a client certificate"),
            (_BAD_CERTIFICATE_PAGE, "refuses the client certificate"),
        ):
            if text in page:
                return RefusedError(
                    f"the {peer.name} {what}: {url}: {_status_text(400)}",
                    400,
                    hint=CLIENT_CERT_HINT,
                )
    return fault


def malformed(peer: Peer, url: str, how: str) -> TransientError:
    """Return the error for an answer that breaks HTTP; `how` says which rule is broken."""
    what = f"answer breaks HTTP: {url}: {how}"
    return TransientError(UnreachableError(what, hint=network_hint(peer)))


def _slow_hint(peer: Peer) -> str:
    return f"try again later; {peer.kept}"


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds in a Retry-After header, or None if it is absent or unreadable.

    `now`: the time in seconds since 1970, for a header that contains a date (RFC 9110).
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9]) if len(value) < 10 else 1e9
    try:
        moment = email.utils.parsedate_to_datetime(value)
    # OverflowError is raised for a number outside the range of dates
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def _status_text(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase.lower()}"
    except ValueError:
        return str(status)


def _reason(cause: Exception | None) -> str:
    if isinstance(cause, ssl.SSLError):
        return "closed in the middle of TLS"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return "no answer"


def _proxy_fault(
    peer: Peer, error: httpcore.ProxyError, origin: str
) -> HashclientError | TransientError:
    # The message of httpcore is '407 Proxy Authentication Required', or a sentence about SOCKS.
    status = str(error)[:3]
    if status.isascii() and status.isdigit():
        if int(status) in TRANSIENT_STATUSES | {407}:
            return status_fault(peer, int(status), f"proxy to {origin}")
        return UnreachableError(
            f"proxy does not connect to {origin}: {_status_text(int(status))}",
            hint="check the proxy's rules",
        )
    return UnreachableError(f"proxy does not connect to {origin}", hint="check the proxy")


def _tls_fault(peer: Peer, error: ssl.SSLError, origin: str) -> HashclientError:
    if isinstance(error, ssl.SSLCertVerificationError):
        what, hint = _CERTIFICATE_FAULTS.get(
            error.verify_code, ("is not acceptable", network_hint(peer))
        )
        return UnreachableError(f"the {peer.name}'s certificate {what}: {origin}", hint=hint)
    reason = error.reason or ""
    alert = reason.partition("_ALERT_")[2]
    if alert in _CLIENT_CERT_ALERTS:
        what = f"the {peer.name} {_CLIENT_CERT_ALERTS[alert]}: {origin}"
        return AuthorisationError(what, hint=CLIENT_CERT_HINT)
    if reason in _OLD_TLS_REASONS:
        return UnreachableError(
            f"the {peer.name}'s TLS is too old: {origin}", hint="TLS 1.2 or newer is required"
        )
    if alert == "HANDSHAKE_FAILURE":
        return UnreachableError(
            f"TLS refused by the {peer.name}: {origin}",
            hint="no common cipher, or a client certificate is required",
        )
    return UnreachableError(
        f"no TLS with the {peer.name}: {origin}", hint="check that the URL's port speaks TLS"
    )
