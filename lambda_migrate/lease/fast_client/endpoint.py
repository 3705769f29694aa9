"""Who signs, and where to: what botocore would make of the same environment, or None.

Only what a test holds against botocore is done here. Whatever else could have a say (a profile, a
proxy, another partition, a variable that nobody here knows) is a doubt, and boto3 then decides.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lambda_migrate.lease.fast_client.sigv4 import AWSCredentials

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IGNORED_VARIABLES", "SUPPORTED_VARIABLES", "ClientConfig", "Endpoint", "resolve_config"]

SUPPORTED_VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_ACCOUNT_ID",
        "AWS_ACCOUNT_ID_ENDPOINT_MODE",
        "AWS_CA_BUNDLE",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_DYNAMODB",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_USE_FIPS_ENDPOINT",
    }
)

IGNORED_VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY",  # the Java SDK's names
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
"""Variables that change nothing in one GetItem which is not retried."""

_HARMLESS_FAMILIES = (
    "AWS_APPCONFIG_EXTENSION_",  # AppConfig's extension, which botocore does not know
    "AWS_ENDPOINT_URL_",  # its other members name other services
    "AWS_LAMBDA_",
    "AWS_XRAY_",
)

_CONFIGURATION = (".aws/config", ".aws/credentials")

_PARTITION = frozenset({"af", "ap", "ca", "eu", "il", "me", "mx", "sa", "us"})
"""How regions of the partition ``aws`` begin. The others have domains of their own."""

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset("0123456789")
_IN_LABEL = _LETTERS | _DIGITS | {"-"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go.

    Attributes:
        is_tls: Whether by TLS.
        host: Name or address, without brackets.
        port: TCP port.
        is_given: Whether a setting names it.
    """

    is_tls: bool
    host: str
    port: int
    is_given: bool = False

    @property
    def authority(self) -> str:
        """The ``Host`` header: without the port that the scheme implies."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Who signs, and where to.

    Attributes:
        key: Credentials of the environment.
        region: To sign for.
        endpoint: To send to.
        cafile: Whom to trust instead of the system's authorities, or "".
    """

    key: AWSCredentials
    region: str
    endpoint: Endpoint
    cafile: str


def resolve_config(environ: Mapping[str, str]) -> ClientConfig | None:
    """What ``boto3.client("dynamodb")`` would be in this environment; None where it is in doubt."""
    if any(map(_is_doubtful, environ)) or _has_configuration(environ):
        return None
    key, region, cafile = _access_key(environ), _region(environ), _cafile(environ)
    if key is None or region is None or cafile is None:
        return None
    endpoint = _endpoint(environ, region)
    if endpoint is None or (endpoint.is_tls and not cafile and _other_roots(environ)):
        return None
    return ClientConfig(key, region, endpoint, cafile)


def _is_doubtful(name: str) -> bool:
    if name.startswith("AWS_"):
        return not (
            name in SUPPORTED_VARIABLES
            or name in IGNORED_VARIABLES
            or name.startswith(_HARMLESS_FAMILIES)
        )
    lower = name.lower()
    return name.startswith("BOTO") or (lower.endswith("_proxy") and lower != "no_proxy")


def _has_configuration(environ: Mapping[str, str]) -> bool:
    # pathlib would take 5 ms to import.
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111
    return any(os.path.exists(f"{home}/{file}") for file in _CONFIGURATION)  # noqa: PTH110


def _access_key(environ: Mapping[str, str]) -> AWSCredentials | None:
    key, secret = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    token = environ.get("AWS_SESSION_TOKEN", "")
    if not (key and secret and _is_plain(key + secret + token)):
        return None
    return AWSCredentials(key, secret, token)


def _is_plain(text: str) -> bool:
    """Whether it can stand in a header as it is."""
    return text.isascii() and text.isprintable() and " " not in text


