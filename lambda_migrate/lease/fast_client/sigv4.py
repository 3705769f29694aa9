"""AWS Signature Version 4, for requests whose path and query are in canonical form already."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AWSCredentials", "sign"]

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class AWSCredentials:
    """What a config is known by. No representation shows it.

    Attributes:
        id: The public half.
        secret: The other one.
        token: Of a session, or "".
    """

    id: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


def sign(
    headers: Mapping[str, str],
    body: bytes,
    *,
    key: AWSCredentials,
    region: str,
    service: str,
    method: str = "POST",
    path: str = "/",
    query: str = "",
) -> str:
    """The ``Authorization`` header of a request.

    Args:
        headers: All that are signed, ``X-Amz-Date`` and ``Host`` among them; no name twice.
        body: What is sent.
        key: Whose request it is; a token has to be among ``headers``, too.
        region: Where it is sent.
        service: Whom.
        method: In capitals.
        path: Normalised and percent-encoded.
        query: Sorted and percent-encoded.
    """
    canonical = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(canonical)
    lines = [f"{name}:{canonical[name]}" for name in names]
    signed = ";".join(names)
    request = "\n".join([method, path, query, *lines, "", signed, sha256(body).hexdigest()])
    moment = canonical["x-amz-date"]
    terms = (moment[:8], region, service, "aws4_request")
    scope = "/".join(terms)
    text = "\n".join([_ALGORITHM, moment, scope, sha256(request.encode()).hexdigest()])
    signature = _signature(key.secret, terms, text)
    return (
        f"{_ALGORITHM} Credential={key.id}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )


def _signature(secret: str, terms: tuple[str, ...], text: str) -> str:
    derived = f"AWS4{secret}".encode()
    for term in terms:
        derived = hmac.digest(derived, term.encode(), "sha256")
    return hmac.digest(derived, text.encode(), "sha256").hex()
