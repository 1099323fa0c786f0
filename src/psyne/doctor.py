"""`psyne doctor`: whether this machine has what psyne needs, and which devices it sees."""

import ctypes
import dataclasses
import json
import os
import platform
import resource
import shutil
import textwrap
import time
from typing import Any

import numpy as np

from . import PsyneError, __version__, _native
from .address import channel_directory
from .devices import DeviceInfo, devices, unavailable
from .inspect import channels_in
from .openers import receiver, sender
from .types import Array

__all__ = ["examine", "told"]

MEMBARRIER = {"x86_64": 324, "aarch64": 283}  # its number
GLOBAL_EXPEDITED = 1 << 1 | 1 << 2  # MEMBARRIER_CMD_GLOBAL_EXPEDITED, and to register for it
UDMABUF = "/dev/udmabuf"
MIB = 1 << 20
LABEL = 12  # columns


def examine() -> dict[str, Any]:
    """All that `told` tells, as plain data. Looking removes what dead processes left behind."""
    directory = channel_directory()
    return {
        "psyne": {"version": __version__, "layout": _native.LAYOUT_VERSION},
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": {
            "name": platform.system(),
            "release": platform.release(),
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
        },
        "message": _message(),
        "directory": _directory(directory),
        "channels": _channels(directory),
        "membarrier": _membarrier(),
        "limits": {"locked_bytes": _limit(resource.RLIMIT_MEMLOCK), "open_files": _limit(resource.RLIMIT_NOFILE)},
        "udmabuf": os.access(UDMABUF, os.R_OK | os.W_OK),
        "devices": [dataclasses.asdict(info) for info in devices()],
        "unavailable": unavailable(),
    }


def told(seen: dict[str, Any], width: int | None = None) -> str:
    """What `examine` found, as text; `width` columns wide, by default as the terminal is."""
    system, directory, limits = (seen[name] for name in ("system", "directory", "limits"))
    rows = [
        ("psyne", f"{seen['psyne']['version']}, Python {seen['python']}, numpy {seen['numpy']}"),
        ("system", f"{system['name']} {system['release']}, {system['machine']}, {system['cpus']} CPUs"),
        ("a message", _message_in_words(seen["message"])),
        ("channels", f"in {directory['path']}, {_filesystem_in_words(directory)}"),
        ("", f"{_room_in_words(directory)}; {_channels_in_words(seen['channels'])}"),
        ("wake-ups", _WAKE_UPS[seen["membarrier"]]),
        ("pinning", f"{_bytes_in_words(limits['locked_bytes'])} (ulimit -l): CUDA pins each slab that it uses"),
        ("files", f"{limits['open_files'] or 'any number'} open ones (ulimit -n): each end has a few"),
        (
            "udmabuf",
            f"{UDMABUF} is {'' if seen['udmabuf'] else 'not here, or not '}for us; Vulkan's second way needs it",
        ),
        ("devices", f"here: {len(seen['devices'])}; kinds that are not: {len(seen['unavailable'])}"),
    ]
    for info in seen["devices"]:
        rows += _device_in_words(DeviceInfo(**info))
    rows += [(f"  {kind}", f"not here: {why}") for kind, why in seen["unavailable"].items()]
    width = max(60, width or shutil.get_terminal_size((100, 24)).columns)
    return "\n".join(_row(label, text, width) for label, text in rows)


def main(as_json: bool) -> int:
    """Prints it. 1 where no message crosses a channel."""
    seen = examine()
    print(json.dumps(seen, indent=1) if as_json else told(seen))
    return 0 if seen["message"]["crosses"] else 1


def _message() -> dict[str, Any]:
    """Sends one through a channel of its own, in the directory of all channels."""
    address, took = f"ipc://psyne-doctor-{os.getpid()}", 0
    try:
        with sender(address, Array("u8")) as out, receiver(address) as rx:
            for sent in range(2):  # the first one joins
                begun = time.perf_counter_ns()
                out.send(sent)
                with rx.receive(timeout=5) as m:
                    took = time.perf_counter_ns() - begun
                    assert m.item() == sent
    except (PsyneError, OSError) as error:
        return {"crosses": False, "error": f"{type(error).__name__}: {error}"}
    return {"crosses": True, "microseconds": took / 1000}


