"""Ports on 127.0.0.1."""

from __future__ import annotations

import random
import socket

__all__ = ["HOST", "find_free_port"]

HOST = "127.0.0.1"

_PORTS = range(20_000, 32_000)
"""Linux gives clients ports from 32768 up. A server that restarts finds a port below still free."""


def find_free_port() -> int:
    """A port that is not in use and that the kernel gives to no client."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port on 127.0.0.1 between 20000 and 32000")
