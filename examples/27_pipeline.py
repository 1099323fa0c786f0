"""A pipeline as one program: capture, rectify, three members that infer, and draw, over the same bytes."""

import numpy as np

import psyne
from psyne import Batch, Sender, Struct, f32, u8, u64

FRAMES = 200


class Frame(Struct, layout="columns"):  # a column per field: a batch of images is one array
    number = u64()
    image = u8(120, 160)
    score = f32()  # filled in by rectify


def capture(out: Sender[Frame]) -> None:
    """The source: when it returns, the stages work off what is left, and the pipeline ends."""
    for number in range(FRAMES):
        with out.loan() as m:
            m.number = number
            m.image[:] = number


def rectify(m: Frame) -> None:
    np.subtract(255, m.image, out=m.image)  # in the slot itself
    m.score = m.image.mean()


class Infer:
    """Made by each member in a process of its own: the place for a model, or a GPU."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, batch: Batch[Frame]) -> None:
        images = batch["image"]  # (k, 120, 160), without a copy
        assert (images.mean(axis=(1, 2)) == batch["score"]).all()
        self.seen += len(images)

    def close(self) -> None:
        assert self.seen <= FRAMES


def draw(m: Frame) -> None:
    assert m.image[0, 0] == 255 - m.number % 256


def main() -> None:
    pipe = psyne.Pipeline(restart="on_crash")
    camera = pipe.source(capture, Frame, name="camera")
    camera.stage(rectify, mutate=True)
    camera.stage(Infer, members=3, batch=8, linger=0.005)
    camera.stage(draw)
    report = pipe.run()  # Ctrl-C: the camera stops first, then the others in their order
    print(report)
    assert [stage.messages for stage in report.source("camera").stages] == [FRAMES] * 3
    assert pipe.draw().startswith("<svg")  # in a notebook `pipe` shows itself


if __name__ == "__main__":
    main()
