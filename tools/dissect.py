"""Prints the frames of Psyne in a capture: `python tools/dissect.py capture.pcap [--port N] [--json]`.

The file is what `tcpdump -w` or tools/record.py wrote, or the bytes of one direction as they are. Written from
docs/wire.md alone, without Psyne, so that one checks the other. Secrets of the handshake are printed as they are.
Where bytes are bad it says so and goes on at the next header. Exit code 1: something was bad.
"""

import argparse
import json
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capture import Chunk, Damaged, is_capture, packets, streams

MAGIC = b"PSYN"
VERSION = 1
HEADER = struct.Struct("<4sBBHIIQQ")
DATA_HEAD = struct.Struct("<QIIQ")
STAMPS, CHECKSUM, COLUMNS = 1, 2, 4
FLAGS = {STAMPS: "stamps", CHECKSUM: "checksum", COLUMNS: "columns"}
MOST_MESSAGES = 4096
NAMES = {
    1: "HELLO",
    2: "CHALLENGE",
    3: "PROOF",
    4: "OPEN",
    5: "WELCOME",
    6: "REFUSE",
    16: "DATA",
    17: "ACK",
    18: "PING",
    19: "PONG",
    20: "END",
    21: "BYE",
    22: "LEAVE",
}
LENGTHS = {  # least and most bytes of a body; DATA has its own rule
    "HELLO": (0, 1 << 10),
    "CHALLENGE": (0, 1 << 10),
    "PROOF": (32, 32),
    "OPEN": (0, 1 << 20),
    "WELCOME": (0, 1 << 20),
    "REFUSE": (0, 64 << 10),
    "ACK": (8, 8),
    "PING": (8, 8),
    "PONG": (8, 8),
    "END": (1, 1),
    "BYE": (0, 0),
    "LEAVE": (0, 0),
}
JSON_BODIES = ("HELLO", "CHALLENGE", "OPEN", "WELCOME", "REFUSE")
NUMBERED = ("DATA", "ACK", "END")  # these have a sequence
BYTES_OF_NUMBERS = {"ACK": "received", "PING": "word", "PONG": "word"}

Record = dict[str, Any]


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = _table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


