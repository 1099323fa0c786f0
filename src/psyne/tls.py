"""Files for TLS, as ends of network channels take them."""

import os
from dataclasses import dataclass, field

__all__ = ["Tls"]


@dataclass(frozen=True)
class Tls:
    """Files for TLS 1.3, all PEM.

    A bound end needs ``cert`` (with the chain) and ``key``; with ``ca`` it takes only who has a certificate of that
    authority (mutual TLS). A connecting end verifies the certificate always: against ``ca``, or the system's
    authorities. With ``cert`` and ``key`` it shows its own.
    """

    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    ca: str | os.PathLike[str] | None = None
    password: str | None = field(default=None, repr=False)
    """Of the key file."""
    server_name: str | None = None
    """The name in the certificate of the bound end, where it is not the host of the address."""
