"""A queue between processes as programs know it from `multiprocessing`, its items in slots."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from dataclasses import replace
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

import numpy as np

from . import _native
from .anonymous import channel
from .ends import Receiver, Sender
from .errors import ChannelClosed, Empty, Full, InvalidArgument
from .handover import Handover
from .items import HEAD_ROOM, Item, Raw, decode, encode
from .options import Wait
from .types import Array

__all__ = ["Queue"]

T = TypeVar("T")
SLICE = 0.1  # seconds: how long a put that waits keeps others out

_queues: weakref.WeakSet[Queue[Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for queue in list(_queues):
        queue._begin()


os.register_at_fork(after_in_child=_after_fork)


class Queue(Generic[T]):
    """A queue of many producers and consumers in many processes and threads, as `multiprocessing.Queue` is.

    numpy arrays, ``bytes``, ``str`` and `Struct` messages are written straight into slots of shared memory of
    ``max_bytes`` each. Other objects need ``pickle=True``: then they are pickled, with their buffers (protocol 5) in
    the slot as well. What `get` gives is the caller's own (one copy); with ``copy=False``, here or there, arrays,
    ``bytes`` (as a memoryview) and buffers are read-only views over the slot. Its producer waits there, one round
    later, until the last of them is gone.

    Each process that puts has a ring of slots, made at its first `put`: ``maxsize`` of them, at most 32 MiB or 8 slots.
    What is beyond waits in this process, and a thread puts it in as there is room; of ``maxsize=0`` any number. So
    ``maxsize`` bounds the items of each producing process. Items are given in the order in which they got into slots,
    whoever put them.

    A queue goes to other processes as an argument, by every start method, and to workers of pools. What was put stays
    when its producer has exited; what a consumer held that died is given to another.

    Raises InvalidArgument; NoSpace at the first `put`.
    """

    def __init__(
        self, maxsize: int = 0, *, max_bytes: int = 1 << 20, pickle: bool = False, copy: bool = True,
        wait: Wait = "adaptive",
    ) -> None:  # fmt: skip
        if not isinstance(max_bytes, int) or not 1 <= max_bytes <= 1 << 35:
            raise InvalidArgument(f"max_bytes is the size of an item, 1 to {1 << 35} bytes; got {max_bytes!r}")
        self.max_bytes: int = max_bytes
        self.maxsize: int = max(int(maxsize), 0)
        self._pickles, self._copies = pickle, copy
        size = max(-(-(max_bytes + HEAD_ROOM) // 4096) * 4096, 4096)  # from a page on a ring has any number of slots
        most = min(max((32 << 20) // size, 8), 4096)
        tx, _ = channel(
            Array("u1", size), capacity=min(self.maxsize or most, most), wait=wait, follow=True, timestamps=True
        )
        assert tx._handover is not None
        self._start(replace(tx._handover, oldest_first=True))

    def _start(self, handover: Handover) -> None:
        self._handover = handover
        self._begin()
        _queues.add(self)

    def _begin(self) -> None:
        """Ends of one's own, not joined yet: here at first, and again in a forked child."""
        self._tx: Sender[Array[np.uint8]] = Sender._of(self._handover)
        self._rx: Receiver[Array[np.uint8]] = Receiver._of(self._handover)
        self._put_lock, self._get_lock = threading.Condition(), threading.Lock()
        self._backlog: deque[Raw] = deque()
        self._feeder: threading.Thread | None = None
        self._finalizer: Finalize | None = None
        self._closed = False

    def __getstate__(self) -> tuple[Any, ...]:
        self._check()
        return self._handover, self.max_bytes, self._pickles, self._copies, self.maxsize

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        handover, self.max_bytes, self._pickles, self._copies, self.maxsize = state
        self._start(handover)

    def __repr__(self) -> str:
        return f"<psyne.Queue {self._handover.memory.name}{', closed' if self._closed else ''}>"

    # ---- put ---------------------------------------------------------------------------------------------------

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in; its bytes are copied before this returns.

        Raises Full without room (``block=False``) or within ``timeout`` seconds, TypeError for what needs
        ``pickle=True``, ValueError for more than ``max_bytes``, ChannelClosed, and what pickling raises.
        """
        self._check()
        encoded = encode(item, self._pickles)
        if encoded.bytes > self._tx_bytes:
            raise ValueError(
                f"an item of {encoded.bytes} bytes does not fit into a slot: "
                f"make the queue with max_bytes={encoded.bytes} or more (it has max_bytes={self.max_bytes})"
            )
        deadline = _deadline(block, timeout)
        if not _acquire(self._put_lock, deadline):
            raise Full(f"{self!r} is being put into by another thread")
        try:
            while not self._put(encoded, deadline):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise Full(f"{self!r} is full ({self.maxsize} items of this process wait in it)")
                self._put_lock.wait(left if self._feeder else 0)  # lets others in: close(), and who puts
        finally:
            self._put_lock.release()

    @property
    def _tx_bytes(self) -> int:
        return int(self._handover.types[0].__layout__.bytes)

    def _put(self, item: Item, deadline: float | None) -> bool:
        """With the lock: into a slot, or into the backlog; False when there is no room."""
        self._check()
        if not self._backlog:
            bounded = 0 < self.maxsize <= self._tx.capacity
            left = _left(deadline)
            try:
                slot = (
                    self._tx.loan(timeout=SLICE if left is None else min(left, SLICE))
                    if bounded
                    else self._tx.try_loan()
                )
            except Full:
                return False
            if slot is not None:
                try:
                    item.write(slot.array)
                except BaseException:
                    slot.discard()
                    raise
                self._tx.send(slot)
                return True
        if self.maxsize and len(self._backlog) >= self.maxsize - self._tx.capacity:
            return False
        kept = np.empty(item.bytes, np.uint8)
        item.write(kept)
        self._backlog.append(kept)
        if self._feeder is None:
            self._feeder = threading.Thread(target=self._feed, name="psyne.Queue feeder", daemon=True)
            self._finalizer = Finalize(self, self._flush, args=(self._feeder,), exitpriority=-5)
            self._feeder.start()
        return True

    def _feed(self) -> None:
        """A thread: what is in the backlog, as there is room. Nobody else uses the sender meanwhile."""
        tx, lock, backlog = self._tx, self._put_lock, self._backlog
        try:
            while True:
                slot = tx.loan()
                with lock:
                    kept = backlog[0]
                slot.array[: len(kept)] = kept
                tx.send(slot)
                with lock:
                    backlog.popleft()
                    lock.notify_all()
                    if not backlog:
                        self._feeder = None
                        if self._closed:
                            tx.close()
                        return
        except ChannelClosed:  # the process ends without waiting
            return

    @staticmethod
    def _flush(feeder: threading.Thread) -> None:
        feeder.join()

    def put_nowait(self, item: T) -> None:
        """``put(item, block=False)``"""
        self.put(item, False)

    # ---- get ---------------------------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None, *, copy: bool | None = None) -> T:
        """Take an item out. Raises Empty when there is none (``block=False``) or none comes in ``timeout`` seconds."""
        self._check()
        deadline = _deadline(block, timeout)
        if not _acquire(self._get_lock, deadline):
            raise Empty(f"{self!r} is being read by another thread")
        try:
            message = self._rx.receive(timeout=_left(deadline))
        finally:
            self._get_lock.release()
        thing: T = decode(message.array, self._copies if copy is None else copy, self._pickles)
        return thing

    def get_nowait(self) -> T:
        """``get(block=False)``"""
        return self.get(False)

    # ---- about it ----------------------------------------------------------------------------------------------

    def qsize(self) -> int:
        """How many items wait: those in slots, and those that this process could not put into one yet."""
        self._check()
        return _native.unread(self._handover.memory.fd) + len(self._backlog)

    def empty(self) -> bool:
        """Whether no item waited just now."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether ``maxsize`` items waited just now."""
        return 0 < self.maxsize <= self.qsize()

    def close(self) -> None:
        """Use it no more in this process. What was put is still delivered; other processes go on."""
        with self._put_lock:
            if self._closed:
                return
            self._closed = True
            if self._feeder is None:
                self._tx.close()
            self._put_lock.notify_all()
        self._rx.close()

    def join_thread(self) -> None:
        """After `close`: wait until all that was put lies in slots. A process that ends by itself does that, too."""
        if not self._closed:
            raise ValueError(f"{self!r} is still open: close() it first")
        if (feeder := self._feeder) is not None:
            feeder.join()

    def cancel_join_thread(self) -> None:
        """Let the process end although items wait for a slot: they are lost then."""
        if self._finalizer is not None:
            self._finalizer.cancel()

    def _check(self) -> None:
        if self._closed:
            raise ChannelClosed(f"{self!r} is closed")


def _deadline(block: bool, timeout: float | None) -> float | None:
    if not block:
        return 0.0
    return None if timeout is None else time.monotonic() + max(timeout, 0.0)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _acquire(lock: threading.Lock | threading.Condition, deadline: float | None) -> bool:
    left = _left(deadline)
    return lock.acquire() if left is None else lock.acquire(timeout=left) if left else lock.acquire(False)
