"""Kernels for tests of Vulkan devices. Child processes import it by its name."""

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


class ScaleStage:
    """A stage of a pipeline: opens the device in its own process."""

    def __init__(self) -> None:
        self.kernel = psyne.device("vulkan").kernel(SCALE, push=8)

    def __call__(self, m: Any) -> None:
        scaled(self.kernel, self.kernel.device.view(m.image), 2, 1).wait()
