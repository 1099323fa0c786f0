"""Zenoh: imported when it is used, opened as the user says."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidArgument, SystemFailure

__all__ = ["QUEUE", "open_session", "schema_key", "zenoh"]

QUEUE = 16  # things between Zenoh's threads and ours; when they wait, Zenoh's do, and with them the network
PATIENCE_MS = 10_000  # until somebody must be there to connect to


def zenoh() -> Any:
    """The module. Raises ImportError with the command that installs it."""
    try:
        import zenoh as module
    except ImportError as error:
        raise ImportError("a bridge to zenoh:// needs eclipse-zenoh: pip install 'psyne[zenoh]'") from error
    return module


def schema_key(key: str, session: str) -> str:
    """Where a source says its types, and that it lives. No wildcard but its own matches a part with an @."""
    return f"{key}/@psyne/{session}"


def open_session(key: str, *, wild: bool, connect: Sequence[str], listen: Sequence[str], config: str | None) -> Any:
    """A session of Zenoh for a key. With endpoints it looks for nobody by multicast.

    Who only connects is a client: routers pass nothing on between peers, which are to connect to each other.
    """
    z = zenoh()
    try:
        z.KeyExpr(key)
    except z.ZError as error:
        raise InvalidArgument(f"zenoh://{key} has a bad key: {_first_line(error)}") from error
    if not wild and ("*" in key or "$" in key):
        raise InvalidArgument(f"zenoh://{key} has wildcards, which only a bridge from zenoh:// can have")
    try:
        config = config or os.environ.get("ZENOH_CONFIG")
        made = z.Config.from_file(config) if config else z.Config()
        if not config:  # one machine has channels; and bridges that are killed leave such memory of Zenoh behind
            made.insert_json5("transport/shared_memory/enabled", "false")
        if connect and not listen and not config:
            made.insert_json5("mode", '"client"')
            made.insert_json5("connect/timeout_ms", str(PATIENCE_MS))
        if connect or listen:
            made.insert_json5("scouting/multicast/enabled", "false")
            made.insert_json5("connect/endpoints", json.dumps(list(connect)))
            made.insert_json5("listen/endpoints", json.dumps(list(listen)))
        return z.open(made)
    except z.ZError as error:
        where = ", ".join([*connect, *listen]) or config or "the network"
        raise SystemFailure(f"no session of Zenoh with {where}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].partition(" at /")[0]
