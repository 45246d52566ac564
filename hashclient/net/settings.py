"""What the transport needs, from the configuration of the other side: how to get in, and limits."""

from __future__ import annotations

from pathlib import Path

from hashclient.configfile.tables import ProviderConfig, ServiceDestination
from hashclient.net.client import Limits
from hashclient.net.credentials import Access, OAuth
from hashclient.net.peer import REPORTING_SERVICE
from hashclient.system.files import user_path


def access_of(provider: ProviderConfig) -> Access:
    """Return how the transport gets in to `provider`.

    Raises:
        ConfigError: its settings contradict each other.
    """
    oauth = None
    if provider.oauth is not None:
        oauth = OAuth(
            token_url=provider.oauth.token_url,
            client_id=provider.oauth.client_id,
            client_secret_file=_path(provider.oauth.client_secret_file),
            client_secret_env=provider.oauth.client_secret_env,
            scope=provider.oauth.scope,
            ca=_path(provider.oauth.ca),
        )
    return Access(
        url=provider.url,
        token_file=_path(provider.token_file),
        token_env=provider.token_env,
        token_credential=provider.token_credential,
        basic_file=_path(provider.basic_file),
        oauth=oauth,
        client_cert=_path(provider.client_cert),
        client_key=_path(provider.client_key),
        ca=_path(provider.ca),
        proxy=provider.proxy,
        proxy_basic_file=_path(provider.proxy_basic_file),
        allow_http=provider.allow_http,
    )


def access_of_service(service: ServiceDestination) -> Access:
    """Return how the transport gets in to a reporting service.

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


def limits_of(provider: ProviderConfig | ServiceDestination) -> Limits:
    """Return how patient the transport is with `provider`; `timeout_s` scales every wait."""
    usual = Limits()
    scale = provider.timeout_s / usual.base_s
    return Limits(
        base_s=provider.timeout_s,
        stall_s=usual.stall_s * scale,
        min_rate=provider.min_rate_kib_s * 1024,
        attempts=provider.attempts,
        backoff_s=usual.backoff_s * scale,
        backoff_max_s=usual.backoff_max_s * scale,
        retry_total_s=usual.retry_total_s * scale,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else user_path(text)
