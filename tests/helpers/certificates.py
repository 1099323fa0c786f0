"""Files for TLS: two authorities that do not know each other, and certificates of both."""

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization

__all__ = ["HOST", "LOCK", "Files", "write_files"]

HOST = "host.test"
LOCK = "open sesame"


@dataclass
class Files:
    """PEM files. All certificates are of `HOST`."""

    ca: Path
    cert: Path
    key: Path
    locked_key: Path
    """The same key, encrypted with `LOCK`."""
    other_ca: Path
    other_cert: Path
    other_key: Path


def write_files(folder: Path) -> Files:
    """Makes all of them."""
    made = Files(*(folder / f"{name}.pem" for name in Files.__dataclass_fields__))
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(made.ca))
    other.cert_pem.write_to_path(str(made.other_ca))
    for ca, cert, key in ((authority, made.cert, made.key), (other, made.other_cert, made.other_key)):
        issued = ca.issue_cert(HOST)
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
    plain = serialization.load_pem_private_key(made.key.read_bytes(), None)
    made.locked_key.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(LOCK.encode()),
        )
    )
    return made
