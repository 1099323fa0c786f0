"""Who may connect: where an end may be bound, TLS, and tokens.

A token proves at the handshake that both sides know it. It does not encrypt, and it does not protect what follows from
somebody on the way: only TLS does.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import ssl
from typing import Any, Literal

from ..errors import AuthenticationFailed, InsecureBind, InvalidArgument, ProtocolError, PsyneError, SystemFailure
from ..tls import Tls

__all__ = [
    "Place",
    "Tls",
    "bind_places",
    "context_for",
    "places",
    "proof",
    "proves",
    "speaks_no_tls",
    "tls_failure",
    "token_bytes",
]

Place = tuple[int, Any]  # the family of a socket, and what it binds or connects to
Side = Literal["client", "server"]
LEAST_TOKEN = 16  # bytes
LABELS = {"client": b"psyne client 1", "server": b"psyne server 1"}  # so that no proof can be sent back as the other's


# ---- addresses -----------------------------------------------------------------------------------------------------


def places(host: str, port: int) -> list[Place]:
    """What a host name stands for. Raises SystemFailure where it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SystemFailure(error.errno, f"host {host!r} cannot be resolved: {error.strerror}") from error
    return list(dict.fromkeys((family, place) for family, _, _, _, place in found))


def bind_places(host: str, port: int, *, tls: bool, token: bool) -> list[Place]:
    """What an end binds. Raises InsecureBind where others reach it and it would take anybody."""
    found = places(host, port)
    open_to_others = [place[0] for _, place in found if not _is_loopback(place[0])]
    if open_to_others and not tls and not token:
        where = "an address that" if open_to_others[0] == host else f"{open_to_others[0]}, which"
        raise InsecureBind(
            f"{host} is {where} other hosts reach: give tls=psyne.Tls(cert=…, key=…), or token=…, "
            "which does not encrypt; or bind 127.0.0.1, which only this machine reaches"
        )
    return found


def _is_loopback(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


# ---- TLS -----------------------------------------------------------------------------------------------------------


def context_for(tls: Tls | ssl.SSLContext, side: Side) -> ssl.SSLContext:
    """A context for one side of a connection. Raises InvalidArgument for files and contexts that cannot work."""
    if isinstance(tls, ssl.SSLContext):
        return _checked(tls, side)
    if not isinstance(tls, Tls):
        raise InvalidArgument(f"tls is a psyne.Tls(cert=…, key=…, ca=…) or an ssl.SSLContext, not {tls!r}")
    if (tls.cert is None) != (tls.key is None):
        raise InvalidArgument(f"cert and key go together; got cert={tls.cert!r} and key={tls.key!r}")
    if side == "server" and tls.cert is None:
        raise InvalidArgument("a bound end needs tls=psyne.Tls(cert=…, key=…)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key, lambda: _password(tls))
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        elif side == "client":
            context.load_default_certs()
    except OSError as error:  # ssl.SSLError is one
        raise InvalidArgument(f"cert={tls.cert!s}, key={tls.key!s}, ca={tls.ca!s} cannot be used: {error}") from error
    if side == "server" and tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _password(tls: Tls) -> str:
    if tls.password is None:
        raise InvalidArgument(f"the key {tls.key!s} is encrypted: give password=")
    return tls.password


def _checked(context: ssl.SSLContext, side: Side) -> ssl.SSLContext:
    other = ssl.PROTOCOL_TLS_CLIENT if side == "server" else ssl.PROTOCOL_TLS_SERVER
    if context.protocol == other:
        raise InvalidArgument(f"the ssl.SSLContext of a {side} has protocol=ssl.PROTOCOL_TLS_{side.upper()}")
    if context.minimum_version < ssl.TLSVersion.TLSv1_3:
        raise InvalidArgument(
            f"the ssl.SSLContext allows TLS below 1.3 ({context.minimum_version.name}); "
            "set context.minimum_version = ssl.TLSVersion.TLSv1_3"
        )
    if side == "client" and context.verify_mode != ssl.CERT_REQUIRED:
        raise InvalidArgument("the ssl.SSLContext would take any server; set context.verify_mode = ssl.CERT_REQUIRED")
    return context


def speaks_no_tls(error: ssl.SSLError) -> bool:
    """Did the other side send something else? OpenSSL answers it with nothing: say it in the clear, by REFUSE."""
    return error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "PACKET_LENGTH_TOO_LONG")


def tls_failure(error: ssl.SSLError, peer: str) -> PsyneError:
    """What went wrong in the handshake of TLS, in words of this package."""
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationFailed(
            f"the certificate of {peer} is not trusted: {error.verify_message}; ca= names the authority that it is from"
        )
    if speaks_no_tls(error):
        return ProtocolError(f"{peer} does not speak TLS and this one does: give tls= to both or to none")
    if reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"):
        return ProtocolError(f"{peer} does not speak TLS 1.3, and nothing below is taken")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return AuthenticationFailed(f"{peer} shows no certificate: it needs tls=psyne.Tls(cert=…, key=…)")
    if "ALERT" in reason:
        return AuthenticationFailed(
            f"{peer} refused TLS ({reason.lower().replace('_', ' ')}): it does not trust this end's certificate"
        )
    return ProtocolError(f"TLS with {peer} failed: {error}")


# ---- tokens --------------------------------------------------------------------------------------------------------


def token_bytes(token: str | bytes | None) -> bytes | None:
    """A token as it is used. Raises InvalidArgument for one that could be guessed."""
    if token is None:
        return None
    if not isinstance(token, (str, bytes)):
        raise InvalidArgument(f"a token is a text or bytes, not a {type(token).__name__}")
    plain = token.encode() if isinstance(token, str) else token
    if len(plain) < LEAST_TOKEN:
        raise InvalidArgument(
            f"a token has at least {LEAST_TOKEN} bytes, this one {len(plain)}; secrets.token_hex(32) makes a good one"
        )
    return plain


def proof(token: bytes, side: Side, client: bytes, server: bytes) -> bytes:
    """That one side knows the token: an HMAC over its label and the random bytes of both."""
    return hmac.digest(token, LABELS[side] + client + server, hashlib.sha256)


def proves(given: bytes, token: bytes, side: Side, client: bytes, server: bytes) -> bool:
    """Is this the proof? Takes as long for any answer."""
    return hmac.compare_digest(given, proof(token, side, client, server))
