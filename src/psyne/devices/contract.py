"""What every device does, and what it leaves to the file of its kind.

::

    message ◀── array ◀── View ──▶ Registration ──▶ mapping of its own, known to the driver
                                        ▲
                          Registry ─────┘  the 64 used last

A device registers the whole payload of a slab once, so a message is an offset in it. The mapping is the device's own:
it does not depend on who else has the slab mapped, and nobody takes it away while the driver needs it.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .. import _native
from ..errors import CannotShare, ChannelClosed, ForkedError, ReadOnly
from .registry import Registration, Registry

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["Device", "DeviceInfo", "Event", "Finished", "Uploaded", "View", "Viewable", "array_of"]


SLICE = 0.0005  # seconds between two looks at an event whose driver waits without a time-out only


class Viewable(Protocol):
    """A message or a batch."""

    @property
    def array(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class DeviceInfo:
    """What a device is, and what it can do without a copy."""

    name: str
    """For `psyne.device`: ``"cuda:0"``."""
    kind: str
    """``"cuda"``."""
    product: str
    """What its maker calls it."""
    driver: str
    """The library and version that drive it."""
    unified: bool
    """Device and CPU have the same memory; else what it reads in place comes over a bus each time."""
    zero_copy: str
    """What it does in place, in one sentence."""
    alignment: int = 1
    """Bytes; a multiple of it is where a message must begin."""


class Event(ABC):
    """Work of a device that is under way. ``out.send(m, after=event)`` sends a loan when it is done."""

    @abstractmethod
    def done(self) -> bool:
        """Is it done? Raises what the work failed with."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Wait, without the GIL, ``timeout`` seconds at most; whether it is done. Raises what the work failed with."""

    def _polled(self, timeout: float) -> bool:
        """`wait` with a time-out, where the driver has none: looks again and again."""
        until = time.monotonic() + timeout
        while not self.done():
            if (left := until - time.monotonic()) <= 0:
                return False
            time.sleep(min(SLICE, left))
        return True


def check_process(pid: int) -> None:
    """Raises ForkedError where an event of the parent process, `pid`, is asked."""
    if os.getpid() != pid:
        raise ForkedError("this event is of the parent process, whose device does the work")


