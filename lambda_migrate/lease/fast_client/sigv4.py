"""AWS Signature Version 4, for requests whose path and query are in canonical form already."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AWSCredentials", "sign"]

_ALGORITHM = "AWS4-HMAC-SHA256"


class AWSCredentials:
    """An access key. Its representation shows nothing of it.

    Attributes:
        access_key_id: The public part.
        secret_access_key: The secret part.
        session_token: Of temporary credentials, or "".
    """

    __slots__ = ("access_key_id", "secret_access_key", "session_token")

    def __init__(self, access_key_id: str, secret_access_key: str, session_token: str = "") -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token

    def __repr__(self) -> str:
        return "AWSCredentials()"


def sign(
    headers: Mapping[str, str],
    body: bytes,
    credentials: AWSCredentials,
    *,
    region: str,
    service: str,
    method: str = "POST",
    path: str = "/",
    query: str = "",
) -> str:
    """The ``Authorization`` header of a request.

    Args:
        headers: All headers to sign, ``X-Amz-Date`` and ``Host`` among them; no name twice.
        body: The request's body.
        credentials: What to sign with; the session token must be among ``headers``.
        region: Region of the service.
        service: Name of the service.
        method: In capitals.
        path: Normalized and percent-encoded.
        query: Sorted and percent-encoded.
    """
    canonical = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(canonical)
    lines = [f"{name}:{canonical[name]}" for name in names]
    signed = ";".join(names)
    request = "\n".join([method, path, query, *lines, "", signed, sha256(body).hexdigest()])
    date = canonical["x-amz-date"]
    scope = (date[:8], region, service, "aws4_request")
    text = "\n".join([_ALGORITHM, date, "/".join(scope), sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key}".encode()
    for term in scope:
        key = hmac.digest(key, term.encode(), "sha256")
    return (
        f"{_ALGORITHM} Credential={credentials.access_key_id}/{'/'.join(scope)}, "
        f"SignedHeaders={signed}, Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"
    )
