"""What the system says of memory that is mapped. Child processes import it by its name."""

import gc
from pathlib import Path
from typing import Any

from psyne import _native

__all__ = ["device_place", "inode_of", "mappings", "place"]

MAPS = Path("/proc/self/maps")


def place(address: int) -> tuple[str, int, int]:
    """Device, inode and offset in the file of the byte at an address, as the kernel has mapped it."""
    for line in MAPS.read_text().splitlines():
        span, _, offset, device, inode, *_ = line.split()
        first, last = (int(x, 16) for x in span.split("-"))
        if first <= address < last:
            return device, int(inode), int(offset, 16) + address - first
    raise AssertionError(f"nothing is mapped at {address:#x}")


def device_place(view: Any) -> tuple[str, int, int]:
    """The same of a view's first byte, by the mapping of the device."""
    return place(view._registration.mapping.address + view.offset)


def inode_of(m: Any) -> int:
    """Of the slab that has a message: its file has no name that the system would tell."""
    return int(_native.region(m.array).key[1])


def mappings(*inodes: int) -> int:
    """How many mappings of these files this process has."""
    gc.collect()
    return sum(int(line.split()[4]) in inodes for line in MAPS.read_text().splitlines())
