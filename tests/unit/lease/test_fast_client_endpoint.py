"""Credentials, region and endpoint are those of botocore, or left to boto3."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from lambda_migrate.lease.dynamodb_request import (
    IGNORED_VARIABLES,
    ClientConfig,
    build_request,
    resolve_config,
    sign,
)
from tests.unit.lease import botocore_requests

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s3cr3t/key+="}
HOME = {"HOME": "/nonexistent"}
PLAIN = {**HOME, **KEYS, "AWS_DEFAULT_REGION": "eu-west-1"}

LAMBDA = {
    **PLAIN,
    "AWS_REGION": "eu-west-1",
    "AWS_SESSION_TOKEN": "t0ken//==",
    "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
    "AWS_LAMBDA_FUNCTION_NAME": "orders",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/orders",
    "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/22/[$LATEST]0",
    "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001",
    "AWS_APPCONFIG_EXTENSION_HTTP_PORT": "2772",
    "AWS_APPCONFIG_EXTENSION_PREFETCH_LIST": "/applications/a/environments/b/configurations/c",
    "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
    "AWS_XRAY_DAEMON_ADDRESS": "169.254.79.129:2000",
    "_AWS_XRAY_DAEMON_ADDRESS": "169.254.79.129",
    "_HANDLER": "app.handler",
    "LAMBDA_TASK_ROOT": "/var/task",
    "TZ": ":UTC",
}


def agreed(environ: dict[str, str]) -> ClientConfig | None:
    """The result of `resolve_config`, after checking that botocore uses the same."""
    config = resolve_config(environ)
    if config is None:
        return None
    botocore_request = botocore_requests.get_item(environ, "leases", "orders")
    url = urlsplit(botocore_request.url)
    endpoint = config.endpoint
    assert (url.scheme == "https", url.hostname) == (endpoint.is_tls, endpoint.host)
    assert (url.port or (443 if endpoint.is_tls else 80)) == endpoint.port
    assert (url.path, url.query) == ("/", "")
    assert botocore_request.region == config.region
    assert botocore_request.verify == (config.ca_bundle or True)
    assert botocore_request.endpoint.removesuffix("/") == f"{url.scheme}://{url.netloc}"
    _assert_same_signature(config, botocore_request)
    return config


def read_values(config: ClientConfig | None) -> tuple[str, ...]:
    """Everything in a config that a request depends on."""
    assert config is not None
    key = config.credentials
    keys = (key.access_key_id, key.secret_access_key, key.session_token)
    return (*keys, config.region, config.endpoint.url, config.ca_bundle)


def _assert_same_signature(config: ClientConfig, botocore_request: botocore_requests.Sent) -> None:
    """Our signature of botocore's headers is botocore's: same credentials, region and host."""
    authorization = botocore_request.headers["Authorization"]
    signed_names = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    lower = {name.lower(): value for name, value in botocore_request.headers.items()}
    assert lower.get("x-amz-security-token", "") == config.credentials.session_token
    headers = {name: lower.get(name, config.endpoint.authority) for name in signed_names}
    assert authorization == sign(
        headers, botocore_request.body, config.credentials, region=config.region, service="dynamodb"
    )


# --- what is supported


def test_the_environment_of_a_lambda_function_is_supported() -> None:
    config = agreed(LAMBDA)
    assert config is not None
    assert not config.endpoint.is_configured
    assert read_values(config) == (
        *("AKIDEXAMPLE", "s3cr3t/key+=", "t0ken//=="),
        "eu-west-1",
        "https://dynamodb.eu-west-1.amazonaws.com",
        "",
    )


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "127.0.0.1:8000"),
        ("http://localhost", "localhost"),
        ("http://localhost:80", "localhost"),
        ("http://localhost:443", "localhost:443"),
        ("https://ddb.example.test:443", "ddb.example.test"),
        ("https://ddb.example.test:80", "ddb.example.test:80"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://vpce-0a1.dynamodb.eu-west-1.vpce.amazonaws.com", None),
    ],
)
def test_an_endpoint_setting_is_used_as_botocore_uses_it(url: str, authority: str | None) -> None:
    for name in ("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"):
        config = agreed({**PLAIN, name: url})
        assert config is not None
        assert config.endpoint.is_configured
        assert config.endpoint.authority == (authority or url.removeprefix("https://"))


def test_the_services_own_endpoint_takes_precedence_over_the_general_one() -> None:
    both = {
        **PLAIN,
        "AWS_ENDPOINT_URL": "http://general:1",
        "AWS_ENDPOINT_URL_DYNAMODB": "http://own:2",
    }
    own, general = agreed(both), agreed({**both, "AWS_ENDPOINT_URL_DYNAMODB": ""})
    assert [each and each.endpoint.host for each in (own, general)] == ["own", "general"]


def test_the_ca_bundle_is_botocores() -> None:
    config = agreed({**PLAIN, "AWS_CA_BUNDLE": "/a.pem"})
    assert config is not None
    assert config.ca_bundle == "/a.pem"


# --- what is left to boto3


@pytest.mark.parametrize(
    "extra",
    [
        {"AWS_PROFILE": "dev"},
        {"AWS_DEFAULT_PROFILE": "dev"},
        {"AWS_CONFIG_FILE": "/etc/aws"},
        {"AWS_SHARED_CREDENTIALS_FILE": "/etc/aws"},
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2"},
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1"},
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"},
        {"AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"},
        {"AWS_SECURITY_TOKEN": "old"},
        {"AWS_BEARER_TOKEN_DYNAMODB": "b"},
        {"AWS_SIGV4A_SIGNING_REGION_SET": "*"},
        {"AWS_AUTH_SCHEME_PREFERENCE": "sigv4a"},
        {"AWS_ENDPOINT_DISCOVERY_ENABLED": "true"},
        {"AWS_DATA_PATH": "/models"},
        {"AWS_SOMETHING_NEW": "1"},
        {"BOTOCORE_EXPERIMENTAL__PLUGINS": "a=b"},
        {"HTTPS_PROXY": "http://proxy:3128"},
        {"https_proxy": "http://proxy:3128"},
        {"HTTP_PROXY": "http://proxy:3128"},
        {"http_proxy": "http://proxy:3128"},
        {"ALL_PROXY": "socks5://proxy"},
        {"AWS_CA_BUNDLE": ""},
        {"AWS_CA_BUNDLE": " "},
        {"REQUESTS_CA_BUNDLE": "/r.pem"},
        {"AWS_CA_BUNDLE": "/a.pem", "REQUESTS_CA_BUNDLE": "/r.pem"},
        {"SSL_CERT_FILE": "/etc/own.pem"},
        {"SSL_CERT_DIR": "/etc/own"},
        {"AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_USE_FIPS_ENDPOINT": "false"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        {"AWS_USE_DUALSTACK_ENDPOINT": "TRUE", "AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_ACCOUNT_ID": "123456789012"},
        {"AWS_ACCOUNT_ID": "123456789012", "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled"},
        {"AWS_ACCOUNT_ID_ENDPOINT_MODE": "required"},
        {"AWS_ENDPOINT_URL": "http://localhost:8000", "AWS_USE_FIPS_ENDPOINT": "true"},
        {"AWS_ENDPOINT_URL": "http://own:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {"AWS_REGION": "us-east-1"},
        {"AWS_DEFAULT_REGION": ""},
        {"AWS_ACCESS_KEY_ID": ""},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_ACCESS_KEY_ID": "with space"},
        {"AWS_SECRET_ACCESS_KEY": "new\nline"},
        {"AWS_SESSION_TOKEN": "tökén"},
        {"AWS_SESSION_TOKEN": "a\r\nX-Injected: 1"},
    ],
    ids=lambda extra: " ".join(f"{name}={value!r}" for name, value in extra.items()),
)
def test_any_other_setting_is_left_to_boto3(extra: dict[str, str]) -> None:
    assert resolve_config(PLAIN) is not None
    assert resolve_config({**PLAIN, **extra}) is None


@pytest.mark.parametrize(
    "region",
    [
        "cn-north-1",
        "us-gov-west-1",
        "us-iso-east-1",
        "us-isob-east-1",
        "eu-isoe-west-1",
        "eusc-de-east-1",
        "aws-global",
        "local",
        "us-east",
        "us-east-1a",
        "US-EAST-1",
        "us-east-1 ",
        "us-éast-1",
        "us-east-¹",
        "us-east-1.evil.test/",
        "xx-north-1",
    ],
)
def test_regions_of_other_partitions_and_forms_are_left_to_boto3(region: str) -> None:
    assert resolve_config({**PLAIN, "AWS_DEFAULT_REGION": region}) is None


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://localhost",
        "http://",
        "http://localhost:",
        "http://localhost:0",
        "http://localhost:08000",
        "http://localhost:65536",
        "http://localhost:8o",
        "http://localhost:\uff18\uff10",
        "http://localhost//",
        "http://localhost/path",
        "http://localhost?query",
        "http://localhost#fragment",
        "http://user:password@localhost",
        "http://LOCALHOST",
        "http://under_score",
        "http://-a.test",
        "http://a..test",
        "http://a.test.",
        "http://bücher.test",
        "http://[::1",
        "http://[1:2]",
        "http://[::12345]",
        "http://[1::2::3]:80",
        "http://[FE80::1]",
        "http://[::1%25eth0]:1",
        "http://[localhost]",
        "http://[::1]x",
        "http://a b",
        "http://" + "a" * 64,
        "https://dynamodb.eu-west-1.api.aws",
        "https://search-dynamodb.eu-west-1.api.aws",
    ],
)
def test_an_endpoint_of_any_other_form_is_left_to_boto3(url: str) -> None:
    assert resolve_config({**PLAIN, "AWS_ENDPOINT_URL_DYNAMODB": url}) is None


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_credentials_from_elsewhere_are_left_to_boto3(missing: str) -> None:
    assert (
        resolve_config({name: value for name, value in LAMBDA.items() if name != missing}) is None
    )


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_a_configuration_file_is_left_to_boto3(tmp_path: Path, name: str) -> None:
    environ = {**PLAIN, "HOME": str(tmp_path)}
    assert resolve_config(environ) is not None
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / name).write_text("[default]\nendpoint_url = http://elsewhere:1\n")
    assert resolve_config(environ) is None


# --- compared with botocore in random environments

regions = st.sampled_from(["us-east-1", "eu-west-1", "ap-southeast-7", "sa-west-1", "il-new-99"])
names = st.from_regex(r"([a-z0-9-]{1,8}\.){0,2}[a-z0-9-]{1,8}", fullmatch=True)
hosts = names | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(lambda ip: f"[{ip}]")
ports = st.just("") | st.integers(0, 70_000).map(lambda port: f":{port}")
urls = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    hosts,
    ports,
    st.sampled_from(["", "/"]),
)
secrets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
environments = st.fixed_dictionaries(
    {
        "HOME": st.just("/nonexistent"),
        "AWS_ACCESS_KEY_ID": st.from_regex(r"[A-Z0-9]{16,20}", fullmatch=True),
        "AWS_SECRET_ACCESS_KEY": secrets,
        "AWS_DEFAULT_REGION": regions,
    },
    optional={
        "AWS_SESSION_TOKEN": st.just("") | secrets,
        "AWS_ENDPOINT_URL": urls,
        "AWS_ENDPOINT_URL_DYNAMODB": st.just("") | urls,
        "AWS_ENDPOINT_URL_S3": urls,
        "AWS_CA_BUNDLE": st.just("/a.pem"),
        "NO_PROXY": st.just("*"),
    },
)


CHOICES = {
    "AWS_DEFAULTS_MODE": "in-region",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "AWS_RETRY_MODE": "adaptive",
    "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
}
"""Values that botocore accepts for these variables."""


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(environments)
@example(LAMBDA)
@example({**PLAIN, **dict.fromkeys(IGNORED_VARIABLES, "1"), **CHOICES})
def test_whatever_is_resolved_is_what_botocore_uses(environ: dict[str, str]) -> None:
    event("resolved" if agreed(environ) else "left to boto3")


def test_variables_that_change_nothing_are_ignored() -> None:
    config = agreed({**PLAIN, **dict.fromkeys(IGNORED_VARIABLES, "1"), **CHOICES})
    assert read_values(config) == read_values(agreed(PLAIN))


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("target", ["orders", 'grö"ßer', "\U0001f600\n"])
def test_body_and_headers_are_botocores(target: str, consistent: bool) -> None:
    config = resolve_config(LAMBDA)
    assert config is not None
    botocore_request = botocore_requests.get_item(LAMBDA, "leases", target, consistent=consistent)
    parameters = {
        "TableName": "leases",
        "Key": {"target": {"S": target}},
        "ConsistentRead": consistent,
    }
    sent = build_request(config, "GetItem", parameters, wall_ms=1_700_000_000_000)
    head, _, body = sent.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first == "POST / HTTP/1.1"
    assert body == botocore_request.body
    for name in ("X-Amz-Target", "Content-Type", "X-Amz-Security-Token"):
        assert headers[name] == botocore_request.headers[name]
    assert headers["Content-Length"] == str(len(body))
    assert headers["X-Amz-Date"] == "20231114T221320Z"
    assert headers["Host"] == "dynamodb.eu-west-1.amazonaws.com"


def test_an_update_is_botocores_to_the_last_byte() -> None:
    config = resolve_config(LAMBDA)
    assert config is not None
    change = {
        "UpdateExpression": "SET #owner = :o ADD fence :one",
        "ConditionExpression": "attribute_not_exists(#owner)",
        "ExpressionAttributeNames": {"#owner": "owner"},
        "ExpressionAttributeValues": {":o": {"S": 'grö"ßer'}, ":one": {"N": "1"}},
        "ReturnValues": "ALL_NEW",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    botocore_request = botocore_requests.update_item(LAMBDA, "leases", "orders", change)
    parameters = {"TableName": "leases", "Key": {"target": {"S": "orders"}}, **change}
    head, _, body = build_request(config, "UpdateItem", parameters, wall_ms=0).partition(
        b"\r\n\r\n"
    )
    assert body == botocore_request.body
    assert f"X-Amz-Target: {botocore_request.headers['X-Amz-Target']}" in head.decode().split(
        "\r\n"
    )


def test_the_representation_of_a_config_shows_no_secret() -> None:
    config = resolve_config(LAMBDA)
    assert config is not None
    text = f"{config!r} {config.credentials!r} {config.endpoint!r}"
    assert not any(LAMBDA[name] in text for name in (*KEYS, "AWS_SESSION_TOKEN"))
