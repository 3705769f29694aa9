"""The request: to which endpoint it goes, by what it is signed, and what it consists of.

Credentials, region and endpoint are those that botocore resolves from the same environment. Only
what the tests compare with botocore is supported. Whatever else could matter (a profile, a proxy,
another partition, a variable that this module does not know) is left to boto3.
"""

from __future__ import annotations

import hmac
import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "IGNORED_VARIABLES",
    "AWSCredentials",
    "ClientConfig",
    "Endpoint",
    "build_request",
    "resolve_config",
    "sign",
]

_SUPPORTED_VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_CA_BUNDLE",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_DYNAMODB",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
)

IGNORED_VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY",  # the names of the SDK for Java
        "AWS_SECRET_KEY",
        "AWS_DEFAULTS_MODE",
        "AWS_DEFAULT_OUTPUT",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_EXECUTION_ENV",
        "AWS_MAX_ATTEMPTS",
        "AWS_NODEJS_CONNECTION_REUSE_ENABLED",
        "AWS_PAGER",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "AWS_RETRY_MODE",
        "AWS_SAM_LOCAL",
        "AWS_SDK_UA_APP_ID",
        "AWS_STS_REGIONAL_ENDPOINTS",
    }
)
"""Variables that change nothing about one request which is not retried."""

_IGNORED_PREFIXES = (
    "AWS_APPCONFIG_EXTENSION_",  # AppConfig's extension, which botocore does not know
    "AWS_ENDPOINT_URL_",  # apart from the supported one, these name other services
    "AWS_LAMBDA_",
    "AWS_XRAY_",
)

_CERTIFICATE_VARIABLES = frozenset({"REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"})
"""Other sources of certificates: botocore reads the first one, OpenSSL the others."""

_CONFIGURATION_FILES = (".aws/config", ".aws/credentials")

_REGION_PREFIXES = frozenset({"af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"})
"""How regions of the partition ``aws`` begin. Other partitions have other domains."""


class AWSCredentials:
    """An access key. Its representation shows nothing of it.

    Attributes:
        access_key_id: The public part.
        secret_access_key: The secret part.
        session_token: Of temporary credentials, or "".
    """

    def __init__(self, access_key_id: str, secret_access_key: str, session_token: str = "") -> None:
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key
        self.session_token = session_token

    def __repr__(self) -> str:
        return "AWSCredentials()"