class Finished(Event):
    """Work that was done at once."""

    def done(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> bool:
        return True


class View:
    """A message, a batch or a part of one as a device has it: the same bytes.

    It keeps the message (by ``array``) and the memory of the device. Each device adds its protocols and handles.
    """

    def __init__(self, device: Device, registration: Registration, array: NDArray[Any], region: _native.Region) -> None:
        self.device: Device = device
        self.array: NDArray[Any] = array
        """The same as numpy has it."""
        self.offset: int = region.offset
        """Bytes from the beginning of what the device has registered to the first of the array."""
        self.nbytes: int = region.nbytes
        """Bytes from the first to the last of the array, gaps included."""
        self._registration = registration

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        return self.array.strides

    @property
    def host_address(self) -> int:
        """Of the first byte in the device's own mapping: what the CPU calls the memory that the driver was given."""
        return self._registration.mapping.address + self.offset

    @property
    def writable(self) -> bool:
        """May the device write it now? Not any more once the message was sent or has ended."""
        return self._registration.mapping.writable and _native.region(self.array).writable

    def check_writable(self, what: str) -> None:
        """Raises ReadOnly where `what` would write: a driver does not ask, and a fault ends the process."""
        if not self.writable:
            raise ReadOnly(
                f"{what} would write, and this {_text(self.array)} is read-only on {self.device.name}: it was received "
                "by a stage that does not mutate, is over, or was viewed with writable=False"
            )

    def __repr__(self) -> str:
        return f"<psyne.devices.View of {_text(self.array)} on {self.device.name}>"


class Uploaded(ABC):
    """A copy in memory of the device, for what it reads often. Each device adds its protocols and handles."""

    writable = True

    def __init__(self, device: Device, array: NDArray[Any], event: Event) -> None:
        self.device: Device = device
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self.nbytes: int = array.nbytes
        self.event: Event = event
        """Done when the bytes are there; the message is kept until then."""

    def check_writable(self, what: str) -> None:  # noqa: B027 - it never raises
        """As of a view; a copy is nobody else's."""

    @abstractmethod
    def numpy(self) -> NDArray[Any]:
        """A copy of it in memory of the CPU, once it is there."""


class Device(ABC):
    """A device of this process. `psyne.device` gives the one of a name. Any thread may use it."""

    def __init__(self, info: DeviceInfo) -> None:
        self.info: DeviceInfo = info
        self._pid = os.getpid()
        self._lock = threading.Lock()  # of what the driver does for us
        self._registry = Registry()
        self._over: deque[Registration] = deque()  # nobody uses them any more, but the driver knows them
        self._alive = 0  # registrations that the driver knows
        self._closed = self._shut_down = False

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def closed(self) -> bool:
        return self._closed

    def view(self, message: Viewable | NDArray[np.generic], *, writable: bool | None = None) -> View:
        """The same bytes on the device: of a message, a batch, or an array of one (a field, a slice).

        ``writable``: None is as the message is. Raises ReadOnly for True where it may not be written; CannotShare for
        what is not in the memory of a channel, is empty, lies where the device cannot begin, or has negative strides;
        MessageReleased, ForkedError, ChannelClosed after `close`.
        """
        array = self._array(message)
        region = _native.region(array)
        if writable and not region.writable:
            raise ReadOnly(
                f"this {_text(array)} cannot be written on {self.name}: it was received by a stage that does not "
                "mutate, or is over. A stage with mutate=True may write in place"
            )
        self._check_alignment(array, region)
        registration = self._registered(region, region.writable if writable is None else writable)
        return self._view(registration, array, region)

    @abstractmethod
    def upload(self, message: Viewable | NDArray[np.generic], stream: Any = None) -> Uploaded:
        """A copy in memory of the device, for what it reads often; never made without asking.

        The message is kept until the copy is done.
        """

    def close(self) -> None:
        """Let go of all messages' memory; views that live keep theirs. `psyne.device` then opens the device anew."""
        with self._driver():
            self._closed = True
            self._registry.clear()
        self._bury()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<psyne.devices.Device {self.name}: {self.info.product}{', closed' if self.closed else ''}>"

    # ---- what a kind of device says; `_register`, `_unregister` and `_shut` are called by one thread at a time -------

    @abstractmethod
    def _register(self, mapping: _native.Mapping, writable: bool) -> Any:
        """Makes the mapping known to the driver; what it is there. Raises CannotShare."""

    @abstractmethod
    def _unregister(self, handle: Any) -> None:
        """The driver forgets it, once the work that it does there is done."""

    @abstractmethod
    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> View:
        """The view of an array in a mapping; its handle is ``registration.handle``."""

    def _shut(self) -> None:  # noqa: B027 - most have nothing to do
        """The device is closed, and no view lives."""

    # ---- what it may use --------------------------------------------------------------------------------------------

    @contextmanager
    def _driver(self) -> Iterator[None]:
        """One thread at a time; not inside `_register` and `_unregister`, which have it."""
        try:
            with self._lock:
                yield
        finally:
            self._bury()  # what could not be let go meanwhile

    # ---- registrations ----------------------------------------------------------------------------------------------

    def _registered(self, region: _native.Region, writable: bool) -> Registration:
        with self._driver():
            found = self._registry.find(region, writable)
            if found is None:
                mapping = region.map(writable)
                found = Registration(self._let_go, mapping, self._register(mapping, writable))
                self._alive += 1
                self._registry.add(region, found)
            return found

    def _let_go(self, registration: Registration) -> None:
        """Nobody uses it any more. In any thread, wherever garbage is collected: perhaps inside this driver."""
        self._over.append(registration)
        self._bury()

    def _bury(self) -> None:
        """Lets go of what is over, unless somebody is in the driver: who is does it when he leaves."""
        if os.getpid() != self._pid:
            return self._over.clear()  # the driver is the parent's
        while (self._over or self._may_shut()) and self._lock.acquire(blocking=False):
            try:
                while self._over:
                    registration = self._over.popleft()
                    self._alive -= 1
                    self._unregister(registration.handle)
                    registration.mapping.close()
                if self._may_shut():
                    self._shut_down = True
                    self._shut()
            finally:
                self._lock.release()
        return None

    def _may_shut(self) -> bool:
        return self._closed and self._alive == 0 and not self._shut_down

    # ---- checks, before the driver sees anything --------------------------------------------------------------------

    def check_open(self) -> None:
        """Raises ForkedError, ChannelClosed."""
        if os.getpid() != self._pid:
            raise ForkedError(
                f"the device {self.name} was opened by the parent process, and drivers do not survive a fork: open it "
                "in a process that was spawned"
            )
        if self._closed:
            raise ChannelClosed(f"the device {self.name} was closed; psyne.device({self.name!r}) opens it again")

    def _array(self, message: Viewable | NDArray[np.generic]) -> NDArray[Any]:
        """That of a message, if this device can have such."""
        array = array_of(message)
        self.check_open()
        if array.size == 0:
            raise CannotShare(f"{_text(array)} has no bytes that {self.name} could have")
        if any(stride < 0 for stride in array.strides):
            raise CannotShare(
                f"{self.name} has no negative strides, and this {_text(array)} has {array.strides}: reverse it there"
            )
        return array

    def _check_alignment(self, array: NDArray[Any], region: _native.Region) -> None:
        unit = self.info.alignment
        if rest := region.offset % unit:
            address = array.__array_interface__["data"][0]
            raise CannotShare(
                f"{self.name} needs an address that {unit} divides, and this {_text(array)} is at {address:#x} "
                f"(rest {rest}). Open the sender with align={unit}, put the field at a multiple of {unit} bytes, or "
                "upload() it"
            )


def array_of(message: Viewable | NDArray[np.generic]) -> NDArray[Any]:
    """The array of what is to be viewed. Raises TypeError, MessageReleased."""
    if isinstance(message, np.ndarray):
        return message
    if not hasattr(message, "array"):
        raise TypeError(f"a message, a batch or an array of one is wanted, not {type(message).__name__}")
    return message.array


def _text(array: NDArray[Any]) -> str:
    kind = f"records of {', '.join(array.dtype.names)}, " if array.dtype.names else str(array.dtype)
    return f"{kind}{list(array.shape)}"