def _directory(path: str) -> dict[str, Any]:
    there = path
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    room = os.statvfs(there)
    return {
        "path": path,
        "exists": os.path.isdir(path),
        "filesystem": _filesystem(there),
        "bytes": room.f_blocks * room.f_frsize,
        "free_bytes": room.f_bavail * room.f_frsize,
    }


def _filesystem(path: str) -> str:
    """Its type, as the kernel calls it; "" where it does not tell."""
    device = os.stat(path).st_dev
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields, _, kind = line.partition(" - ")
                if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                    return kind.split()[0]
    except OSError:
        pass
    return ""


def _channels(directory: str) -> dict[str, Any]:
    """Which are open, and how many files are gone now and were left to lie by dead processes."""
    before = _files(directory)
    names = [name for name in channels_in(directory) if _describes(directory, name)]
    after = _files(directory)
    kept = [file for file in after if any(file.startswith(f"{name}.") for name in names)]
    return {
        "open": [f"ipc://{name}" for name in names],
        "removed_files": len(before - after),
        "other_files": len(after) - len(kept),
    }


def _describes(directory: str, name: str) -> bool:
    try:
        return _native.describe(directory, name) is not None
    except PsyneError:
        return True  # of another version, or damaged


def _files(directory: str) -> set[str]:
    return set(os.listdir(directory)) if os.path.isdir(directory) else set()


def _membarrier() -> bool | None:
    """None: unknown."""
    number = MEMBARRIER.get(platform.machine())
    if number is None or platform.system() != "Linux":
        return None
    there = ctypes.CDLL(None).syscall(number, 0, 0, 0)
    return bool(there > 0 and there & GLOBAL_EXPEDITED == GLOBAL_EXPEDITED)


def _limit(which: int) -> int | None:
    """None: without one."""
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


# ---- in words -------------------------------------------------------------------------------------------------------

_WAKE_UPS = {
    True: "membarrier is there: who sends pays no fence for those who sleep",
    False: "no membarrier (a sandbox may forbid it): each message that is sent costs a fence more",
    None: "whether membarrier is there cannot be told on this machine",
}


def _row(label: str, text: str, width: int) -> str:
    indent = " " * LABEL
    return textwrap.fill(
        text, width, initial_indent=label.ljust(LABEL), subsequent_indent=indent, break_on_hyphens=False
    )


def _message_in_words(message: dict[str, Any]) -> str:
    if message["crosses"]:
        return f"crosses a channel in {message['microseconds']:.0f} µs"
    return f"DOES NOT CROSS a channel: {message['error']}"


def _bytes_in_words(count: int | None) -> str:
    if count is None:
        return "any amount"
    return f"{count / (MIB << 10):.1f} GiB" if count >= MIB << 10 else f"{count / MIB:.1f} MiB"


def _filesystem_in_words(directory: dict[str, Any]) -> str:
    kind = directory["filesystem"]
    if kind in ("tmpfs", "ramfs", "hugetlbfs"):
        where = f"in shared memory ({kind})"
    elif kind:
        where = f"on a disk's file system ({kind}): pages are written to it, so set PSYNE_DIR to a place in /dev/shm"
    else:
        where = "whose file system is unknown"
    return where + ("" if directory["exists"] else "; not there yet, the first channel makes it")


def _room_in_words(directory: dict[str, Any]) -> str:
    free, whole = (_bytes_in_words(directory[name]) for name in ("free_bytes", "bytes"))
    return f"{free} of {whole} are free"


def _channels_in_words(channels: dict[str, Any]) -> str:
    text = f"{len(channels['open'])} open"
    if channels["removed_files"]:
        text += f", {channels['removed_files']} files of dead processes were removed"
    if channels["other_files"]:
        text += f", {channels['other_files']} files that belong to no channel"
    return text


def _device_in_words(info: DeviceInfo) -> list[tuple[str, str]]:
    memory = "memory is unified" if info.unified else "memory is not unified"
    begins = f", from multiples of {info.alignment} bytes on" if info.alignment > 1 else ""
    return [(f"  {info.name}", f"{info.product}; {info.driver}; {memory}; {info.zero_copy}{begins}")]
