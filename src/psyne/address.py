"""Addresses of channels, and where their memory lies."""

import os
import re
import stat
import sys
import tempfile

from .errors import IncompatibleChannel, InvalidArgument

__all__ = ["channel_directory", "channel_name", "channel_place", "program_name"]

GENERATION = re.compile(r"\.[0-9a-f]{16}(\.|$)", re.ASCII)


def channel_name(address: str) -> str:
    """The name in ``ipc://name`` or ``memory://name``; raises InvalidArgument for anything else."""
    if not isinstance(address, str):
        raise InvalidArgument(f"an address is a string like 'ipc://camera', not {address!r}")
    scheme, separator, name = address.partition("://")
    if not separator or scheme not in ("ipc", "memory"):
        raise InvalidArgument(
            f"unknown address {address!r}; this version knows ipc://name (shared memory of one host) and memory://name "
            "(inside one process)"
        )
    if not name or "/" in name or "\0" in name or name.startswith(".") or len(name.encode()) > 128:
        raise InvalidArgument(f"bad channel name in {address!r}: 1 to 128 bytes, no '/', no NUL, no '.' in front")
    if GENERATION.search(name):
        raise InvalidArgument(
            f"bad channel name in {address!r}: a '.' and 16 hexadecimal digits is what psyne adds to file names; "
            "use another separator or another length"
        )
    return name


def channel_place(address: str) -> tuple[str, str]:
    """The directory of a channel (``""``: inside this process) and its name."""
    name = channel_name(address)
    return "" if address.startswith("memory://") else channel_directory(), name


def channel_directory() -> str:
    """``$PSYNE_DIR``, or a directory of the user's own in shared memory. Made with mode 0700."""
    given = os.environ.get("PSYNE_DIR")
    if given:
        path = os.path.abspath(given)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path
    base = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    path = os.path.join(base, f"psyne-{os.geteuid()}")
    if os.path.islink(path) or (os.path.exists(path) and not stat.S_ISDIR(os.lstat(path).st_mode)):
        raise IncompatibleChannel(f"{path} is not a directory; remove it or set PSYNE_DIR")
    return path


def program_name() -> str:
    """How this program appears in messages to others."""
    main = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else sys.executable or "python"
    return os.path.basename(main)
