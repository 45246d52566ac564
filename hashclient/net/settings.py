"""Settings of the transport, from the configuration of the other side: access and limits."""

from __future__ import annotations

from pathlib import Path

from hashclient.configfile.tables import AccessConfig, ProviderConfig, ServiceDestination
from hashclient.net.client import Limits
from hashclient.net.credentials import Access, OAuth
from hashclient.net.peer import PROVIDER, REPORTING_SERVICE, Peer
from hashclient.system.files import user_path


def access_of(url: str, config: AccessConfig, peer: Peer = PROVIDER) -> Access:
    """Return the access to the address `url` of a provider, which messages call `peer`.

    Raises:
        ConfigError: its settings contradict each other.
    """
    oauth = None
    if config.oauth is not None:
        oauth = OAuth(
            token_url=config.oauth.token_url,
            client_id=config.oauth.client_id,
            client_secret_file=_path(config.oauth.client_secret_file),
            client_secret_env=config.oauth.client_secret_env,
            scope=config.oauth.scope,
            ca=_path(config.oauth.ca),
        )
    return Access(
        url=url,
        token_file=_path(config.token_file),
        token_env=config.token_env,
        token_credential=config.token_credential,
        basic_file=_path(config.basic_file),
        oauth=oauth,
        client_cert=_path(config.client_cert),
        client_key=_path(config.client_key),
        ca=_path(config.ca),
        proxy=config.proxy,
        proxy_basic_file=_path(config.proxy_basic_file),
        allow_http=config.allow_http,
        peer=peer,
    )


def access_of_service(service: ServiceDestination) -> Access:
    """Return the access to a reporting service.

    Raises:
        ConfigError: its settings contradict each other.
    """
    return Access(
        url=service.url,
        basic_file=user_path(service.basic_file),
        ca=_path(service.ca),
        proxy=service.proxy,
        proxy_basic_file=_path(service.proxy_basic_file),
        allow_http=service.allow_http,
        peer=REPORTING_SERVICE,
    )


def limits_of(
    provider: ProviderConfig | ServiceDestination, *, has_another: bool = False
) -> Limits:
    """Return how patient the transport is with `provider`; `timeout_s` scales every wait.

    With `has_another`, the provider has another address: the wait between attempts is then no
    longer than one answer may take, since another server can answer instead of a busy one.
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


def _path(text: str | None) -> Path | None:
    return None if text is None else user_path(text)
