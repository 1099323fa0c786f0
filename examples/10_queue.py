"""psyne.Queue in place of multiprocessing.Queue: the same program, but arrays travel in shared memory."""

import multiprocessing
import time
from typing import Any

import numpy as np

import psyne

ITEMS, SIDE = 40, 512


def work(jobs: "psyne.Queue[Any]", answers: "psyne.Queue[Any]") -> None:
    while (image := jobs.get()) is not None:
        image -= image.mean()  # what get() gives is one's own
        answers.put({"image": image, "peak": float(image.max())})


def run(make: Any) -> float:
    """Seconds for all images there and back."""
    jobs, answers = make(), make()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(jobs, answers))
    process.start()
    images = [np.full((SIDE, SIDE), n, "f4") for n in range(ITEMS)]
    for image in images:
        image[0, 0] += SIDE * SIDE
    jobs.put(images[0])
    answers.get()  # the process has started
    start = time.perf_counter()
    for image in images:
        jobs.put(image)
    for image in images:
        answer = answers.get()
        assert answer["image"].shape == image.shape
        assert answer["peak"] > SIDE
    seconds = time.perf_counter() - start
    jobs.put(None)
    process.join()
    assert process.exitcode == 0
    return seconds


def main() -> None:
    ours = run(lambda: psyne.Queue(max_bytes=2 << 20, pickle=True))  # dicts go as pickles, their arrays in slots
    theirs = run(multiprocessing.get_context("spawn").Queue)
    megabytes = 2 * ITEMS * SIDE * SIDE * 4 / 1e6
    print(f"{ITEMS} images there and back, {megabytes:.0f} MB: psyne.Queue {ours * 1e3:.0f} ms", end=", ")
    print(f"multiprocessing.Queue {theirs * 1e3:.0f} ms: {theirs / ours:.1f} times as long")


if __name__ == "__main__":
    main()
