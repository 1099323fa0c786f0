"""A pipeline with a stage on a GPU: the CPU decodes, a kernel changes the picture in place, the CPU draws it.

Runs on any GPU that Vulkan knows, or on the CPU by lavapipe. Needs libvulkan and a GLSL compiler.
"""

import struct

import numpy as np

import psyne
from psyne import Sender, Struct, u8, u64

HEIGHT, WIDTH, FRAMES = 240, 320, 30
GROUP = 128  # threads of a work group

KERNEL = f"""
#version 450
layout(local_size_x = {GROUP}) in;
layout(std430, set = 0, binding = 0) buffer Image {{ uint pixels[]; }};
layout(push_constant) uniform Parameters {{ float gain; }};

void main() {{
    uint i = gl_GlobalInvocationID.x;
    if (i >= pixels.length()) return;
    vec4 c = unpackUnorm4x8(pixels[i]);
    pixels[i] = packUnorm4x8(vec4(vec3(gain * dot(c.rgb, vec3(0.2126, 0.7152, 0.0722))), c.a));
}}
"""


class Frame(Struct):
    image = u8(HEIGHT, WIDTH, 4)  # red, green, blue, alpha; first, so that a device can begin there
    number = u64()


def decode(out: Sender[Frame]) -> None:
    """The source, on the CPU: stands for a decoder that writes into the slot."""
    for number in range(FRAMES):
        with out.loan() as m:
            m.number = number
            m.image[:] = 255
            m.image[..., :3] = 4 * number


class Grey:
    """The stage on the GPU. Made in the worker's own process, which is where a device belongs."""

    def __init__(self) -> None:
        self.gpu = psyne.device("vulkan")
        self.kernel = self.gpu.kernel(KERNEL, push=4)

    def __call__(self, m: Frame) -> None:
        view = self.gpu.view(m.image)  # the same bytes: an offset in the slab, which the driver knows
        event = self.kernel(view, groups=-(-HEIGHT * WIDTH // GROUP), push=struct.pack("f", 2.0))
        m.release(after=event)  # drawn when the kernel is done; this worker goes on to the next frame at once

    def close(self) -> None:
        """All events are done by now."""
        self.gpu.close()


def draw(m: Frame) -> None:
    """The last stage, on the CPU: it never sees a frame that the kernel has not finished."""
    expected = min(255, 8 * m.number)
    assert np.abs(m.image[..., :3].astype(int) - expected).max() <= 1
    assert (m.image[..., 3] == 255).all()
    if m.number % 10 == 0:
        print(f"frame {m.number}: {m.image[0, 0].tolist()}", flush=True)


def main() -> None:
    try:
        print(psyne.device("vulkan").info.zero_copy)
        Grey()
    except psyne.DeviceUnavailable as error:
        print(error)
        return
    pipe = psyne.Pipeline()
    camera = pipe.source(decode, Frame, name="camera", capacity=4, align=256)
    camera.stage(Grey, mutate=True).stage(draw)
    report = pipe.run()
    print(report)
    assert [stage.messages for stage in report.source("camera").stages] == [FRAMES] * 2


if __name__ == "__main__":
    main()
