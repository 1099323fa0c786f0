"""Messages on devices: the same bytes in the kernels of a GPU. One file for each kind, one contract for all."""

from __future__ import annotations

import atexit
import importlib
import os
import threading
from typing import TYPE_CHECKING, Protocol, cast, overload

from ..errors import DeviceUnavailable, ForkedError, PsyneError
from .contract import Device, DeviceInfo, Event, Uploaded, View

if TYPE_CHECKING:
    from typing import Literal

    from .cpu import Cpu
    from .cuda import Cuda
    from .metal import Metal
    from .opencl import OpenCl
    from .vulkan import Vulkan

__all__ = ["Device", "DeviceInfo", "Event", "Uploaded", "View", "device", "devices", "info_of", "unavailable"]

KINDS = ("cpu", "vulkan", "cuda", "opencl", "metal")  # each is a file beside this one


class Kind(Protocol):
    """What the file of a kind has."""

    def devices(self) -> list[DeviceInfo]:
        """Those that are there, the default one first. Raises DeviceUnavailable: what is missing, what to install."""
        ...

    def open_device(self, info: DeviceInfo) -> Device: ...


_lock = threading.RLock()
_opened: dict[str, Device] = {}
_lost: set[str] = set()  # opened by the parent process, by a driver that does not survive a fork


@overload
def device(name: Literal["vulkan", "vulkan:0", "vulkan:1"]) -> Vulkan: ...
@overload
def device(name: Literal["metal", "metal:0", "metal:1"]) -> Metal: ...
@overload
def device(name: Literal["opencl", "opencl:0", "opencl:1"]) -> OpenCl: ...
@overload
def device(name: Literal["cuda", "cuda:0", "cuda:1"]) -> Cuda: ...
@overload
def device(name: Literal["cpu"]) -> Cpu: ...
@overload
def device(name: str) -> Device: ...
def device(name: str) -> Device:
    """A device of this process, the same for each call: ``psyne.device("cuda:0").view(m)`` is the message on it.

    `name`: the kind, which is its first device, or kind and number. Raises DeviceUnavailable for an unknown name, and
    where the driver is missing; ForkedError in a forked child for one that the parent process has opened.
    """
    with _lock:
        if (found := _opened.get(name)) is not None and not found.closed:
            return found
        if isinstance(name, str) and name.partition(":")[0] in _lost:
            raise ForkedError(
                f"the parent process had opened {name}, and its driver does not survive a fork: use a process that was "
                'spawned (multiprocessing.set_start_method("spawn"))'
            )
        info = info_of(name)
        if (found := _opened.get(info.name)) is None or found.closed:
            found = _opened[info.name] = _kind(info.kind).open_device(info)
        return found


def devices() -> list[DeviceInfo]:
    """All devices that psyne sees here; `psyne.devices.unavailable` says why there are no others."""
    found = []
    for kind in KINDS:
        try:
            found += _kind(kind).devices()
        except PsyneError:  # no driver, or one that fails
            continue
    return found


def unavailable() -> dict[str, str]:
    """The kinds without a device, and why."""
    why = {}
    for kind in KINDS:
        try:
            _kind(kind).devices()
        except PsyneError as error:
            why[kind] = str(error)
    return why


def _kind(kind: str) -> Kind:
    return cast("Kind", importlib.import_module(f".{kind}", __name__))


def info_of(name: str) -> DeviceInfo:
    """What a device is, by the name that `device` takes; nothing is opened. Raises DeviceUnavailable."""
    kind = name.partition(":")[0] if isinstance(name, str) else ""
    if kind not in KINDS:
        raise DeviceUnavailable(f"there is no kind of device for {name!r}; there are {', '.join(KINDS)}")
    there = _kind(kind).devices()
    for number, info in enumerate(there):
        if name in (info.name, f"{kind}:{number}") or (name == kind and number == 0):
            return info
    raise DeviceUnavailable(f"there is no device {name!r} here; there are {', '.join(info.name for info in there)}")


@atexit.register
def _close_all() -> None:
    for it in list(_opened.values()):
        it.close()


def _forked() -> None:
    global _lock
    _lock = threading.RLock()
    _lost.update(it.info.kind for it in _opened.values() if it.info.kind != "cpu")
    _opened.clear()


os.register_at_fork(after_in_child=_forked)
