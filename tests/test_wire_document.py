"""docs/wire.md does not lie: its tables agree with each other, and its dumps with them."""

import hashlib
import hmac
import json
import re
import struct
from typing import Any

import pytest

from .helpers.tools import tool
from .helpers.wire_document import DOCUMENT, Dumped, dumps, table

dissect = tool("dissect")

BLOCKS = dumps()
SESSION, REFUSAL = BLOCKS
FRAMES = [frame for block in BLOCKS for frame in block]
TYPES = {row[1]: row for row in table("type")}
HEADER = struct.Struct("<4sBBHIIQQ")
JSON_TYPES = {
    "boolean": bool,
    "number": int,
    "text": str,
    '`"little"` or `"big"`': str,
    '`"sender"`, `"receiver"` or `"tap"`': str,
    "text or null": (str, type(None)),
    "null or `[after, mutate, redeliver]`": (list, type(None)),
}


def named(name: str) -> list[Dumped]:
    return [frame for frame in SESSION if frame.name == name]


def fields(name: str) -> dict[str, Any]:
    """The JSON of the one frame of this name in the session."""
    (frame,) = named(name)
    return json.loads(frame.data[32:])


def documented(name: str) -> dict[str, str]:
    """The fields of a body of JSON, by the table behind its name, and what they are."""
    rows, behind = {}, DOCUMENT[re.search(rf"^\*\*.*\b{name}\b.*\*\*$", DOCUMENT, re.MULTILINE).start() :]
    for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \|$", behind.split("\n\n")[1], re.MULTILINE):
        only = re.match(r"([A-Z]+) only", row[2])
        if only is None or only[1] == name:
            rows[row[0]] = row[1]
    return rows


def test_the_fields_of_the_header_fill_it() -> None:
    rows = [(int(row[0]), int(row[1])) for row in table("offset")]
    assert [offset for offset, _ in rows] == [sum(size for _, size in rows[:n]) for n in range(len(rows))]
    assert sum(size for _, size in rows) == 32
    assert [row[2] for row in table("offset")] == [
        "magic", "version", "type", "flags", "count", "header checksum", "length", "sequence"
    ]  # fmt: skip


def test_every_type_is_in_the_session_or_explained() -> None:
    assert {frame.name for frame in FRAMES} == set(TYPES) - {"LEAVE"}
    assert "**LEAVE**" in DOCUMENT


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.name)
def test_a_dumped_frame_is_what_the_tables_say(frame: Dumped) -> None:
    magic, version, kind, flags, count, checksum, length, sequence = HEADER.unpack_from(frame.data)
    number, _, side, most, _ = TYPES[frame.name]
    assert (magic, version, kind) == (b"PSYN", 1, int(number))
    assert length == len(frame.data) - 32
    if frame.name != "DATA":
        assert (flags, count) == (0, 0)
        assert length <= int(most[2:]) if most.startswith("≤") else length == int(most)
    if frame.name not in ("DATA", "ACK", "END"):
        assert sequence == 0
    assert checksum == dissect.crc32c(frame.data[:12] + bytes(4) + frame.data[16:32])
    assert side in {"C": ("C", "both", "sending side"), "S": ("S", "both", "receiving side")}[frame.side]


@pytest.mark.parametrize("frame", named("DATA"), ids=lambda frame: f"{frame.data[24]}")
def test_dumped_data_are_as_long_as_they_say_and_have_their_checksum(frame: Dumped) -> None:
    flags, count = struct.unpack_from("<HI", frame.data, 6)
    body = frame.data[32:]
    variant, missed, checksum, size = struct.unpack_from("<QIIQ", body)
    assert (flags, variant, missed, size) == (3, 0, 0, 8)
    assert len(body) == 24 + 8 * count + size * count
    assert checksum == dissect.crc32c(body[24:])


