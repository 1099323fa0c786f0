"""Frames: bytes that two programs agree on, and limits that hold before anything is kept."""

import dataclasses
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psyne
from psyne.network.frames import HEADER_BYTES, LIMITS, Frame, Header, Reader, Type, crc32c, frame

FEW = settings(max_examples=200, deadline=None)
KINDS = st.sampled_from(Type)
U16, U32, U64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these four: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_checksum_is_the_castagnoli_one(data: bytes, checksum: int):
    assert crc32c(data) == checksum


def test_a_header_is_these_32_bytes():
    packed = Header(Type.DATA, length=0x0102, sequence=0x0A0B0C0D0E0F, count=7, flags=3).encode()
    assert packed[:12] == b"PSYN" + bytes([1, 16]) + b"\x03\x00" + b"\x07\x00\x00\x00"
    assert packed[16:] == b"\x02\x01" + bytes(6) + bytes([0x0F, 0x0E, 0x0D, 0x0C, 0x0B, 0x0A, 0, 0])
    assert struct.unpack("<I", packed[12:16])[0] == crc32c(packed[:12] + bytes(4) + packed[16:])


@FEW
@given(KINDS, U64, U64, U32, U16)
def test_a_header_is_read_as_it_was_written(kind: Type, length: int, sequence: int, count: int, flags: int):
    header = Header(kind, length, sequence, count, flags)
    packed = header.encode()
    assert len(packed) == HEADER_BYTES
    assert Header.decode(packed) == header


@FEW
@given(KINDS, U64, st.integers(0, 8 * HEADER_BYTES - 1))
def test_no_flipped_bit_of_a_header_is_taken(kind: Type, sequence: int, bit: int):
    packed = bytearray(Header(kind, 5, sequence).encode())
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(psyne.ProtocolError):
        Header.decode(bytes(packed))


def with_checksum(packed: bytes) -> bytes:
    whole = packed[:12] + bytes(4) + packed[16:]
    return packed[:12] + struct.pack("<I", crc32c(whole)) + packed[16:]


def test_another_version_and_an_unknown_type_are_refused_with_their_numbers():
    packed = Header(Type.HELLO).encode()
    with pytest.raises(psyne.ProtocolError, match="version 2 of the protocol and this one 1"):
        Header.decode(with_checksum(packed[:4] + b"\x02" + packed[5:]))
    for kind in (0, 7, 15, 23, 255):
        with pytest.raises(psyne.ProtocolError, match=f"unknown type {kind}"):
            Header.decode(with_checksum(packed[:5] + bytes([kind]) + packed[6:]))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"GET ", r"begins with b'GET '"),
        (b"\x16\x03\x01\x02", "speaks TLS.*tls="),
        (b"\x15\x03\x03\x00", "speaks TLS.*tls="),
        (b"PSY\0", "begins with"),
        (b"\0", "begins with"),
    ],
)
def test_a_stranger_is_noticed_at_its_first_bytes(start: bytes, reason: str):
    with pytest.raises(psyne.ProtocolError, match=reason):
        Reader().read(memoryview(start), Type.HELLO)


def read_all(pieces: list[bytes], expected: Type) -> tuple[Frame | None, bytes]:
    reader, found, rest = Reader(), None, b""
    for piece in pieces:
        left = memoryview(piece)
        while left and found is None:
            found, left = reader.read(left, expected)
            assert reader.held <= max(HEADER_BYTES, LIMITS[expected])
        rest += bytes(left)
    return found, rest


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces that end at these places."""
    ends = [0, *sorted({min(a, len(data)) for a in at}), len(data)]
    return [data[i:k] for i, k in itertools.pairwise(ends)]


@FEW
@given(st.sampled_from(sorted(LIMITS)), st.data(), st.binary(max_size=100), st.lists(st.integers(0, 200)))
def test_a_frame_is_read_whole_however_it_is_cut(kind: Type, data: st.DataObject, rest: bytes, at: list[int]):
    body = data.draw(st.binary(max_size=min(LIMITS[kind], 100)))
    found, left = read_all(cut(frame(kind, body) + rest, at), kind)
    assert found == Frame(kind, body)
    assert left == rest


def test_a_body_of_the_limit_is_read_and_one_above_is_refused_before_a_byte_of_it_came():
    for kind, most in LIMITS.items():
        assert read_all([frame(kind, bytes(most))], kind)[0] == Frame(kind, bytes(most))
        reader = Reader()
        with pytest.raises(psyne.ProtocolError, match=f"{kind.name} of {most + 1} bytes; it has at most {most}"):
            reader.read(memoryview(Header(kind, most + 1).encode()), kind)
        assert reader.held <= HEADER_BYTES


def test_a_frame_that_is_not_due_is_refused_but_for_a_refusal():
    for kind in set(Type) - {Type.HELLO, Type.REFUSE}:
        with pytest.raises(psyne.ProtocolError, match=f"{kind.name} came where HELLO was due"):
            Reader().read(memoryview(Header(kind).encode()), Type.HELLO)
    assert read_all([frame(Type.REFUSE, b"no")], Type.HELLO)[0] == Frame(Type.REFUSE, b"no")


@pytest.mark.parametrize("changes", [{"flags": 1}, {"count": 1}, {"sequence": 1}])
def test_a_frame_of_the_handshake_has_no_flags_count_or_sequence(changes: dict[str, int]):
    header = dataclasses.replace(Header(Type.HELLO), **changes)
    with pytest.raises(psyne.ProtocolError, match="no flags, count or sequence"):
        Reader().read(memoryview(header.encode()), Type.HELLO)


def test_what_a_reader_holds_grows_with_what_came_not_with_what_was_announced():
    reader = Reader()
    reader.read(memoryview(Header(Type.OPEN, 1 << 20).encode() + b"abc"), Type.OPEN)
    reader.read(memoryview(b"de"), Type.OPEN)
    assert reader.held == 5


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=80), max_size=10), st.booleans())
def test_random_bytes_are_a_protocol_error_or_nothing(pieces: list[bytes], begins_well: bool):
    reader = Reader()
    for piece in [Header(Type.OPEN, 300).encode(), *pieces] if begins_well else pieces:
        left = memoryview(piece)
        try:
            while left:
                _, left = reader.read(left, Type.OPEN)
        except psyne.ProtocolError:
            return
        assert reader.held <= LIMITS[Type.OPEN]
