"""What the demo found out: figures, and the comparison of where the three programs saw each message."""

from typing import Any

import numpy as np
from rich.table import Table

from .place import Place
from .program import DemoError

__all__ = ["PROGRAMS", "Result"]

PROGRAMS = ("capture", "analyse", "show")  # in the order in which a message passes them


class Result:
    """Takes in the reports of the three programs, one per message and program; and of a device, if one helps."""

    def __init__(self, clip: str, pids: dict[str, int]) -> None:
        self.clip = clip
        self.pids = pids
        self.expected = 0
        self.latencies: list[int] = []  # nanoseconds from capture to sink
        self.device: dict[str, Any] = {}  # that finds the edges: its name and product
        self._header: dict[str, Any] = {}
        self._places: dict[str, list[Place]] = {name: [] for name in PROGRAMS}
        self._known: dict[Place, Place] = {}  # there are only as many places as slots
        self._first_stamp = self._last_seen = 0

    def take(self, program: str, facts: dict[str, Any]) -> None:
        if "size" in facts:
            self._header, self.expected = facts, facts["expected"]
        if "device" in facts:
            self.device = facts
            self._places[facts["device"]] = []
        if "place" not in facts:
            return
        places = self._places[program]
        if facts["index"] != len(places):
            raise DemoError(f"{program} got frame {facts['index']} when frame {len(places)} was next: one was lost")
        places.append(self._place(facts["place"]))
        if "on_device" in facts:
            self._places[self.device["device"]].append(self._place(facts["on_device"]))
        if program == "show":
            self._first_stamp = self._first_stamp or facts["stamp"]
            self._last_seen = facts["seen"]
            self.latencies.append(facts["seen"] - facts["stamp"])

    def _place(self, told: list[Any]) -> Place:
        place = Place(*told)
        return self._known.setdefault(place, place)

    @property
    def frames(self) -> int:
        """That went through all three programs."""
        return len(self._places[PROGRAMS[-1]])

    @property
    def seconds(self) -> float:
        return (self._last_seen - self._first_stamp) / 1e9

    @property
    def megabytes(self) -> float:
        return self.frames * int(self._header["bytes"]) / 1e6

    def elsewhere(self) -> int:
        """Messages that a program or device did not find on the very bytes of the file that capture had written."""
        written = [place[:3] for place in self._places["capture"]]
        return sum(
            place[:3] != where for places in self._places.values() for place, where in zip(places, written, strict=True)
        )

    def page_frames(self) -> tuple[int, int]:
        """Messages whose page frame all programs could read, and those for which it was the same."""
        rows = zip(*([place.page_frame for place in places] for places in self._places.values()), strict=True)
        readable = [row for row in rows if None not in row]
        return len(readable), sum(len(set(row)) == 1 for row in readable)

    def check(self) -> None:
        """Raises DemoError unless every program saw every message in the memory that capture wrote."""
        counts = {name: len(places) for name, places in self._places.items()}
        if len(set(counts.values())) != 1:
            raise DemoError(f"frames were lost between the programs: {counts}")
        if self.elsewhere():
            looks = (len(self._places) - 1) * self.frames
            raise DemoError(
                f"{self.elsewhere()} of {looks} looks found another device, inode or offset than capture's: the "
                "programs do not share their memory"
            )
        readable, same = self.page_frames()
        if readable and not same:
            raise DemoError("device, inode and offset agree, but for no message do the page frames: not the same RAM")

    def as_dict(self) -> dict[str, Any]:
        p50, p99 = np.percentile(self.latencies, [50, 99]) / 1e6
        readable, same = self.page_frames()
        return {
            "clip": self.clip,
            "size": self._header["size"],
            "pixel_format": self._header["pixel_format"],
            "frames": self.frames,
            "seconds": self.seconds,
            "frames_per_second": self.frames / self.seconds if self.seconds else None,
            "megabytes": self.megabytes,
            "megabytes_per_second": self.megabytes / self.seconds if self.seconds else None,
            "latency_ms": {"p50": p50, "p99": p99},
            "bytes_copied": self.elsewhere() * int(self._header["bytes"]),
            "same_memory": not self.elsewhere(),
            "page_frames": {"readable": readable, "same": same},
            "programs": {
                name: {"pid": self.pids[name], "places": [place._asdict() for place in self._places[name]]}
                for name in PROGRAMS
            },
            "device": self.device
            and {
                "name": self.device["device"],
                "product": self.device["product"],
                "places": [place._asdict() for place in self._places[self.device["device"]]],
            },
        }

    def table(self) -> Table:
        figures = self.as_dict()
        latency = figures["latency_ms"]
        table = Table(show_header=False, title="capture → analyse → show", title_justify="left")
        table.add_row("frames", f"{self.frames}, {figures['size'][0]} × {figures['size'][1]}, none lost")
        if self.seconds:
            table.add_row("frames/s", f"{figures['frames_per_second']:.1f}")
            table.add_row("MB/s", f"{figures['megabytes_per_second']:.1f}")
        table.add_row("latency, capture to sink", f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms")
        if self.device:
            table.add_row("edges, in place", f"{self.device['device']}: {self.device['product']}")
        table.add_row("bytes copied by Psyne after the first write", f"{figures['bytes_copied']}")
        return table

    def proof(self) -> Table:
        """One message as the programs saw it, and the verdict over all."""
        index = self.frames // 2
        table = Table(title=f"proof: where the image of frame {index} lies", title_justify="left", show_footer=True)
        readable, alike = self.page_frames()
        verdict = "DIFFERENT" if self.elsewhere() else "same"
        pages = f"same in {alike} of {readable}" if readable else ""
        footers = (f"all {self.frames} frames", "", verdict, verdict, verdict, pages)
        headings = ("process", "pid", "device", "inode", "file offset", "page frame")
        for heading, footer in zip(headings, footers, strict=True):
            table.add_column(heading, footer)
        for name in sorted(self._places, key=lambda name: name == "show"):  # a device right behind its program
            place = self._places[name][index]
            pid = self.pids[name if name in PROGRAMS else "analyse"]
            page = "for root only" if place.page_frame is None else f"{place.page_frame:#x}"
            table.add_row(name, str(pid), place.device, str(place.inode), f"{place.offset:#x}", page)
        return table
