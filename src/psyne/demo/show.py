"""Third program: reads picture and findings out of the same message, and draws some on a contact sheet."""

import sys
import time

import psyne

from .place import place_of
from .program import DemoError, report, run
from .sheet import Sheet


def show(address: str, title: str, path: str) -> None:
    sheet = Sheet(title)
    with psyne.receiver(address, stage="show") as frames:
        report(ready=True)
        for m in frames:
            seen = time.monotonic_ns()
            if sheet.wants(m.index):
                sheet.add(m.index, m.image, m.edges, m.sharpness, m.motion)
            report(index=m.index, stamp=m.stamp, seen=seen, place=place_of(m.image))
    try:
        sheet.save(path)
    except OSError as error:
        raise DemoError(f"the contact sheet cannot be written to {path}: {error.strerror or error}") from None


if __name__ == "__main__":
    address, title, path = sys.argv[1:]
    run(lambda: show(address, title, path))
