"""The checksums that other tools store, computed from their files."""

from __future__ import annotations

import hashlib
import re
import zlib
from itertools import chain

__all__ = [
    "compute_flyway_checksum",
    "compute_graphile_hash",
    "compute_refinery_checksums",
    "compute_siphash13",
]

_LINE_ENDINGS = re.compile("\r\n|\r|\n")
_MASK = 2**64 - 1


def compute_flyway_checksum(content: bytes) -> str:
    """CRC32 of the lines without their ends and without a byte order mark; signed, 32 bit."""
    lines = _LINE_ENDINGS.sub("", content.decode("utf-8-sig", "replace"))
    checksum = zlib.crc32(lines.encode())
    return str(checksum - 2**32 if checksum >= 2**31 else checksum)


def compute_refinery_checksums(name: str, version: int, sql: str) -> tuple[str, ...]:
    """SipHash-1-3 of name, version and script, with the version in 4 bytes and in 8.

    Rust hashes a text as its bytes and one byte 0xff.
    """
    return tuple(
        str(
            compute_siphash13(
                name.encode()
                + b"\xff"
                + version.to_bytes(size, "little", signed=True)
                + sql.encode()
                + b"\xff"
            )
        )
        for size in (4, 8)
        if version < 2 ** (8 * size - 1)
    )


def compute_graphile_hash(body: str, previous: str) -> str:
    """SHA-1 of the previous hash and the body, both without the white space around them."""
    text = f"{previous}\n{body}".strip() + "\n"
    return f"sha1:{hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()}"


def compute_siphash13(data: bytes) -> int:
    """SipHash with one round per block and three at the end, with the key 0."""
    state = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    whole = len(data) // 8 * 8
    blocks = (int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8))
    last = int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56
    for block in chain(blocks, (last,)):
        state[3] ^= block
        _mix(state)
        state[0] ^= block
    state[2] ^= 0xFF
    for _ in range(3):
        _mix(state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _mix(state: list[int]) -> None:
    """One round of SipHash."""
    for a, b, distance, swap in ((0, 1, 13, True), (2, 3, 16, False)):
        _add(state, a, b, distance, rotate_sum=swap)
    for a, b, distance, swap in ((0, 3, 21, False), (2, 1, 17, True)):
        _add(state, a, b, distance, rotate_sum=swap)


def _add(state: list[int], a: int, b: int, distance: int, *, rotate_sum: bool) -> None:
    state[a] = (state[a] + state[b]) & _MASK
    state[b] = _rotate(state[b], distance) ^ state[a]
    if rotate_sum:
        state[a] = _rotate(state[a], 32)


def _rotate(word: int, distance: int) -> int:
    return (word << distance | word >> (64 - distance)) & _MASK