class Endpoint:
    """The server that requests are sent to.

    Attributes:
        is_tls: Whether to use TLS.
        host: Name or address, without brackets.
        port: TCP port.
        is_configured: Whether a setting names it.
    """

    def __init__(self, is_tls: bool, host: str, port: int, *, is_configured: bool = False) -> None:
        self.is_tls = is_tls
        self.host = host
        self.port = port
        self.is_configured = is_configured

    @property
    def authority(self) -> str:
        """The ``Host`` header: without the default port of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Scheme and authority: endpoints with the same URL are the same server."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"


class ClientConfig:
    """What a request is signed with and sent to.

    Attributes:
        credentials: From the environment.
        region: Region of the signature.
        endpoint: The server.
        ca_bundle: Certificates to trust instead of the system's, or "".
    """

    def __init__(
        self, credentials: AWSCredentials, region: str, endpoint: Endpoint, ca_bundle: str
    ) -> None:
        self.credentials = credentials
        self.region = region
        self.endpoint = endpoint
        self.ca_bundle = ca_bundle


def resolve_config(environ: Mapping[str, str]) -> ClientConfig | None:
    """What ``boto3.client("dynamodb")`` would use in this environment; None: leave it to boto3."""
    if any(map(_needs_boto3, environ)) or _has_configuration_file(environ):
        return None
    credentials, region = _credentials(environ), _region(environ)
    ca_bundle = environ.get("AWS_CA_BUNDLE")
    has_blank_bundle = ca_bundle is not None and not ca_bundle.strip()
    if credentials is None or region is None or has_blank_bundle:
        return None
    url = environ.get("AWS_ENDPOINT_URL_DYNAMODB") or environ.get("AWS_ENDPOINT_URL")
    aws = Endpoint(True, f"dynamodb.{region}.amazonaws.com", 443)
    endpoint = _parse_endpoint(url) if url else aws
    return (
        None if endpoint is None else ClientConfig(credentials, region, endpoint, ca_bundle or "")
    )


def _needs_boto3(variable: str) -> bool:
    if variable.startswith("AWS_"):
        return not (
            variable in _SUPPORTED_VARIABLES
            or variable in IGNORED_VARIABLES
            or variable.startswith(_IGNORED_PREFIXES)
        )
    is_proxy = variable.lower().endswith("_proxy") and variable.lower() != "no_proxy"
    return is_proxy or variable.startswith("BOTO") or variable in _CERTIFICATE_VARIABLES


def _has_configuration_file(environ: Mapping[str, str]) -> bool:
    # pathlib would take 5 ms to import.
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    return any(os.path.exists(f"{home}/{name}") for name in _CONFIGURATION_FILES)  # noqa: PTH110


def _credentials(environ: Mapping[str, str]) -> AWSCredentials | None:
    key = environ.get("AWS_ACCESS_KEY_ID", "")
    secret = environ.get("AWS_SECRET_ACCESS_KEY", "")
    token = environ.get("AWS_SESSION_TOKEN", "")
    text = key + secret + token
    is_header_safe = text.isascii() and text.isprintable() and " " not in text
    return AWSCredentials(key, secret, token) if key and secret and is_header_safe else None


def _region(environ: Mapping[str, str]) -> str | None:
    """AWS_DEFAULT_REGION, which botocore uses; Lambda sets AWS_REGION to the same."""
    region = environ.get("AWS_DEFAULT_REGION", "")
    prefix, _, rest = region.partition("-")
    place, _, number = rest.partition("-")
    is_known = (
        environ.get("AWS_REGION", region) == region
        and prefix in _REGION_PREFIXES
        and _is_lower_alphanumeric(place + number)
        and place.isalpha()
        and number.isdecimal()
    )
    return region if is_known else None


def _parse_endpoint(url: str) -> Endpoint | None:
    """``scheme://host[:port][/]``; any other form is left to boto3."""
    scheme, _, rest = url.partition("://")
    rest = rest.removesuffix("/")
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        is_host = bool(bracket) and _is_ipv6(host)
    else:
        host, colon, port = rest.partition(":")
        port = colon + port
        is_host = _is_host(host)
    number = _parse_port(port, 443 if scheme == "https" else 80)
    if scheme not in ("http", "https") or not is_host or number is None:
        return None
    return Endpoint(scheme == "https", host, number, is_configured=True)


def _is_ipv6(text: str) -> bool:
    from socket import AF_INET6, inet_pton

    try:
        inet_pton(AF_INET6, text)
    except (OSError, ValueError):  # not an address; not even ASCII, or with NUL
        return False
    return text == text.lower()


def _is_host(name: str) -> bool:
    # AWS's own names are checked by botocore: some of them are refused as endpoints.
    labels = name.split(".")
    return (
        len(name) < 254
        and not name.startswith(("dynamodb.", "search-dynamodb."))
        and all(0 < len(label) < 64 and label[0] != "-" != label[-1] for label in labels)
        and _is_lower_alphanumeric("".join(labels).replace("-", ""))
    )


def _is_lower_alphanumeric(text: str) -> bool:
    return text.isascii() and text.isalnum() and text == text.lower()


def _parse_port(text: str, default: int) -> int | None:
    """``:8000`` -> 8000; nothing -> ``default``."""
    if not text:
        return default
    digits = text[1:]
    if text[0] != ":" or len(digits) > 5 or not (digits.isascii() and digits.isdecimal()):
        return None
    number = int(digits)
    return number if 0 < number < 65536 and digits[0] != "0" else None


def build_request(
    config: ClientConfig, operation: str, body: Mapping[str, Any], *, wall_ms: int
) -> bytes:
    """The signed HTTP request."""
    from json import dumps

    content = dumps(body, default=_encode_binary).encode("ascii")
    signed = {
        "Host": config.endpoint.authority,
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": f"DynamoDB_20120810.{operation}",
        "X-Amz-Date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_ms // 1000)),
    }
    if config.credentials.session_token:
        signed["X-Amz-Security-Token"] = config.credentials.session_token
    headers = signed | {
        "Authorization": sign(
            signed, content, config.credentials, region=config.region, service="dynamodb"
        ),
        "Accept-Encoding": "identity",
        "Content-Length": str(len(content)),
        "User-Agent": "lambda-migrate",
    }
    lines = ["POST / HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + content


def _encode_binary(value: bytes) -> str:
    """A binary attribute as JSON holds it."""
    from binascii import b2a_base64

    return b2a_base64(value, newline=False).decode("ascii")


_ALGORITHM = "AWS4-HMAC-SHA256"


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
    """The ``Authorization`` header of a request, by AWS Signature Version 4.

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
