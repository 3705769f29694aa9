"""AWS's published test vectors for Signature Version 4, as data.

Source: the ``aws-signing-test-suite`` (``v4``, header signing) in github.com/awslabs/aws-c-auth, at
commit 495329c2433034bd8fd53fc6ba9e0202d3fac876; its older form is known as the
``aws-sig-v4-test-suite``. All share one key, region, service and moment.

Here is every vector whose path and query come in canonical form and whose headers have one value
each; `OUT_OF_SCOPE` names the others, and why a signer of GetItem need not know them.
"""

from __future__ import annotations

from typing import NamedTuple

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
REGION = "us-east-1"
SERVICE = "service"

_UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FORM = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSP"
    "fIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT"
    "7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlz"
    "m8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)


class Vector(NamedTuple):
    """One request and its signature. ``Host`` and ``X-Amz-Date`` are in every one."""

    name: str
    signature: str
    method: str = "GET"
    path: str = "/"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def all_headers(self) -> dict[str, str]:
        return {
            "Host": "example.amazonaws.com",
            "X-Amz-Date": "20150830T123600Z",
            **dict(self.headers),
        }


VECTORS = (
    Vector(
        "get-vanilla",
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    Vector(
        "get-vanilla-with-session-token",
        "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        headers=(
            (
                "X-Amz-Security-Token",
                "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
            ),
        ),
    ),
    Vector(
        "get-vanilla-query",
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    Vector(
        "get-vanilla-empty-query-key",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        query="Param1=value1",
    ),
    Vector(
        "get-vanilla-query-unreserved",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        query=f"{_UNRESERVED}={_UNRESERVED}",
    ),
    Vector(
        "get-unreserved",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        path=f"/{_UNRESERVED}",
    ),
    Vector(
        "get-header-value-trim",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        headers=(("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')),
    ),
    Vector(
        "get-relative-unnormalized",
        "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282",
        path="/example/..",
    ),
    Vector(
        "get-relative-relative-unnormalized",
        "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b",
        path="/example1/example2/../..",
    ),
    Vector(
        "get-slash-unnormalized",
        "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e",
        path="//",
    ),
    Vector(
        "get-slashes-unnormalized",
        "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5",
        path="//example//",
    ),
    Vector(
        "get-slash-dot-slash-unnormalized",
        "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145",
        path="/./",
    ),
    Vector(
        "get-slash-pointless-dot-unnormalized",
        "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff",
        path="/./example",
    ),
    Vector(
        "post-vanilla",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        method="POST",
    ),
    Vector(
        "post-vanilla-query",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        method="POST",
        query="Param1=value1",
    ),
    Vector(
        "post-vanilla-empty-query-value",
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        method="POST",
        query="Param1=value1",
    ),
    Vector(
        "post-header-key-case",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        method="POST",
    ),
    Vector(
        "post-header-key-sort",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        method="POST",
        headers=(("My-Header1", "value1"),),
    ),
    Vector(
        "post-header-value-case",
        "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
        method="POST",
        headers=(("My-Header1", "VALUE1"),),
    ),
    Vector(
        "post-sts-header-before",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        method="POST",
        headers=(("X-Amz-Security-Token", _TOKEN),),
    ),
    # The token is added after signing, and is not fast_client.
    Vector(
        "post-sts-header-after",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        method="POST",
    ),
    Vector(
        "post-x-www-form-urlencoded",
        "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
        method="POST",
        headers=(
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", "13"),
            ("x-amz-content-sha256", _FORM),
        ),
        body=b"Param1=value1",
    ),
    Vector(
        "post-x-www-form-urlencoded-parameters",
        "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
        method="POST",
        headers=(
            ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("Content-Length", "13"),
            ("x-amz-content-sha256", _FORM),
        ),
        body=b"Param1=value1",
    ),
)

OUT_OF_SCOPE = {
    "get-header-key-duplicate": "GetItem has no header twice",
    "get-header-value-multiline": "nor one of several lines",
    "get-header-value-order": "nor one twice",
    "get-relative-normalized": "its path is always `/`, which needs no normalising",
    "get-relative-relative-normalized": "the same",
    "get-slash-dot-slash-normalized": "the same",
    "get-slash-normalized": "the same",
    "get-slash-pointless-dot-normalized": "the same",
    "get-slashes-normalized": "the same",
    "get-space-normalized": "nor encoding",
    "get-space-unnormalized": "nor encoding",
    "get-utf8": "nor encoding",
    "get-vanilla-query-order-encoded": "it has no query to be sorted or encoded",
    "get-vanilla-query-order-key-case": "the same",
    "get-vanilla-utf8-query": "the same",
}
