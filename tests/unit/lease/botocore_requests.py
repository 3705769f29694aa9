"""What botocore would send for the same environment."""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from unittest.mock import patch

import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.loaders import Loader

_LOADER = Loader()
"""Shared, because reading a service's model takes half a second."""


class Sent(NamedTuple):
    """A request that was about to leave."""

    url: str
    headers: dict[str, str]
    body: bytes
    endpoint: str
    region: str
    verify: object


def get_item(environ: dict[str, str], table: str, target: str, *, consistent: bool = False) -> Sent:
    """The GetItem that a client made in ``environ`` alone would send; nothing leaves."""
    return _sent(environ, "get_item", table, target, {"ConsistentRead": consistent})


def update_item(environ: dict[str, str], table: str, target: str, change: dict[str, Any]) -> Sent:
    """Likewise the UpdateItem."""
    return _sent(environ, "update_item", table, target, change)


def _sent(
    environ: dict[str, str], operation: str, table: str, target: str, more: dict[str, Any]
) -> Sent:
    sent: list[AWSPreparedRequest] = []

    def catch(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        sent.append(request)
        return AWSResponse(request.url, 200, HTTPHeaders(), _Empty())

    with patch.dict(os.environ, environ, clear=True):
        session = botocore.session.Session()
        session.register_component("data_loader", _LOADER)
        client: Any = session.create_client(
            "dynamodb", config=Config(retries={"total_max_attempts": 1})
        )
        client.meta.events.register("before-send.dynamodb", catch)
        getattr(client, operation)(TableName=table, Key={"target": {"S": target}}, **more)
        client.close()
    request = sent[0]
    assert isinstance(request.body, bytes)
    headers = {name: _text(value) for name, value in request.headers.items()}
    verify = client._endpoint.http_session._verify
    return Sent(
        request.url,
        headers,
        request.body,
        client.meta.endpoint_url,
        client.meta.region_name,
        verify,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _Empty:
    def stream(self) -> list[bytes]:
        return [b"{}"]
