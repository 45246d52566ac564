"""How an alert is sent to each kind of receiver: a command, a webhook, or mail.

The function for a kind of receiver sends one message, and returns when the receiver has accepted
it. The signature of a webhook has the form of Standard Webhooks, for which libraries exist in many
languages (https://www.standardwebhooks.com). Error messages contain no path of an address, no text
that the receiver has sent, and no secret.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from hashclient.config.tables import AlertsConfig
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    HashclientError,
    UnreachableError,
)
from hashclient.system.command import run_command
from hashclient.system.files import user_path
from hashclient.system.text import excerpt, first_of

if TYPE_CHECKING:
    from email.message import EmailMessage

_PREFIX = "whsec_"
#: The lengths in bytes of a secret that Standard Webhooks recommends.
_SECRET_BYTES = range(24, 65)
_HOW_TO_MAKE = 'one line: `printf "whsec_%s\\n" "$(openssl rand -base64 32)"` makes one'
_SMTPS_PORT = 465
_MAIL_HINT = 'mail = ["abuse@example.org"], mail_from = "root@example.org", smtp = "localhost:25"'
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", re.ASCII)


class Message(NamedTuple):
    """An alert in the form for receivers: id, headline, and its document as JSON and as text."""

    id: str
    headline: str
    machine: str
    body: bytes
    text: str

    @classmethod
    def of(cls, alert_id: str, headline: str, document: Mapping[str, Any]) -> Self:
        """Return the message that carries the alert in `document`."""
        named = [f"match {match_id}" for match_id in document["matches"]]
        named += [f"path {excerpt(place['path'])}" for place in document.get("paths", ())]
        lines = [
            f"{document['machine']}: {document['text']}",
            *named,
            f"since {document['since']}, until {document['until']}",
            f"next: {document['next']}",
            f"alert {alert_id}",
        ]
        text = "".join(f"{line}\n" for line in lines)
        return cls(alert_id, headline, document["machine"], msgspec.json.encode(document), text)


class _TakenError(Exception):
    """A webhook has accepted the message, and the rest of its answer is not read."""


class PartlyTakenError(UnreachableError):
    """The mail was accepted, but not for all addresses; the alert counts as accepted.

    `later`: the addresses that were refused for now (by a reply of 4xx).
    """

    later: tuple[str, ...] = ()


#: A function that sends a message within a number of seconds.
Send = Callable[[Message, float], None]


def receiver_of(name: str, config: AlertsConfig, environ: Mapping[str, str]) -> Send:
    """Return the function that sends messages to the receiver `name` of the configuration.

    Raises:
        ConfigError: the settings of the receiver are wrong, or a secret cannot be read.
    """
    kinds = {"command": _command, "webhook": _webhook, "mail": _mail}
    return kinds[name](config, environ)


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature` for a message."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, 'sha256')).decode()}"


def parse_secret(text: str) -> bytes:
    """Return the key in a secret of Standard Webhooks.

    Raises:
        ConfigError: the text is not a secret.
    """
    encoded = text.removeprefix(_PREFIX)
    with contextlib.suppress(ValueError):
        key = base64.b64decode(encoded, validate=True)
        if encoded != text and len(key) in _SECRET_BYTES:
            return key
    raise ConfigError(
        "the secret of the webhook is not whsec_ and 24 to 64 bytes in base64", hint=_HOW_TO_MAKE
    )


def _command(config: AlertsConfig, environ: Mapping[str, str]) -> Send:
    def send(message: Message, limit_s: float) -> None:
        run_command(config.command, message.body, environ, limit_s, of="alerts")

    return send


def _webhook(config: AlertsConfig, environ: Mapping[str, str]) -> Send:
    from hashclient.net.client import Limits, Transport
    from hashclient.net.credentials import Access, parse_endpoint, secret_line
    from hashclient.net.exchange import Download
    from hashclient.net.peer import ALERT_RECEIVER

    class Answer(Download):
        """Accepts any answer with a status of 2xx, whatever its headers and body are."""

        def begin(self, status: int, headers: Any, now: float) -> int:
            if 200 <= status < 300:
                raise _TakenError
            return super().begin(status, headers, now)

    place = parse_endpoint(config.webhook or "", "webhook of alerts", allow_http=True)
    access = Access(
        place.url,
        ca=_path(config.ca),
        proxy=config.proxy,
        allow_http=True,  # http is accepted on loopback only
        peer=ALERT_RECEIVER,
    )
    file, name = _path(config.secret_file), config.secret_env
    secret = parse_secret(secret_line(file, name, "secret_file of alerts", environ))

    def send(message: Message, limit_s: float) -> None:
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, message.id, timestamp, message.body),
        }
        limits = Limits(base_s=limit_s, stall_s=limit_s, attempts=1)
        answer, size = Answer(place.url, 0, peer=ALERT_RECEIVER), len(message.body)
        try:
            with contextlib.suppress(_TakenError), Transport(access, limits=limits) as transport:
                transport.exchange(
                    "POST",
                    place.url,
                    answer,
                    headers=headers,
                    content=message.body,
                    content_bytes=size,
                )
        except HashclientError as error:
            # The path of a webhook is often a secret, so messages show only the origin of its
            # address.
            text = f"webhook: {error.message.replace(place.url, place.origin)}"
            kinds = (AuthorisationError, ConfigError, UnreachableError)
            kind = next((kind for kind in kinds if isinstance(error, kind)), UnreachableError)
            raise kind(text, hint=error.hint) from error

    return send


def _mail(config: AlertsConfig, environ: Mapping[str, str]) -> Send:
    import smtplib

    from hashclient.alerts.smtp import Smtp, SmtpTls
    from hashclient.net.credentials import is_loopback, tls_context, user_and_password

    host, _, port = config.smtp.rpartition(":")
    bad = "smtp" if not host or not port.isdecimal() or not 0 < int(port[:6]) < 65536 else ""
    for key, addresses in (("mail", config.mail), ("mail_from", (config.mail_from or "",))):
        if not all(map(_ADDRESS.fullmatch, addresses)):
            bad = key
    if bad:
        raise ConfigError(f"{bad} of alerts is wrong", hint=_MAIL_HINT)
    context = tls_context(_path(config.ca))
    login = None
    if (file := _path(config.smtp_basic_file)) is not None:
        login = user_and_password(file, "smtp_basic_file", environ)

    def send(message: Message, limit_s: float) -> None:
        mail = _as_mail(config, message)
        connect: Callable[..., Smtp] = Smtp
        if is_encrypted := int(port) == _SMTPS_PORT:
            connect = partial(SmtpTls, context=context)
        where = (host.strip("[]"), int(port), message.machine)
        try:
            with contextlib.closing(connect(*where, timeout=limit_s)) as smtp:
                smtp.ehlo()
                if not is_encrypted and (not is_loopback(host) or smtp.has_extn("starttls")):
                    smtp.starttls(context=context)
                if login is not None:
                    smtp.login(*login)
                refused = smtp.send_message(mail)
        except smtplib.SMTPAuthenticationError as error:
            raise AuthorisationError("mail: the server refuses smtp_basic_file") from error
        except (smtplib.SMTPException, OSError, ValueError) as error:
            code = getattr(error, "smtp_code", "")
            raise UnreachableError(f"mail: {type(error).__name__} {code}".rstrip()) from error
        if refused:
            partly = PartlyTakenError(
                f"mail: the server refuses {first_of([*refused])}",
                hint="the other addresses have the alert; check `mail` of [alerts]",
            )
            partly.later = tuple(to for to, (code, _) in refused.items() if code // 100 == 4)
            raise partly

    return send


def _as_mail(config: AlertsConfig, message: Message) -> EmailMessage:
    from email.message import EmailMessage
    from email.utils import formatdate

    mail = EmailMessage()
    for name, value in {
        "Subject": f"hashclient on {message.machine}: {message.headline}",
        "From": config.mail_from,
        "To": ", ".join(config.mail),
        "Date": formatdate(),
        "Message-ID": f"<{message.id}@{message.machine}>",
        # The header prevents automatic replies to the mail (RFC 3834).
        "Auto-Submitted": "auto-generated",
    }.items():
        mail[name] = value
    mail.set_content(message.text)
    return mail


def _path(text: str | None) -> Path | None:
    return None if text is None else user_path(text)
