"""Where the edges are in a picture: by numpy, or by a kernel of a device, in the message that has the picture."""

import struct
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

import psyne
from psyne.devices import Event, View, info_of
from psyne.devices.contract import Finished

from .program import DemoError

__all__ = ["DeviceEdges", "check_device", "write_edges"]

GAIN = 3  # so that soft edges show
PIXELS = 512  # that a work group of edges.comp writes

Start = Callable[[View, tuple[int, int, int, int]], Event]


def write_edges(grey: NDArray[np.int16], edges: NDArray[np.uint8]) -> None:
    """How steep the brightness is, |across| + |down|. Every byte is written: the slot held another message."""
    edges[:, :1] = edges[:, -1:] = edges[:1] = edges[-1:] = 0
    steep = np.abs(grey[1:-1, 2:] - grey[1:-1, :-2])
    steep += np.abs(grey[2:, 1:-1] - grey[:-2, 1:-1])
    steep *= GAIN
    np.minimum(steep, 255, out=edges[1:-1, 1:-1], casting="unsafe")


class DeviceEdges:
    """The same by a device: bit by bit what `write_edges` writes."""

    def __init__(self, name: str) -> None:
        self.device = psyne.device(name)
        self._start: Start = STARTS[self.device.info.kind](self.device)

    def __call__(self, m: Any) -> tuple[View, Event]:
        """Starts the kernel on a message. The message as the device has it, and when it is done."""
        view = self.device.view(m)
        height, width = m.edges.shape
        return view, self._start(view, (width, height, offset_of(view, "edges"), offset_of(view, "image")))


def offset_of(view: View, field: str) -> int:
    """Bytes from the beginning of the message."""
    fields: Any = view.dtype.fields
    return int(fields[field][1])


def check_device(name: str) -> None:
    """Raises DemoError, which says what is missing."""
    try:
        kind = info_of(name).kind
    except psyne.DeviceUnavailable as error:
        raise DemoError(f"--device {name}: {error}") from None
    if kind not in STARTS:
        raise DemoError(f"--device {name}: the demo has no kernel for {kind}; it has for {', '.join(STARTS)}")


def _on_cpu(device: Any) -> Start:
    def start(view: Any, picture: tuple[int, int, int, int]) -> Event:
        message = view.numpy()
        write_edges(message["image"][..., 1].astype(np.int16), message["edges"])
        return Finished()

    return start


def _on_vulkan(device: Any) -> Start:
    kernel = device.kernel(_kernel("edges.spv"), push=16)

    def start(view: View, picture: tuple[int, int, int, int]) -> Event:
        groups = -(-picture[0] * picture[1] // PIXELS)
        event: Event = kernel(view, groups=groups, push=struct.pack("4I", *picture))
        return event

    return start


def _on_opencl(device: Any) -> Start:
    return _for_each_pixel(device.kernel(_kernel("edges.cl").decode(), "find_edges"))


def _on_cuda(device: Any) -> Start:
    return _for_each_pixel(device.kernel(_kernel("edges.ptx"), "find_edges"))


def _for_each_pixel(kernel: Any) -> Start:
    def start(view: View, picture: tuple[int, int, int, int]) -> Event:
        event: Event = kernel(view, *picture, size=picture[0] * picture[1])
        return event

    return start


def _kernel(name: str) -> bytes:
    return (files("psyne.demo") / "kernels" / name).read_bytes()


STARTS: dict[str, Callable[[Any], Start]] = {
    "cpu": _on_cpu,
    "vulkan": _on_vulkan,
    "opencl": _on_opencl,
    "cuda": _on_cuda,
}
