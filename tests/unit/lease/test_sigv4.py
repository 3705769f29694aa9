"""Signatures equal those of AWS's published vectors, and botocore's for any request."""

from __future__ import annotations

from datetime import datetime, timezone
from string import ascii_letters, digits
from unittest.mock import patch

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_migrate.lease.dynamodb_request import AWSCredentials, sign
from tests.unit.lease.sigv4_vectors import (
    ACCESS_KEY,
    OUT_OF_SCOPE,
    REGION,
    SECRET_KEY,
    SERVICE,
    VECTORS,
    Vector,
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_awss_vectors_are_signed_as_aws_signs_them(vector: Vector) -> None:
    signed_names = ";".join(sorted(name.lower() for name in vector.all_headers))
    assert sign(
        vector.all_headers,
        vector.body,
        AWSCredentials(ACCESS_KEY, SECRET_KEY),
        region=REGION,
        service=SERVICE,
        method=vector.method,
        path=vector.path,
        query=vector.query,
    ) == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={signed_names}, Signature={vector.signature}"
    )


def test_every_vector_of_the_suite_is_either_tested_or_listed_as_out_of_scope() -> None:
    names = [vector.name for vector in VECTORS]
    assert len(names) == len(set(names)) == 23
    assert not set(names) & set(OUT_OF_SCOPE)
    assert len(names) + len(OUT_OF_SCOPE) == 38


words = st.text(ascii_letters + digits + "/+=_-", min_size=1, max_size=60)
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
hosts = st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,10}){0,3}(:[1-9][0-9]{1,3})?", fullmatch=True)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31))
own_headers = st.dictionaries(
    st.from_regex(r"[Xx]-[A-Za-z0-9][A-Za-z0-9-]{0,20}", fullmatch=True).filter(
        lambda name: not name.lower().startswith("x-amz")
    ),
    printable,
    max_size=4,
)


@pytest.mark.slow
@settings(deadline=None)
@given(
    access_key=words,
    secret=words,
    token=st.one_of(st.just(""), words),
    region=words,
    service=words,
    host=hosts,
    body=st.binary(max_size=200),
    extra=own_headers,
    moment=moments,
    is_tls=st.booleans(),
)
def test_the_signature_is_botocores(
    access_key: str,
    secret: str,
    token: str,
    region: str,
    service: str,
    host: str,
    body: bytes,
    extra: dict[str, str],
    moment: datetime,
    is_tls: bool,
) -> None:
    extra = {name.lower(): value for name, value in extra.items()}
    url = f"{'https' if is_tls else 'http'}://{host}/"
    request = AWSRequest("POST", url, headers={**extra, "Host": host}, data=body)
    with patch(
        "botocore.auth.get_current_datetime", return_value=moment.replace(tzinfo=timezone.utc)
    ):
        SigV4Auth(Credentials(access_key, secret, token or None), service, region).add_auth(request)
    botocore_request = dict(request.headers.items())
    expected = botocore_request.pop("Authorization")
    key = AWSCredentials(access_key, secret, token)
    assert sign(botocore_request, body, key, region=region, service=service) == expected


def test_no_representation_shows_a_key() -> None:
    key = AWSCredentials("AKIDVISIBLE", "s3cr3t-key", "t0ken")
    for text in (repr(key), str(key), f"{key}"):
        assert not any(part in text for part in ("AKIDVISIBLE", "s3cr3t-key", "t0ken"))
