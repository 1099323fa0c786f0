"""A kernel in OpenCL C on messages in place: on a GPU, or on the CPU by PoCL. Needs psyne[opencl] and a driver."""

import numpy as np

import psyne
from psyne import Stage, Struct, f32, u8, u64

HEIGHT, WIDTH = 240, 320


class Frame(Struct, layout="columns"):  # with align=, each column begins where a device can begin
    stamp = u64()
    image = u8(HEIGHT, WIDTH, 4)  # red, green, blue, alpha: a pixel is one uchar4 of the kernel
    light = f32(HEIGHT, WIDTH)


KERNEL = """
kernel void light(const global uchar4 *pixels, global float *light, float gain) {
    size_t i = get_global_id(0);
    float4 c = convert_float4(pixels[i]) / 255;
    light[i] = gain * dot(c.xyz, (float3)(0.2126f, 0.7152f, 0.0722f));
}
"""


def main() -> None:
    try:
        gpu = psyne.device("opencl")
    except psyne.DeviceUnavailable as error:
        print(error)
        return
    print(f"{gpu.info.product}, {gpu.info.driver}: {gpu.info.zero_copy}")
    kernel = gpu.kernel(KERNEL)
    print(kernel)
    stages: list[Stage | str] = [Stage("measure", mutate=True), "show"]
    with (
        psyne.sender("ipc://camera", Frame, align=gpu.info.alignment, stages=stages) as camera,
        psyne.receiver("ipc://camera", Frame, stage="measure") as measure,
        psyne.receiver("ipc://camera", Frame, stage="show") as show,
    ):
        for n in range(3):
            with camera.loan() as m:
                m.stamp = n
                m.image[:] = 85 * n

        for n in range(3):
            with measure.receive() as m:  # this stage may write: the device writes into the slot
                image, light = gpu.view(m.image), gpu.view(m.light)  # the same bytes: regions of the slab's buffer
                kernel(image, light, 2.0, size=HEIGHT * WIDTH).wait()
                half = light.pyopencl() / 2  # and an array of pyopencl; the result is one of its own

            with show.receive() as m:  # this one reads, and so may kernels that declare their buffers const
                assert np.allclose(m.light, 2 * 85 * n / 255, atol=1e-5)
                assert np.allclose(half.get(), m.light / 2)
                print(f"frame {m.stamp}: light {m.light.mean():.3f}")
                try:
                    kernel(gpu.view(m.image), gpu.view(m.light), 1.0, size=HEIGHT * WIDTH)
                except psyne.ReadOnly as refusal:  # checked before the driver sees it
                    print("not here:", str(refusal).split(",")[0])


if __name__ == "__main__":
    main()