def test_the_messages_of_the_session_are_those_of_the_text() -> None:
    payloads = [frame.data[32 + 24 + 8 * frame.data[8] :] for frame in named("DATA")]
    values = [value for payload in payloads for (value,) in struct.iter_unpack("<d", payload)]
    assert "1.0, −2.0 and 0.5" in DOCUMENT
    assert values == [1.0, -2.0, 0.5]


def test_the_session_keeps_the_rules_of_the_document() -> None:
    capacity, sent, acked, received = fields("WELCOME")["capacity"], 0, 0, 0
    for frame in SESSION:
        sequence = HEADER.unpack_from(frame.data)[7]
        count = struct.unpack_from("<I", frame.data, 8)[0]
        if frame.name == "DATA":
            assert sequence == sent
            sent += count
            assert sent <= acked + capacity
        elif frame.name == "ACK":
            told = int.from_bytes(frame.data[32:], "little")
            assert acked <= sequence <= told <= sent
            assert told >= received
            acked, received = sequence, told
        elif frame.name == "END":
            assert sequence == sent
    assert acked == received == sent == 3
    names = [frame.name for frame in SESSION]
    assert names[:5] == ["HELLO", "CHALLENGE", "PROOF", "OPEN", "WELCOME"]
    assert names.index("PONG") == names.index("PING") + 2
    assert names[names.index("PING") + 1] == "ACK"
    assert names[-1] == "BYE"


@pytest.mark.parametrize("name", ["HELLO", "CHALLENGE", "OPEN", "WELCOME", "REFUSE"])
def test_the_bodies_of_the_handshake_have_the_fields_of_their_tables(name: str) -> None:
    rows = documented(name)
    there = fields(name) if name != "REFUSE" else json.loads(REFUSAL[0].data[32:])
    assert there.keys() == rows.keys()
    for field, kind in rows.items():
        if digits := re.match(r"(\d+) hexadecimal digits", kind):
            assert re.fullmatch(rf"[0-9a-f]{{{digits[1]}}}" + ("|" if 'or `""`' in kind else ""), there[field]), field
        else:
            assert isinstance(there[field], JSON_TYPES[kind.split(", at most")[0]]), field


def test_the_proofs_of_the_session_follow_from_its_token_and_nonces() -> None:
    token = re.search(r"The token is `(.+?)` \((\d+) bytes", DOCUMENT)
    assert len(token[1]) == int(token[2])
    nonces = bytes.fromhex(fields("HELLO")["nonce"]) + bytes.fromhex(fields("CHALLENGE")["nonce"])
    assert nonces == bytes(range(64))
    (proof,) = named("PROOF")
    labels = re.findall(r'"(psyne (?:client|server) 1)" \+ nonce of C \+ nonce of S', DOCUMENT)
    assert labels == ["psyne client 1", "psyne server 1"]
    client, server = (hmac.digest(token[1].encode(), label.encode() + nonces, hashlib.sha256) for label in labels)
    assert proof.data[32:] == client
    assert fields("WELCOME")["proof"] == server.hex()


def test_the_checksums_of_the_table_are_right() -> None:
    inputs = {
        "none": b"",
        '`"123456789"`': b"123456789",
        "32 × 00": bytes(32),
        "32 × ff": b"\xff" * 32,
        "00 01 02 … 1f": bytes(range(32)),
    }
    rows = {row[0]: int(row[1], 16) for row in table("bytes")}
    assert rows == {name: dissect.crc32c(data) for name, data in inputs.items()}
    assert rows['`"123456789"`'] == 0xE3069283


def test_the_dissector_knows_the_types_and_limits_of_the_document() -> None:
    assert {int(row[0]): row[1] for row in table("type")} == dissect.NAMES
    for name, (least, most) in dissect.LENGTHS.items():
        limit = TYPES[name][3]
        assert limit == (f"≤ {most}" if limit.startswith("≤") else str(least))
        assert limit.startswith("≤") or least == most
    assert f"1 to {dissect.MOST_MESSAGES}" in DOCUMENT
