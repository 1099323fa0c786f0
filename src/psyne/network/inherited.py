"""Sockets that a forked child closes: peers must see when the parent goes, and its port must be free then."""

from __future__ import annotations

import os
import socket
import weakref

__all__ = ["not_inherited"]

_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def not_inherited(sock: socket.socket) -> None:
    """A forked child closes its copy of the descriptor. The parent uses the socket as before."""
    _sockets.add(sock)


def _after_fork() -> None:
    for sock in list(_sockets):
        if (fd := sock.detach()) >= 0:  # the object may live on in the child, and must not close another one's number
            os.close(fd)
    _sockets.clear()


os.register_at_fork(after_in_child=_after_fork)
