"""Where an array really lies: the kernel's word on which bytes of which file a process has mapped."""

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .program import DemoError

__all__ = ["Place", "place_at", "place_of"]

PAGE = os.sysconf("SC_PAGE_SIZE")
PRESENT = 1 << 63
FRAME_NUMBER = (1 << 55) - 1


class Place(NamedTuple):
    """Device, inode and offset name a byte of a shared file for all processes; the page frame is its RAM."""

    device: str
    inode: int
    offset: int
    page_frame: int | None
    """None where the kernel does not tell: it tells root."""


def place_of(array: NDArray[np.generic]) -> Place:
    """Looks the first byte of an array up in this process's own page tables. All of it must be shared memory."""
    return place_at(int(array.__array_interface__["data"][0]), array.nbytes)


def place_at(first: int, nbytes: int) -> Place:
    """The same of an address."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            span, access, start_offset, device, inode, *_ = line.split(maxsplit=5)
            start, end = (int(address, 16) for address in span.split("-"))
            if start <= first < end:
                break
        else:
            raise DemoError(f"address {first:#x} is in none of this process's mappings")
    if first + nbytes > end or access[3] != "s" or not int(inode):
        raise DemoError(f"the {nbytes} bytes at {first:#x} are not one shared file: {line.strip()}")
    return Place(device, int(inode), int(start_offset, 16) + first - start, _page_frame(first))


def _page_frame(address: int) -> int | None:
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            entry = int.from_bytes(os.pread(pagemap.fileno(), 8, address // PAGE * 8), "little")
    except OSError:
        return None
    return (entry & FRAME_NUMBER or None) if entry & PRESENT else None