def _region(environ: Mapping[str, str]) -> str | None:
    """What AWS_DEFAULT_REGION says, which botocore goes by; Lambda sets AWS_REGION to the same."""
    region = environ.get("AWS_DEFAULT_REGION", "")
    if environ.get("AWS_REGION", region) != region:
        return None
    area, _, rest = region.partition("-")
    place, _, number = rest.partition("-")
    is_known = (
        area in _PARTITION
        and place
        and number
        and set(place) <= _LETTERS
        and set(number) <= _DIGITS
    )
    return region if is_known else None


def _cafile(environ: Mapping[str, str]) -> str | None:
    """The bundle to trust, "" for the system's; a blank one is an error of botocore's to tell."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        if name in environ:
            return environ[name] if environ[name].strip() else None
    return ""


def _other_roots(environ: Mapping[str, str]) -> bool:
    """Whether OpenSSL is told of roots that botocore, which has its own, does not know."""
    return "SSL_CERT_FILE" in environ or "SSL_CERT_DIR" in environ


def _endpoint(environ: Mapping[str, str], region: str) -> Endpoint | None:
    url = _given_url(environ)
    is_fips = _is_true(environ, "AWS_USE_FIPS_ENDPOINT")
    is_dual = _is_true(environ, "AWS_USE_DUALSTACK_ENDPOINT")
    account = _account(environ)
    if account is None:
        return None
    if url:
        return None if is_fips or is_dual else _parsed(url)
    name = "dynamodb-fips" if is_fips else "dynamodb"
    if account and not is_fips:
        name = f"{account}.ddb"
    return Endpoint(True, f"{name}.{region}.{'api.aws' if is_dual else 'amazonaws.com'}", 443)


def _given_url(environ: Mapping[str, str]) -> str:
    if _is_true(environ, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return ""
    return environ.get("AWS_ENDPOINT_URL_DYNAMODB") or environ.get("AWS_ENDPOINT_URL") or ""


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() == "true"


def _account(environ: Mapping[str, str]) -> str | None:
    """The account that the endpoint is to name, or ""."""
    mode = environ.get("AWS_ACCOUNT_ID_ENDPOINT_MODE", "preferred")
    account = environ.get("AWS_ACCOUNT_ID", "")
    if mode == "disabled" or (mode == "preferred" and not account):
        return ""
    is_account = len(account) == 12 and set(account) <= _DIGITS
    return account if mode == "preferred" and is_account else None


def _parsed(url: str) -> Endpoint | None:
    """``scheme://host[:port][/]``; anything more is boto3's to read."""
    scheme, _, rest = url.partition("://")
    rest = rest.removesuffix("/")
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        is_host = bool(bracket) and _is_ipv6(host)
    else:
        host, colon, port = rest.partition(":")
        port = colon + port
        is_host = _is_host(host)
    number = _port(port, 443 if scheme == "https" else 80)
    if scheme not in ("http", "https") or not is_host or number is None:
        return None
    return Endpoint(scheme == "https", host, number, is_given=True)


def _is_ipv6(text: str) -> bool:
    from socket import AF_INET6, inet_pton

    try:
        inet_pton(AF_INET6, text)
    except (OSError, ValueError):  # not an address; not even ASCII, or with NUL
        return False
    return text == text.lower()


def _is_host(name: str) -> bool:
    # AWS's own names are checked by botocore: some of them are refused as overrides.
    labels = name.split(".")
    return (
        len(name) < 254
        and not name.startswith(("dynamodb.", "search-dynamodb."))
        and all(0 < len(each) < 64 and each[0] != "-" != each[-1] for each in labels)
        and set("".join(labels)) <= _IN_LABEL
    )


def _port(text: str, default: int) -> int | None:
    """``:8000`` -> 8000; nothing -> ``default``."""
    if not text:
        return default
    digits = text[1:]
    if text[0] != ":" or not 0 < len(digits) < 6 or not set(digits) <= _DIGITS:
        return None
    number = int(digits)
    return number if 0 < number < 65536 and digits[0] != "0" else None
