"""The CPU as a device: numpy over a mapping of its own. It shows what the other devices do, on every machine."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from .contract import Device, DeviceInfo, Finished, Uploaded, View, Viewable, array_of
from .registry import Registration

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cpu", "CpuView", "devices", "open_device"]

KDL_CPU = 1


class CpuView(View):
    """A view that numpy takes: ``np.asarray(view)`` is the same bytes, by the mapping of the device."""

    @property
    def pointer(self) -> int:
        """The address of the first byte."""
        return self._registration.mapping.address + self.offset

    def numpy(self) -> NDArray[Any]:
        """The bytes as numpy has them, no copy; it keeps the view."""
        return _native.array_at(self.array, self.pointer, self, self.writable)

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.numpy(), dtype, copy=copy)

    def __dlpack__(self, **keywords: Any) -> object:
        return _native.dlpack(self.numpy(), **keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (KDL_CPU, 0)


class CpuCopy(Uploaded):
    """A copy in memory of this process."""

    def __init__(self, device: Device, array: NDArray[Any]) -> None:
        super().__init__(device, array, Finished())
        self._copy = array.copy()

    def numpy(self) -> NDArray[Any]:
        return self._copy.copy()


class Cpu(Device):
    """The CPU."""

    def view(self, message: Viewable | NDArray[np.generic], *, writable: bool | None = None) -> CpuView:
        view = super().view(message, writable=writable)
        assert isinstance(view, CpuView)
        return view

    def upload(self, message: Viewable | NDArray[np.generic], stream: Any = None) -> CpuCopy:
        self.check_open()
        return CpuCopy(self, array_of(message))

    def event(self, stream: Any = None, *views: View) -> Finished:
        """As of devices that have streams; here a function has done its work when it returns."""
        self.check_open()
        return Finished()

    def _register(self, mapping: _native.Mapping, writable: bool) -> None:
        pass

    def _unregister(self, handle: None) -> None:
        pass

    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> CpuView:
        return CpuView(self, registration, array, region)


def devices() -> list[DeviceInfo]:
    """The one that every machine has."""
    product = platform.processor() or platform.machine()
    return [
        DeviceInfo("cpu", "cpu", product, f"numpy {np.__version__}", True, "reads and writes every message in place")
    ]


def open_device(info: DeviceInfo) -> Cpu:
    return Cpu(info)
