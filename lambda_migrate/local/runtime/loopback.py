"""Ports on 127.0.0.1."""

from __future__ import annotations

import random
import socket

__all__ = ["HOST", "free_port"]

HOST = "127.0.0.1"

_BELOW_EPHEMERAL = range(20_000, 32_000)
"""Linux gives clients ports from 32768 up: a server that restarts must not find its port taken."""


def free_port() -> int:
    """A port that nobody listens on now and that no client will be given by chance."""
    for port in random.sample(_BELOW_EPHEMERAL, 200):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port found on 127.0.0.1 between 20000 and 32000")
