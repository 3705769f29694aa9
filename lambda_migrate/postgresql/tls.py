"""TLS to PostgreSQL by libpq's rules: who may stay in plaintext, what is verified, and how."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.postgresql.address import SYSTEM_ROOTS

if TYPE_CHECKING:
    import socket

    from lambda_migrate.postgresql.address import DatabaseAddress

__all__ = ["RootCertificateMissing", "context_for", "server_offers_tls"]

_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
"""Length 8 and the code 80877103: the protocol's SSLRequest message."""


class RootCertificateMissing(Exception):
    """The file that ``sslrootcert`` names cannot be read as PEM certificates."""


def server_offers_tls(sock: socket.socket) -> bool:
    """Ask for TLS on a fresh connection.

    Exactly one byte is read, so that nothing injected before the handshake survives it.

    Raises:
        ConnectionResetError: The server hung up instead of answering.
    """
    sock.sendall(_SSL_REQUEST)
    answer = sock.recv(1)
    if not answer:
        raise ConnectionResetError("the server hung up when asked for TLS")
    return answer == b"S"


def context_for(address: DatabaseAddress) -> ssl.SSLContext:
    """What an address demands of the server's certificate.

    ``verify-ca`` checks who signed it, ``verify-full`` also whom it names. Without
    ``sslrootcert`` these two trust the system's store (libpq: ``~/.postgresql/root.crt``). The
    weaker modes verify nothing, unless a root certificate is given: then they act as
    ``verify-ca``, as libpq does.

    Raises:
        RootCertificateMissing: The named file cannot be used.
    """
    # Not ssl.create_default_context: since Python 3.13 it demands extensions (VERIFY_X509_STRICT)
    # that private authorities leave out and libpq does not ask for.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = address.tls_mode == "verify-full"
    if address.sslrootcert and address.sslrootcert != SYSTEM_ROOTS:
        _trust(context, address.sslrootcert)
    elif address.tls_mode.startswith("verify-"):
        context.load_default_certs()
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust(context: ssl.SSLContext, path: str) -> None:
    advice = "sslrootcert must name a file of PEM certificates, or be `system`"
    if not Path(path).is_file():
        raise RootCertificateMissing(f"the root certificate file {path} does not exist; {advice}")
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise RootCertificateMissing(f"{path} cannot be used ({error}); {advice}") from error
