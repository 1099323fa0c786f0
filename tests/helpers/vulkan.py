"""Kernels for tests of Vulkan devices, and what the system says of memory. Child processes import it by its name."""

import gc
import struct
from pathlib import Path
from typing import Any

import psyne

KERNELS = Path(__file__).parent / "kernels"
SCALE, ADD = ((KERNELS / f"{name}.spv").read_bytes() for name in ("scale", "add"))
GROUP = 64  # threads

# Counts for a while, then sets the first element: the slowest way to write 7.
SLOW = """
#version 450
layout(local_size_x = 1) in;
layout(std430, set = 0, binding = 0) buffer Message { uint x[]; } message;
layout(push_constant) uniform Steps { uint n; };
void main() {
    uint a = message.x[1];
    for (uint i = 0; i < n; ++i) a = a * 1664525u + 1013904223u + (a >> 3);
    message.x[2] = a;
    message.x[0] = 7;
}
"""


def scaled(kernel: Any, view: Any, times: float, plus: float) -> Any:
    """Runs SCALE on all of a view; the event."""
    return kernel(view, groups=-(-view.nbytes // (4 * GROUP)), push=struct.pack("ff", times, plus))


def place(address: int) -> tuple[str, int, int]:
    """Device, inode and offset in the file of the byte at an address, as the kernel has mapped it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, device, inode, *_ = line.split()
        first, last = (int(x, 16) for x in span.split("-"))
        if first <= address < last:
            return device, int(inode), int(offset, 16) + address - first
    raise AssertionError(f"nothing is mapped at {address:#x}")


def device_place(view: Any) -> tuple[str, int, int]:
    """The same of a view's first byte, by the mapping of the device."""
    return place(view._registration.mapping.address + view.offset)


def mappings(word: str) -> int:
    """How many mappings of this process have this word in the name of their file."""
    gc.collect()
    return sum(word in line for line in Path("/proc/self/maps").read_text().splitlines())


class ScaleStage:
    """A stage of a pipeline: opens the device in its own process."""

    def __init__(self) -> None:
        self.kernel = psyne.device("vulkan").kernel(SCALE, push=8)

    def __call__(self, m: Any) -> None:
        scaled(self.kernel, self.kernel.device.view(m.image), 2, 1).wait()
