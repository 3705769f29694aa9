"""TLS to PostgreSQL by libpq's rules."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from lambda_migrate.database_address import SYSTEM_ROOT_CERTIFICATES

if TYPE_CHECKING:
    import socket

    from lambda_migrate.database_address import DatabaseAddress

__all__ = ["RootCertificateMissing", "make_tls_context", "server_offers_tls"]

_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
"""Length 8 and the code 80877103: the protocol's SSLRequest message."""


class RootCertificateMissing(Exception):
    """The file in ``sslrootcert`` cannot be read as PEM certificates."""


def server_offers_tls(sock: socket.socket) -> bool:
    """Request TLS on a new connection.

    Exactly one byte is read, so that nothing injected before the handshake remains in a buffer.

    Raises:
        ConnectionResetError: The server closed the connection.
    """
    sock.sendall(_SSL_REQUEST)
    answer = sock.recv(1)
    if not answer:
        raise ConnectionResetError("the server closed the connection when TLS was requested")
    return answer == b"S"


def make_tls_context(address: DatabaseAddress) -> ssl.SSLContext:
    """The TLS context for an address.

    ``verify-ca`` verifies the signature of the server's certificate, ``verify-full`` its name too.
    Without ``sslrootcert`` these two trust the system's store (libpq: ``~/.postgresql/root.crt``).
    The weaker modes verify nothing, except with a root certificate: then they act as ``verify-ca``,
    as in libpq.

    Raises:
        RootCertificateMissing: The file cannot be used.
    """
    # Not ssl.create_default_context: since Python 3.13 it requires extensions (VERIFY_X509_STRICT)
    # that private authorities omit and libpq does not require.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = address.effective_sslmode == "verify-full"
    if address.sslrootcert and address.sslrootcert != SYSTEM_ROOT_CERTIFICATES:
        _load_root_certificates(context, address.sslrootcert)
    elif address.effective_sslmode.startswith("verify-"):
        context.load_default_certs()
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_root_certificates(context: ssl.SSLContext, path: str) -> None:
    advice = "sslrootcert must name a file of PEM certificates, or be `system`"
    if not Path(path).is_file():
        raise RootCertificateMissing(f"the root certificate file {path} does not exist; {advice}")
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise RootCertificateMissing(f"{path} cannot be used ({error}); {advice}") from error
