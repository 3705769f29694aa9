"""SHA-256, and signatures with it, without loading OpenSSL.

``hashlib`` and ``hmac`` load OpenSSL's library, which takes 3.7 MB and a few milliseconds of each
cold start (docs/reference/benchmarks.md). Python's own SHA-256 is a small module; ``random`` of the
standard library takes its SHA-512 from there in the same way.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # an interpreter may be built without
            from hashlib import sha256

__all__ = ["hmac_sha256", "sha256"]

_BLOCK_BYTES = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """The 32 bytes of HMAC-SHA-256 (RFC 2104)."""
    block = (sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
    inner = sha256(block.translate(_INNER) + message).digest()
    return sha256(block.translate(_OUTER) + inner).digest()
