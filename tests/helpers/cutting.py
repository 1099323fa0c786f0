"""A proxy between two ends of a TCP connection that cuts it where a test says."""

import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

__all__ = ["HEADER", "Cut", "Proxy"]

HEADER = 32  # bytes of the header of a frame

Way = Literal["C", "S"]  # who sends: the side that connects, or the one that is bound
How = Literal["close", "reset", "hold"]


@dataclass(frozen=True)
class Cut:
    """Where one connection ends: when `byte` bytes of frame number `frame` of a way were passed on.

    Below 0 it is so many bytes before the end of that frame. Without a frame it is that byte of the whole way, of which
    nothing is understood then, as with TLS. "hold" passes nothing on any more and lets both sides wait.
    """

    way: Way
    frame: int | None
    byte: int
    how: How = "close"


class Frames:
    """Where in a stream of bytes a cut is. It finds frames by their lengths."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._passed = 0
        self._frame, self._begin = 0, 0  # the frame that is passing, and where it begins
        self._head = b""  # what there is of its header

    def room(self, data: bytes) -> int | None:
        """How many of these bytes go on before the cut; None: all, and it is not here."""
        if self._cut.frame is None:
            place = self._cut.byte
        else:
            found = self._find(data)
            if found is None:
                self._passed += len(data)
                return None
            place = found
        keep = place - self._passed
        if keep > len(data) or keep < 0:
            self._passed += len(data)
            return None
        return keep

    def _find(self, data: bytes) -> int | None:
        """Where the cut is in the whole stream, if it is known yet."""
        assert self._cut.frame is not None
        at = 0
        while True:
            if self._frame == self._cut.frame and 0 <= self._cut.byte <= HEADER:
                return self._begin + self._cut.byte
            missing = HEADER - len(self._head)
            if missing:
                self._head += data[at : at + missing]
                at += missing
                if len(self._head) < HEADER:
                    return None
            end = self._begin + HEADER + struct.unpack_from("<Q", self._head, 16)[0]
            if self._frame == self._cut.frame:
                return min(end, self._begin + self._cut.byte) if self._cut.byte >= 0 else end + self._cut.byte
            if end > self._passed + len(data):
                return None
            at = end - self._passed
            self._frame, self._begin, self._head = self._frame + 1, end, b""


class Proxy:
    """Listens at `port`, and joins each connection to another one to `target`. `cuts` has one for each, as long as it lasts."""

    def __init__(self, target: int, cuts: Iterable[Cut | None] = ()) -> None:
        self.target = target
        self.connections = 0
        self.made = 0  # cuts
        self._cuts = iter(cuts)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._done = False  # all cuts were given out
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def exhausted(self) -> bool:
        """Was the last cut given out? The connections that follow stay whole."""
        return self._done

    def _accept(self) -> None:
        while True:
            try:
                client = self._listening.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            cut = next(self._cuts, None)
            with self._lock:
                self.connections += 1
                self._done = self._done or cut is None
                self._open |= {client, server}
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for way, source, to in (("C", client, server), ("S", server, client)):
                frames = Frames(cut) if cut is not None and cut.way == way else None
                threading.Thread(target=self._pass, args=(source, to, cut, frames), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, cut: Cut | None, frames: Frames | None) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                keep = frames.room(data) if frames is not None else None
                to.sendall(data if keep is None else data[:keep])
                if keep is not None and cut is not None:
                    with self._lock:
                        self.made += 1
                    if cut.how == "hold":
                        return self._hold(source, to)
                    return self._end(source, to, reset=cut.how == "reset")
        self._end(source, to, reset=False)

    def _hold(self, *sockets: socket.socket) -> None:
        """Nothing passes any more, and nobody hears of it."""
        self._held = sockets
        for one in sockets:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    def _end(self, *sockets: socket.socket, reset: bool) -> None:
        with self._lock:
            self._open -= set(sockets)
        for one in sockets:
            with suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)  # and wakes the thread that reads
            one.close()

    def cut_all(self) -> None:
        """Every connection ends now."""
        with self._lock:
            sockets = list(self._open)
        self._end(*sockets, reset=False)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
