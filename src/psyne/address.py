"""Addresses of channels, and where their memory lies."""

import ipaddress
import os
import re
import stat
import sys
import tempfile

from .errors import IncompatibleChannel, InvalidArgument

__all__ = ["channel_directory", "channel_name", "channel_place", "check_name", "program_name", "tcp_place"]

GENERATION = re.compile(r"\.[0-9a-f]{16}(\.|$)", re.ASCII)
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)


def channel_name(address: str) -> str:
    """The name in ``ipc://name`` or ``memory://name``; raises InvalidArgument for anything else."""
    if not isinstance(address, str):
        raise InvalidArgument(f"an address is a string like 'ipc://camera', not {address!r}")
    scheme, separator, name = address.partition("://")
    if not separator or scheme not in ("ipc", "memory"):
        raise InvalidArgument(
            f"unknown address {address!r}; here it is ipc://name (shared memory of one host) or memory://name (inside "
            "one process). Senders, receivers and taps have tcp://host:port, too"
        )
    check_name(name, address)
    return name


def check_name(name: str, address: str) -> None:
    """Raise InvalidArgument for what cannot be the name of a channel."""
    if not name or "/" in name or "\0" in name or name.startswith(".") or len(name.encode()) > 128:
        raise InvalidArgument(f"bad channel name in {address!r}: 1 to 128 bytes, no '/', no NUL, no '.' in front")
    if GENERATION.search(name):
        raise InvalidArgument(
            f"bad channel name in {address!r}: a '.' and 16 hexadecimal digits is what psyne adds to file names; "
            "use another separator or another length"
        )


def tcp_place(address: str) -> tuple[str, int, str]:
    """Host, port and channel in ``tcp://host:port`` (channel ``""``) or ``tcp://host:port/channel``.

    An IPv6 host stands in brackets, and is returned without them. Raises InvalidArgument for anything else.
    """
    if not isinstance(address, str):
        raise InvalidArgument(f"an address is a string like 'tcp://127.0.0.1:9999', not {address!r}")
    scheme, separator, rest = address.partition("://")
    if not separator or scheme != "tcp":
        raise InvalidArgument(f"unknown address {address!r}; it is tcp://host:port or tcp://host:port/channel")
    place, slash, channel = rest.partition("/")
    if slash:
        check_name(channel, address)
    host, colon, digits = place.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", digits, re.ASCII) or int(digits) > 65535:
        raise InvalidArgument(
            f"bad host or port in {address!r}: tcp://host:port with a port from 0 to 65535 (0, where an end binds: any "
            "that is free); the host 127.0.0.1 is this machine, and 0.0.0.0 binds every interface"
        )
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise InvalidArgument(f"bad IPv6 address in {address!r}: {error}") from None
    elif ":" in host:
        raise InvalidArgument(f"bad host in {address!r}: an IPv6 address stands in brackets, as in tcp://[::1]:9999")
    elif not HOST.fullmatch(host):
        raise InvalidArgument(
            f"bad host in {address!r}: a name or an IPv4 address, letters, digits, '.', '-' and '_' only"
        )
    return host, int(digits), channel


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
