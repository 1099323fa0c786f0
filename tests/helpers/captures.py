"""Captures that tests write: packets of a TCP connection, and the files they are kept in."""

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Connection", "Packets", "cooked", "ethernet", "ip4", "ip6", "loopback", "pcap", "pcapng", "tagged"]

Packets = Sequence[tuple[int, bytes]]  # nanoseconds since 1970, and bytes
SYN, ACK = 0x02, 0x10


def _tcp(source: int, destination: int, sequence: int, flags: int, payload: bytes) -> bytes:
    return struct.pack(">HHIIBBHHH", source, destination, sequence % 2**32, 0, 5 << 4, flags, 65535, 0, 0) + payload


def ip4(source: str, destination: str, tcp: bytes) -> bytes:
    ends = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + ends + tcp


def ip6(source: str, destination: str, tcp: bytes) -> bytes:
    """With an extension header before TCP, as some hosts add one."""
    ends = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return struct.pack(">IHBB", 6 << 28, 8 + len(tcp), 60, 64) + ends + bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp


def ethernet(ip: bytes) -> bytes:
    """With the padding that short frames get."""
    return (bytes(12) + (b"\x86\xdd" if ip[0] >> 4 == 6 else b"\x08\x00") + ip).ljust(60, b"P")


def tagged(ip: bytes) -> bytes:
    return bytes(12) + b"\x88\xa8\x00\x01\x81\x00\x00\x02\x08\x00" + ip


def cooked(ip: bytes) -> bytes:
    return bytes(14) + b"\x08\x00" + ip


def loopback(ip: bytes) -> bytes:
    return struct.pack("<I", 2) + ip


@dataclass
class Connection:
    """A TCP connection whose packets are made as its sides send; each a microsecond after the one before."""

    client: tuple[str, int] = ("10.0.0.1", 40000)
    server: tuple[str, int] = ("10.0.0.2", 9999)
    first: dict[str, int] = field(default_factory=lambda: {"C": 2**32 - 10, "S": 5})  # sequences of SYN: one wraps soon
    packets: list[tuple[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = dict(self.first)
        for side in "CS":
            self._add(side, SYN, b"")
            self._next[side] += 1

    def send(self, side: str, data: bytes, size: int = 1000) -> None:
        """Sends data in segments of at most `size` bytes."""
        for at in range(0, len(data), size):
            self._add(side, ACK, data[at : at + size])
            self._next[side] += len(data[at : at + size])

    def _add(self, side: str, flags: int, payload: bytes) -> None:
        source, destination = (self.client, self.server) if side == "C" else (self.server, self.client)
        tcp = _tcp(source[1], destination[1], self._next[side], flags, payload)
        wrap = ip6 if ":" in source[0] else ip4
        time = 1_700_000_000 * 10**9 + 1000 * len(self.packets)
        self.packets.append((time, wrap(source[0], destination[0], tcp)))


def pcap(packets: Packets, link: int = 101, *, order: str = "<", nanoseconds: bool = False) -> bytes:
    """The classic file of tcpdump."""
    magic, tick = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)]
    for time, data in packets:
        parts.append(struct.pack(order + "IIII", time // 10**9, time % 10**9 // tick, len(data), len(data)) + data)
    return b"".join(parts)


def pcapng(packets: Packets, link: int = 101, *, order: str = "<") -> bytes:
    """The file of Wireshark, with a clock of nanoseconds and a block that nobody needs."""

    def padded(data: bytes) -> bytes:
        return data.ljust((len(data) + 3) // 4 * 4, b"\0")

    def block(kind: int, body: bytes) -> bytes:
        size = len(padded(body)) + 12
        return struct.pack(order + "II", kind, size) + padded(body) + struct.pack(order + "I", size)

    def options(items: Iterable[tuple[int, bytes]]) -> bytes:
        return b"".join(
            struct.pack(order + "HH", code, len(v)) + v.ljust((len(v) + 3) // 4 * 4, b"\0") for code, v in items
        )

    parts = [
        block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack(order + "HHI", link, 0, 0) + options([(2, b"eth0"), (9, b"\x09"), (0, b"")])),
        block(5, bytes(12)),  # statistics
    ]
    for time, data in packets:
        head = struct.pack(order + "IIIII", 0, time >> 32, time & 0xFFFFFFFF, len(data), len(data))
        parts.append(block(6, head + data))
    return b"".join(parts)
