"""What went over TCP, out of a file that tcpdump, Wireshark or tools/record.py wrote.

    file ─▶ packets() ─▶ segment() ─▶ streams(): the bytes of each direction of each connection, in their order

Knows pcap and pcapng, Ethernet (with VLAN tags), Linux "cooked", BSD loopback and raw IP, IPv4 and IPv6. Fragments are
passed over; checksums of IP and TCP are not looked at, since network cards fill them in after the capture.
"""

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

__all__ = ["Chunk", "Damaged", "Packet", "Segment", "Stream", "is_capture", "packets", "segment", "streams"]

PCAP = {  # the magic number: byte order, nanoseconds of one tick
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
SECTION, INTERFACE, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 3, 6  # blocks of pcapng
LOOPBACK, ETHERNET, RAW, LOOP, COOKED, IPV4, IPV6, COOKED_2 = 0, 1, 101, 108, 113, 228, 229, 276
RAW_TOO = (12, 14)  # what some systems write for RAW
VLAN = (0x8100, 0x88A8)
TCP = 6
EXTENSIONS = (0, 43, 60)  # headers between IPv6 and TCP: hop by hop, routing, destination
SYN = 0x02


class Damaged(ValueError):
    """The file is no capture, or ends in the middle of something."""


class Packet(NamedTuple):
    time: int  # nanoseconds since 1970
    link: int  # which link layer, by the numbers of tcpdump.org/linktypes.html
    data: bytes


class Segment(NamedTuple):
    source: tuple[str, int]
    destination: tuple[str, int]
    sequence: int
    syn: bool
    payload: bytes


class Chunk(NamedTuple):
    """Bytes that follow each other in one direction; `missing` bytes before them are not in the capture.

    `time` is when they and all before them were there.
    """

    time: int
    missing: int
    data: bytes


# ---- files ---------------------------------------------------------------------------------------------------------


def is_capture(data: bytes) -> bool:
    """Is it a file of packets?"""
    return data[:4] in PCAP or data[:4] == SECTION.to_bytes(4, "big")


def packets(data: bytes) -> Iterator[Packet]:
    """All packets of a file. Raises Damaged behind the last one that is whole, where more should follow."""
    return _pcap(data) if data[:4] in PCAP else _pcapng(data)


def _cut(data: bytes, at: int, size: int, what: str) -> bytes:
    if size < 0 or at + size > len(data):
        raise Damaged(f"{what} at {at} should have {size} bytes; the file ends {len(data) - at} bytes after its begin")
    return data[at : at + size]


def _pcap(data: bytes) -> Iterator[Packet]:
    order, tick = PCAP[data[:4]]
    link = struct.unpack_from(order + "I", _cut(data, 0, 24, "the header of the file"), 20)[0] & 0xFFFF
    at = 24
    while at < len(data):
        seconds, ticks, size, _ = struct.unpack(order + "IIII", _cut(data, at, 16, "the header of a packet"))
        yield Packet(seconds * 10**9 + ticks * tick, link, _cut(data, at + 16, size, "a packet"))
        at += 16 + size


def _pcapng(data: bytes) -> Iterator[Packet]:
    order, at = "<", 0
    interfaces: list[tuple[int, int, int]] = []  # link, ticks of a second, seconds to add
    while at < len(data):
        head = _cut(data, at, 12, "a block")
        if head[:4] == SECTION.to_bytes(4, "big"):
            order = "<" if head[8:] == bytes.fromhex("4d3c2b1a") else ">"
            interfaces = []
        kind, size = struct.unpack_from(order + "II", head)
        if size < 12 or size % 4:
            raise Damaged(f"a block at {at} says that it has {size} bytes")
        body = _cut(data, at, size, "a block")[8:-4]
        at += size
        try:
            if kind == INTERFACE:
                interfaces.append(_interface(order, body))
            elif kind == ENHANCED:
                number, high, low, length = struct.unpack_from(order + "IIII", body)
                link, second, begin = interfaces[number]
                time = (high << 32 | low) * 10**9 // second + begin * 10**9
                yield Packet(time, link, _cut(body, 20, length, "a packet"))
            elif kind == SIMPLE:
                yield Packet(0, interfaces[0][0], body[4 : 4 + struct.unpack_from(order + "I", body)[0]])
        except (struct.error, IndexError):
            raise Damaged(f"a block of type {kind} before {at} cannot be read") from None


def _interface(order: str, body: bytes) -> tuple[int, int, int]:
    (link,) = struct.unpack_from(order + "H", body)
    second, begin, at = 10**6, 0, 8
    while at + 4 <= len(body):
        option, size = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if option == 9:  # if_tsresol: a power of 10, or with the highest bit of 2
            second = (2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F)
        elif option == 14:  # if_tsoffset
            (begin,) = struct.unpack(order + "q", value)
        at += 4 + (size + 3) // 4 * 4
    return link, second, begin


# ---- packets -------------------------------------------------------------------------------------------------------


def segment(packet: Packet) -> Segment | None:
    """What a packet has of TCP; None: nothing, or not all of its headers."""
    try:
        return _tcp(_ip(packet.link, packet.data))
    except (struct.error, IndexError):
        return None


def _ip(link: int, data: bytes) -> bytes:
    """The packet of IP in a frame of the link layer; b"" for anything else."""
    if link == ETHERNET:
        at = 12
        while int.from_bytes(data[at : at + 2], "big") in VLAN:
            at += 4
        at += 2
    else:
        at = {LOOPBACK: 4, LOOP: 4, COOKED: 16, COOKED_2: 20}.get(link, 0)
        if at == 0 and link not in (RAW, IPV4, IPV6, *RAW_TOO):
            raise Damaged(f"packets have link type {link}, which is not known here")
    return data[at:]


def _tcp(data: bytes) -> Segment | None:
    """The segment in a packet of IP. Whether it is one says the packet itself, which every link layer says again."""
    if not data or data[0] >> 4 not in (4, 6):
        return None
    if data[0] >> 4 == 4:
        length, fragment = struct.unpack_from(">H", data, 2)[0], struct.unpack_from(">H", data, 6)[0]
        if data[9] != TCP or fragment & 0x3FFF:
            return None
        at, hosts = 4 * (data[0] & 15), (data[12:16], data[16:20])
    else:
        length, kind, at = 40 + struct.unpack_from(">H", data, 4)[0], data[6], 40
        while kind in EXTENSIONS:
            kind, at = data[at], at + 8 + 8 * data[at + 1]
        if kind != TCP:
            return None
        length, hosts = (0 if length == 40 else length), (data[8:24], data[24:40])
    data = data[: length or None]  # behind it lies padding; 0: the card will cut it into packets
    source, destination, sequence, _, offset, flags = struct.unpack_from(">HHIIBB", data, at)
    names = [str(ipaddress.ip_address(host)) for host in hosts]
    payload = data[at + 4 * (offset >> 4) :]
    return Segment((names[0], source), (names[1], destination), sequence, bool(flags & SYN), payload)


# ---- connections ---------------------------------------------------------------------------------------------------


@dataclass
class Stream:
    """One direction of a connection."""

    source: tuple[str, int]
    destination: tuple[str, int]
    first: int  # the number of its first byte in TCP
    chunks: list[Chunk] = field(default_factory=list)
    _next: int = field(init=False)
    _early: list[tuple[int, int, bytes]] = field(default_factory=list)  # came before what lies in front of them

    def __post_init__(self) -> None:
        self._next = self.first

    def add(self, time: int, sequence: int, payload: bytes) -> None:
        """Bytes that were seen at this time, perhaps not for the first one."""
        at = self._next + (sequence - self._next + 2**31) % 2**32 - 2**31  # TCP counts modulo 2³²
        if at + len(payload) > self._next:
            heappush(self._early, (at, time, payload))
        while self._early and self._early[0][0] <= self._next:
            self._take(0)

    def finish(self) -> None:
        """Nothing will come any more: what is missing is not in the capture."""
        while self._early:
            self._take(max(0, self._early[0][0] - self._next))

    def _take(self, missing: int) -> None:
        at, time, payload = heappop(self._early)
        self._next += missing
        fresh = payload[self._next - at :]
        if fresh:
            self.chunks.append(Chunk(max(time, self.chunks[-1].time if self.chunks else time), missing, fresh))
            self._next += len(fresh)


def streams(source: Iterator[Packet], port: int | None = None) -> Iterator[Stream]:
    """The directions of all connections with bytes in them (of which one side has `port`), with all their chunks.

    Raises Damaged as `packets` does, behind those that could be read.
    """
    live: dict[tuple[tuple[str, int], tuple[str, int]], Stream] = {}
    found: list[Stream] = []
    damage: Damaged | None = None
    try:
        for packet in source:
            part = segment(packet)
            if part is None or (port is not None and port not in (part.source[1], part.destination[1])):
                continue
            way = (part.source, part.destination)
            first = (part.sequence + part.syn) % 2**32
            if way not in live or (part.syn and live[way].first != first):
                if not part.syn and not part.payload:
                    continue
                live[way] = Stream(*way, first)  # a new connection may have the ports of an old one
                found.append(live[way])
            if part.payload:
                live[way].add(packet.time, first, part.payload)
    except Damaged as error:
        damage = error
    for stream in found:
        stream.finish()
        if stream.chunks:
            yield stream
    if damage:
        raise damage
