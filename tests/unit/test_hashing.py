"""Our SHA-256 and HMAC are everybody's."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.hashing import hmac_sha256, sha256


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_it_says_what_the_standard_library_says(key: bytes, message: bytes) -> None:
    assert sha256(message).hexdigest() == hashlib.sha256(message).hexdigest()
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


@pytest.mark.parametrize("length", [63, 64, 65])
def test_a_key_as_long_as_a_block_is_the_last_that_is_not_hashed(length: int) -> None:
    key = b"k" * length
    assert hmac_sha256(key, b"text") == hmac.digest(key, b"text", "sha256")


@pytest.mark.parametrize("missing", [["_sha2"], ["_sha2", "_sha256"]])
def test_an_interpreter_built_without_it_takes_hashlibs(missing: list[str]) -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
from lambda_migrate.hashing import hmac_sha256
print(hmac_sha256(b"key", b"text").hex())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == hmac.digest(b"key", b"text", "sha256").hex(), done.stderr
