"""A GLSL kernel on messages in place: on a GPU, or on the CPU by lavapipe. Needs libvulkan and a GLSL compiler."""

import struct

import numpy as np

import psyne
from psyne import Stage, Struct, f32, u8, u64

GROUP = 16  # threads of a work group in x and y
HEIGHT, WIDTH = 240, 320


class Frame(Struct, layout="columns"):  # each column begins where a device can begin
    stamp = u64()
    image = u8(HEIGHT, WIDTH, 4)  # red, green, blue, alpha: a pixel is one uint of the kernel
    light = f32(HEIGHT, WIDTH)


KERNEL = f"""
#version 450
layout(local_size_x = {GROUP}, local_size_y = {GROUP}) in;
layout(std430, set = 0, binding = 0) readonly buffer Image {{ uint pixels[]; }};
layout(std430, set = 0, binding = 1) writeonly buffer Light {{ float light[]; }};
layout(push_constant) uniform Parameters {{ uint width; float gain; }};

void main() {{
    uint x = gl_GlobalInvocationID.x, i = gl_GlobalInvocationID.y * width + x;
    if (x >= width || i >= light.length()) return;  // length(): of this message
    vec4 c = unpackUnorm4x8(pixels[i]);
    light[i] = gain * dot(c.rgb, vec3(0.2126, 0.7152, 0.0722));
}}
"""


def main() -> None:
    try:
        gpu = psyne.device("vulkan")
        kernel = gpu.kernel(KERNEL, push=8)
    except psyne.DeviceUnavailable as error:
        print(error)
        return
    print(f"{gpu.info.product}: {gpu.info.zero_copy}")
    groups = (-(-WIDTH // GROUP), -(-HEIGHT // GROUP))
    with (
        psyne.sender("ipc://camera", Frame, stages=[Stage("measure", mutate=True), "show"]) as camera,
        psyne.receiver("ipc://camera", Frame, stage="measure") as measure,
        psyne.receiver("ipc://camera", Frame, stage="show") as show,
    ):
        for n in range(3):
            with camera.loan() as m:
                m.stamp = n
                m.image[:] = 85 * n

        for n in range(3):
            with measure.receive() as m:  # this stage may write: the device writes into the slot
                views = gpu.view(m.image), gpu.view(m.light)  # the same bytes: an offset in the slab's buffer
                event = kernel(*views, groups=groups, push=struct.pack("If", WIDTH, 2.0))
                event.wait()

            with show.receive() as m:  # this one reads, and so may kernels that declare their buffers readonly
                expected = 2 * 85 * n / 255
                assert np.allclose(m.light, expected, atol=1e-5)
                print(f"frame {m.stamp}: light {m.light.mean():.3f}")
                try:
                    kernel(gpu.view(m.image), gpu.view(m.light), groups=groups, push=bytes(8))
                except psyne.ReadOnly as refusal:  # checked before the driver sees it
                    print("not here:", str(refusal).split(",")[0])


if __name__ == "__main__":
    main()