class Decoder:
    """One direction: takes bytes, gives records of frames and of bytes that are none.

    A stream that has no frame at all is somebody else's; `strict` says that it should have some.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._begun = strict
        self._held = bytearray()
        self._at = 0  # the offset of the first byte that is held
        self._bad = 0  # bytes just before it that are no frame
        self._why = ""
        self._next: int | None = None  # the sequence of the next DATA, once one was there

    def feed(self, chunk: Chunk) -> Iterator[Record]:
        """The frames that are whole now."""
        if chunk.missing:
            self._skip(len(self._held), "it is not whole in the capture")
            self._at += chunk.missing
            self._next = None
            yield from self._report()
            yield self._problem(self._at - chunk.missing, chunk.missing, "the capture lacks these bytes")
        self._held += chunk.data
        while len(self._held) >= HEADER.size:
            why = self._wrong()
            if why:
                following = self._held.find(MAGIC, 1)
                self._skip(following if following > 0 else len(self._held) - len(MAGIC) + 1, why)
                continue
            length = HEADER.unpack_from(self._held)[6]
            if len(self._held) < HEADER.size + length:
                return
            yield from self._report()
            yield self._frame(bytes(self._held[: HEADER.size + length]))
            del self._held[: HEADER.size + length]
            self._at += HEADER.size + length

    def finish(self) -> Iterator[Record]:
        """What is left at the end of the stream."""
        if len(self._held) >= HEADER.size and not self._wrong():
            name, length = NAMES[self._held[5]], HEADER.unpack_from(self._held)[6]
            yield from self._report()
            there = len(self._held) - HEADER.size
            yield self._problem(self._at, len(self._held), f"{name}, of whose body {there} bytes of {length} are there")
        else:
            self._skip(len(self._held), "no frame begins here")
            yield from self._report()

    def _wrong(self) -> str:
        """Why no frame begins here; "" where one does."""
        magic, version, kind, _, _, checksum, length, _ = HEADER.unpack_from(self._held)
        if magic != MAGIC:
            return "no frame begins here"
        right = crc32c(bytes(self._held[:12]) + bytes(4) + bytes(self._held[16 : HEADER.size]))
        if checksum != right:
            return f"the header checksum is {checksum:08x} and should be {right:08x}"
        if version != VERSION:
            return f"version {version} is not known here"
        if kind not in NAMES:
            return f"there is no type {kind}"
        least, most = LENGTHS.get(NAMES[kind], (DATA_HEAD.size, 1 << 62))
        if not least <= length <= most:
            return f"{NAMES[kind]} has {length} bytes of body; {least} to {most} can be"
        self._begun = True
        return ""

    def _skip(self, size: int, why: str) -> None:
        self._why = self._why if self._bad else why
        self._bad += size
        self._at += size
        del self._held[:size]

    def _report(self) -> Iterator[Record]:
        bad, self._bad = self._bad, 0
        if bad and self._begun:
            yield self._problem(self._at - bad, bad, self._why)

    def _problem(self, at: int, size: int, why: str) -> Record:
        return {"at": at, "type": None, "bytes": size, "problems": [why]}

    def _frame(self, whole: bytes) -> Record:
        _, _, kind, flags, count, _, length, sequence = HEADER.unpack_from(whole)
        name, body = NAMES[kind], whole[HEADER.size :]
        names = [FLAGS.get(1 << bit, f"bit {bit}") for bit in range(16) if flags >> bit & 1]
        record: Record = {"at": self._at, "type": name, "sequence": sequence, "count": count, "length": length}
        record |= {"flags": names, "problems": (problems := [])}
        if flags & ~(sum(FLAGS) if name == "DATA" else 0):
            problems.append(f"{name} cannot have the flags {flags}")
        if name != "DATA" and count:
            problems.append(f"{name} cannot have a count")
        if name not in NUMBERED and sequence:
            problems.append(f"{name} cannot have a sequence")
        if name == "DATA":
            self._data(record, flags, body)
        elif name in BYTES_OF_NUMBERS:
            record[BYTES_OF_NUMBERS[name]] = number = int.from_bytes(body, "little")
            if name == "ACK" and sequence > number:
                problems.append(f"{sequence} are let go and only {number} received")
        elif name == "END":
            record["end"] = {0: "closed", 1: "lost"}.get(body[0], f"unknown, {body[0]}")
        elif name == "PROOF":
            record["proof"] = body.hex()
        elif name in JSON_BODIES:
            try:
                record["json"] = json.loads(body.decode())
            except (ValueError, RecursionError) as error:
                problems.append(f"the body is no JSON: {error}")
        return record

    def _data(self, record: Record, flags: int, body: bytes) -> None:
        variant, missed, checksum, size = DATA_HEAD.unpack_from(body)
        count, sequence, problems = record["count"], record["sequence"], record["problems"]
        record |= {"variant": variant, "missed": missed, "size": size}
        if not 1 <= count <= MOST_MESSAGES:
            problems.append(f"{count} messages; 1 to {MOST_MESSAGES} can be")
        length = DATA_HEAD.size + (8 * count if flags & STAMPS else 0) + count * size
        if length != len(body):
            problems.append(f"the body has {len(body)} bytes and should have {length}")
        right = crc32c(body[DATA_HEAD.size :]) if flags & CHECKSUM else 0
        if checksum != right:
            problems.append(f"the checksum is {checksum:08x} and should be {right:08x}")
        if self._next not in (None, sequence):
            problems.append(f"sequence {self._next} should come here")
        self._next = sequence + count


def dissect(data: bytes, port: int | None = None) -> Iterator[Record]:
    """The records of a file, those of each direction in their order. Raises Damaged behind them for a bad file."""
    if not is_capture(data):
        yield from _records([Chunk(0, 0, data)], Decoder(strict=True), {})
        return
    for stream in streams(packets(data), port):
        ends = {"from": _name(stream.source), "to": _name(stream.destination)}
        yield from _records(stream.chunks, Decoder(strict=port is not None), ends)


def _records(chunks: list[Chunk], decoder: Decoder, ends: Record) -> Iterator[Record]:
    for chunk in chunks:
        for record in decoder.feed(chunk):
            yield {"time": chunk.time} | ends | record
    for record in decoder.finish():
        yield {"time": chunks[-1].time} | ends | record


def _name(end: tuple[str, int]) -> str:
    host, port = end
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _clock(time: int) -> str:
    """The time of day in UTC; of a damaged time its seconds."""
    seconds, rest = divmod(time, 10**9)
    with suppress(ValueError, OverflowError, OSError):
        return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}.{rest // 1000:06}"
    return f"{seconds}.{rest // 1000:06}"


def line(record: Record) -> str:
    """A record as a line for people."""
    words = []
    if "from" in record:
        words.append(f"{_clock(record['time'])} {record['from']} → {record['to']}")
    if record["type"] is None:
        words.append(f"@{record['at']} {record['bytes']} bytes")
    else:
        flags = ",".join(record["flags"]) or "-"
        words.append(f"@{record['at']} {record['type']} sequence {record['sequence']} count {record['count']}")
        words.append(f"length {record['length']} flags {flags}")
        known = ("time", "from", "to", "at", "type", "sequence", "count", "length", "flags", "problems")
        for name, value in record.items():
            if name not in known:
                words.append(json.dumps(value, ensure_ascii=True) if name == "json" else f"{name} {value}")
    return "  ".join([*words, *(f"BAD: {problem}" for problem in record["problems"])])


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints the frames of Psyne in a capture.")
    parser.add_argument("file", type=Path, help="of tcpdump -w, or the bytes of one direction")
    parser.add_argument("--port", type=int, help="look only at connections that have it on one side")
    parser.add_argument("--json", action="store_true", help="a JSON object for each line")
    options = parser.parse_args()
    records: list[Record] = []
    failure = ""
    try:
        for record in dissect(options.file.read_bytes(), options.port):
            records.append(record)
    except (Damaged, OSError) as error:
        failure = f"{options.file}: {error}"
    records.sort(key=lambda record: record["time"])  # stable: each direction keeps its order
    for record in records:
        print(json.dumps(record) if options.json else line(record))
    if failure:
        print(failure, file=sys.stderr)
    elif not records:
        print(f"{options.file}: no frames", file=sys.stderr)
    return 1 if failure or any(record["problems"] for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
