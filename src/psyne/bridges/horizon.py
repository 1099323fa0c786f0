"""Nothing goes in circles: what a bridge brought to this machine, no bridge carries away again.

    machine A                    machine B
    ipc://x ─▶ zenoh://k ─▶ ipc://x ─╳▶ zenoh://k      the sender of these messages is a bridge
       ▲          │
       ╰────╳─────╯                                    the source of these messages is the channel itself

So two bridges in both directions join the channels of two machines to one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from ..address import channel_place
from ..ends import Sender
from ..inspect import inspect

__all__ = ["BridgeSender", "brought", "identity"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class BridgeSender(Sender[Any]):
    """The sending end of a bridge; others see that it is one."""

    _program = "psyne bridge"  # no file has this name by accident


def brought(address: str, number: int) -> bool:
    """Is this sender of a channel a bridge?"""
    seen = inspect(address)
    senders = [lane.sender for lane in seen.lanes if lane.sender is not None] if seen else []
    return any(sender.number == number and sender.program == BridgeSender._program for sender in senders)


def identity(address: str) -> str:
    """The same for two bridges at one channel, and only for these; ``""`` while nothing is there."""
    place, name = channel_place(address)
    try:
        directory = os.stat(place)
    except FileNotFoundError:
        return ""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else os.uname().nodename
    return hashlib.sha256(f"{boot} {directory.st_dev} {directory.st_ino} {name}".encode()).hexdigest()
