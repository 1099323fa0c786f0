"""/dev/udmabuf for tests: refuses what the kernel's refuses; what it gives, dma_buf_driver.c takes."""

import errno
import fcntl
import os
import struct
import tempfile
from types import SimpleNamespace

from psyne.devices import vulkan_memory

LIMIT = 64 << 20
CREATE = ord("u") << 8 | 0x42 | struct.calcsize("=IIQQ") << 16 | 1 << 30  # _IOW('u', 0x42, struct udmabuf_create)


def ioctl(device: int, request: int, argument: bytes | bytearray) -> int | bytes:
    if isinstance(argument, bytes):
        return argument  # as Python's does, and the descriptor is lost
    memory, flags, offset, nbytes = struct.unpack("=IIQQ", argument)
    seals = fcntl.fcntl(memory, fcntl.F_GET_SEALS)
    if (
        request != CREATE
        or flags & ~1
        or offset % 4096
        or nbytes % 4096
        or not 0 < nbytes <= LIMIT
        or not seals & fcntl.F_SEAL_SHRINK
        or seals & fcntl.F_SEAL_WRITE
    ):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    made = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)
    os.lseek(made, offset, os.SEEK_SET)
    return made


def install() -> None:
    fd, vulkan_memory.UDMABUF = tempfile.mkstemp()
    os.close(fd)
    names = {name: getattr(fcntl, name) for name in ("fcntl", "F_GET_SEALS", "F_SEAL_SHRINK")}
    vulkan_memory.fcntl = SimpleNamespace(**names, ioctl=ioctl)
