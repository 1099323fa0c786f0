"""Channels of several types: what is sent as which class, and headers that lie."""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Bytes, Message, Struct, Text, VariantHdr, f32, u64


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


Plane = Array("f4", ndim=2, max_bytes=1 << 12)


@pytest.fixture
def ends() -> Iterator[tuple[psyne.Sender[Any], psyne.Receiver[Any]]]:
    with (
        psyne.sender("ipc://events", Imu, Plane, Text, Bytes, capacity=8) as tx,
        psyne.receiver("ipc://events", Imu, Text, Message) as rx,
    ):
        yield tx, rx


def test_each_message_arrives_as_an_instance_of_its_class(ends):
    tx, rx = ends
    tx.send(Imu(stamp=1, accel=(1, 2, 3)))
    tx.send("grüß dich")
    tx.send(b"\x00\x01")
    with tx.loan(Array, shape=(3, 2)) as m:
        m.array[...] = [[1, 2], [3, 4], [5, 6]]
        m.truncate(2)
    with rx.receive() as imu:
        assert isinstance(imu, Imu)
        assert (imu.stamp, imu.accel.tolist()) == (1, [1, 2, 3])
    with rx.receive() as text:
        assert isinstance(text, Text)
        assert str(text) == "grüß dich"
    with rx.receive() as data:
        assert isinstance(data, Bytes)
        assert bytes(data) == b"\x00\x01"
    with rx.receive() as plane:
        assert isinstance(plane, Array)
        assert plane.array.tolist() == [[1, 2], [3, 4]]


def test_a_batch_ends_where_the_type_changes(ends):
    tx, rx = ends
    for n in range(3):
        tx.send(Imu(stamp=n))
    tx.send("stop")
    with rx.receive_many(8) as batch:
        assert batch["stamp"].tolist() == [0, 1, 2]
        assert [m.stamp for m in batch] == [0, 1, 2]
    with rx.receive_many(8) as batch:
        assert [str(m) for m in batch] == ["stop"]


def test_what_the_channel_does_not_carry_is_refused_with_a_list_of_what_it_does(ends):
    with pytest.raises(psyne.LayoutMismatch, match=r"Imu, .*Text, Bytes"):
        ends[0].send(3.5)
    with pytest.raises(TypeError, match="several types"):
        ends[0].loan()


def test_types_that_a_receiver_leaves_out_are_named():
    with psyne.sender("ipc://events", Imu, Text), pytest.raises(psyne.LayoutMismatch, match="also carries Text"):
        psyne.receiver("ipc://events", Imu)


def test_a_header_is_eight_bytes_that_tools_can_read():
    header = VariantHdr.of_type(3, Text)
    assert VariantHdr.of_word(header.word) == header == VariantHdr(3, 3, 1, 6)
    assert header.dtype_name == "uint8"
    column = VariantHdr.of_column(struct.pack("<QQ", header.word, VariantHdr(0, 0, 0, 0).word))
    assert column["type"].tolist() == [3, 0]
    assert column["flags"].tolist() == [6, 0]


def slab(directory: Path) -> mmap.mmap:
    file = os.open(next(directory.glob("events.*.slab")), os.O_RDWR)
    try:
        return mmap.mmap(file, 0)
    finally:
        os.close(file)


VARIANT_OFFSET, PAYLOAD_OFFSET = 80, 120  # in SlabShape


@pytest.mark.parametrize(
    "word",
    [VariantHdr(9, 0, 0, 0), VariantHdr(0, 11, 0, 0), VariantHdr(0, 0, 200, 0), VariantHdr(1, 11, 2, 0)],
    ids=str,
)
def test_a_header_that_lies_is_passed_over_with_an_error(ends, word, psyne_directory):
    tx, rx = ends
    memory = slab(psyne_directory)
    tx.send(Imu(stamp=1))
    tx.send(Imu(stamp=2))
    (column,) = struct.unpack_from("<Q", memory, VARIANT_OFFSET)
    struct.pack_into("<Q", memory, column, word.word)
    with pytest.raises(psyne.PeerCorrupted, match="type"):
        rx.receive()
    with rx.receive() as m:
        assert m.stamp == 2


@pytest.mark.parametrize("dims", [(1 << 40, 1 << 40), (-1, 4), (1 << 20, 1), (2**62, 4)], ids=str)
def test_dimensions_that_lead_out_of_the_slot_touch_nothing(ends, dims, psyne_directory):
    tx, rx = ends
    memory = slab(psyne_directory)
    with tx.loan(Plane, shape=(2, 2)) as m:
        m.array[...] = 1
    tx.send(Imu(stamp=2))
    (payload,) = struct.unpack_from("<Q", memory, PAYLOAD_OFFSET)
    struct.pack_into("<qq", memory, payload + (1 << 12), *dims)
    before = bytes(memory[payload:])
    with rx.receive() as m:
        for look in (lambda: m.array, lambda: np.asarray(m), lambda: m.copy(), lambda: memoryview(m)):
            with pytest.raises(psyne.PeerCorrupted, match="shape"):
                look()
    assert bytes(memory[payload:]) == before
    with rx.receive() as m:
        assert m.stamp == 2
