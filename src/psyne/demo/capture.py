"""First program: decodes a video and writes each picture, in RGB, straight into the slot of its message.

The brightness and colour planes are read where the decoder left them. Numbers in between (brightness scaled, colour
terms) live in scratch arrays of the converter; the picture itself is written once, in the slot.
"""

import sys
import time
from typing import Any

import psyne
from psyne import Stage, Struct, f32, u8, u64

from .clip import Clip
from .place import place_of
from .program import await_go, report, run

ALIGN = 256  # bytes: where every device can begin
CAPACITY = 4  # one slot for each program and one to spare: a longer queue only makes pictures older
STAGES: list[Stage | str] = [Stage("analyse", mutate=True), "show"]


def frame_type(width: int, height: int) -> type[Any]:
    """The message: a picture, and room for what later stages find in it.

    The edges lie before the picture, so that they begin at a multiple of 4: Vulkan's kernels write whole words.
    """

    class Frame(Struct):
        stamp = u64()  # nanoseconds, monotonic: when the decoder had the picture
        index = u64()
        sharpness = f32()
        motion = f32()
        edges = u8(height, width)
        image = u8(height, width, 3)

    return Frame


def capture(address: str, path: str, limit: int | None) -> None:
    clip = Clip(path)
    frame = frame_type(clip.width, clip.height)
    to_rgb = clip.converter()
    with psyne.sender(address, frame, stages=STAGES, capacity=CAPACITY, align=ALIGN) as out:
        expected = min(filter(None, (clip.expected, limit)), default=0)
        report(
            size=[clip.width, clip.height],
            expected=expected,
            pixel_format=clip.pixel_format,
            bytes=frame.__layout__.bytes,
        )
        await_go()
        for index, decoded in enumerate(clip.frames()):
            if index == limit:
                break
            stamp = time.monotonic_ns()
            with out.loan() as m:
                m.stamp, m.index = stamp, index
                y, u, v = clip.planes(decoded)
                to_rgb(y, u, v, m.image)
                place = place_of(m.image)
            report(index=index, stamp=stamp, place=place)
        out.drain()


if __name__ == "__main__":
    address, path, limit = sys.argv[1:]
    run(lambda: capture(address, path, int(limit) or None))
