"""What ends of network channels take besides the options of local ones."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from .. import options
from ..errors import InvalidArgument
from .security import Side, Tls, context_for, token_bytes
from .sessions import SESSION_TIMEOUT

__all__ = ["HEARTBEAT", "LINGER", "MAX_CONNECTIONS", "MAX_FRAME", "NetworkOptions", "split_options"]

HEARTBEAT = 5.0  # seconds between signs of life; without any for three of them a connection is dead
LINGER = 5.0  # seconds that close() waits for what was sent
MAX_FRAME = 64 << 20  # bytes
MAX_CONNECTIONS = 256


@dataclass(frozen=True)
class NetworkOptions:
    """Checked, and as they are used."""

    token: bytes | None = None
    context: ssl.SSLContext | None = None
    server_name: str | None = None
    checksum: bool = False
    session_timeout: float = SESSION_TIMEOUT
    linger: float = LINGER
    max_frame: int = MAX_FRAME
    heartbeat: float = HEARTBEAT
    max_connections: int = MAX_CONNECTIONS

    @classmethod
    def of(
        cls, side: Side, *, token: str | bytes | None = None, tls: Tls | ssl.SSLContext | None = None,
        checksum: bool = False, session_timeout: float = SESSION_TIMEOUT, linger: float = LINGER,
        max_frame: int = MAX_FRAME, heartbeat: float = HEARTBEAT, max_connections: int = MAX_CONNECTIONS,
    ) -> NetworkOptions:  # fmt: skip
        """Raises InvalidArgument for what can never work."""
        for name, value in (("session_timeout", session_timeout), ("linger", linger)):
            if not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
                raise InvalidArgument(f"{name} is a number of seconds, 0 or more; got {value!r}")
        if not isinstance(heartbeat, (int, float)) or not 0.01 <= heartbeat <= 1e6:
            raise InvalidArgument(f"heartbeat is a number of seconds, 0.01 or more; got {heartbeat!r}")
        if not isinstance(checksum, bool):
            raise InvalidArgument(f"checksum={checksum!r}; it is one of True, False")
        if not isinstance(max_frame, int) or not 1 << 16 <= max_frame < 1 << 48:
            raise InvalidArgument(f"max_frame is a number of bytes, 65536 or more; got {max_frame!r}")
        if type(max_connections) is not int or not 1 <= max_connections <= 1 << 16:
            raise InvalidArgument(f"max_connections is a number from 1 to 65536; got {max_connections!r}")
        return cls(
            token_bytes(token),
            None if tls is None else context_for(tls, side),
            tls.server_name if isinstance(tls, Tls) else None,
            checksum,
            float(session_timeout),
            float(linger),
            max_frame,
            float(heartbeat),
            max_connections,
        )


NAMES = options.NetworkOptions.__annotations__


def split_options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those of the network, and those of the local end."""
    return (
        {name: value for name, value in given.items() if name in NAMES},
        {name: value for name, value in given.items() if name not in NAMES},
    )
