"""Which pages of which file have a message, and mappings of them that are a device's own."""

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Bytes, Stage, Struct, _native, f32, field, u8, u64

from .helpers.process import Child, until

Plane = Array("f4", (64, 64))  # 16 KiB
Blob = Bytes(max_bytes=1 << 24)
Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]


class Pose(Struct):
    position = f32(4)


class Frame(Struct):
    stamp = u64()
    pose = field(Pose)
    image = u8(4, 64)


class Columns(Struct, layout="columns"):
    stamp = u64()
    image = u8(4, 64)


@pytest.fixture(params=["ipc", "memory"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with (
        psyne.sender(f"{request.param}://planes", Plane, capacity=4) as tx,
        psyne.receiver(f"{request.param}://planes", Plane) as rx,
    ):
        yield tx, rx


def bytes_at(mapping: Any, offset: int, n: int) -> bytes:
    return ctypes.string_at(mapping.address + offset, n)


def mapped(inode: int) -> list[str]:
    """The mappings of a file in this process: (device:inode offset)."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if line.split()[4] == str(inode)]


# ---- what a region says ---------------------------------------------------------------------------------------------


def test_a_region_is_where_the_kernel_says_that_the_bytes_of_the_message_lie(ends: Ends):
    tx, _ = ends
    with tx.loan() as m:
        region = _native.region(m.array)
        address = m.array.ctypes.data
    device, inode, offset, nbytes = region.key
    for line in mapped(inode):
        span, _, at, numbers, _ = line.split()[:5]
        low, high = (int(it, 16) for it in span.split("-"))
        if low <= address < high:
            major, minor = (int(it, 16) for it in numbers.split(":"))
            assert (os.makedev(major, minor), int(at, 16) + address - low) == (device, offset + region.offset)
            assert low - int(at, 16) + offset + nbytes == high  # up to the end of the slab
            break
    else:
        pytest.fail("the message lies in no mapping")
    assert offset % os.sysconf("SC_PAGESIZE") == nbytes % os.sysconf("SC_PAGESIZE") == 0


def test_another_process_has_the_message_at_the_same_device_inode_and_offset():
    with Child() as child, psyne.sender("ipc://planes", Array("u8", 8), capacity=8) as tx:
        child.run("rx = psyne.receiver('ipc://planes', psyne.Array('u8', 8))")
        for n in range(20):
            with tx.loan() as m:
                m.array[:] = n
                here = _native.region(m.array)
            there = child.run(
                "with rx.receive() as m:\n"
                " r = psyne._native.region(m.array)\n"
                " it = (r.key, r.offset, r.nbytes, r.writable, int(m.array[0]))\n"
                "it"
            )
            assert there == (here.key, here.offset, here.nbytes, False, n)
        child.run("rx.close()")


def test_every_slot_of_a_slab_has_the_same_pages(ends: Ends):
    tx, rx = ends
    seen = []
    for _ in range(8):
        with tx.loan() as m:
            region = _native.region(m.array)
            seen.append((region.key, region.offset, region.nbytes, region.lasting))
            del region  # it keeps the slot
        rx.receive().release()
    assert seen == [(seen[0][0], 16384 * n, 16384, True) for n in (0, 1, 2, 3)] * 2


def test_parts_fields_slices_and_batches_are_places_in_the_same_pages():
    with psyne.sender("ipc://frames", Frame, capacity=4) as tx, psyne.receiver("ipc://frames", Frame) as rx:
        with tx.loan_many(3) as batch:
            whole = _native.region(batch.array)
            assert (whole.offset, whole.nbytes) == (0, 2 * batch.array.strides[0] + batch.array.itemsize)
            image = _native.region(batch["image"])
            assert image.offset == Frame.__layout__.dtype.fields["image"][1]
            assert image.nbytes == 2 * batch.array.strides[0] + 256
            part = _native.region(batch[1].pose.position)
            assert part.offset == batch.array.strides[0] + Frame.__layout__.dtype.fields["pose"][1]
            cut = _native.region(batch[2].image[1:3, ::2])
            assert cut.offset == 2 * batch.array.strides[0] + image.offset + 64
            assert cut.nbytes == 64 + 63
            assert _native.region(batch[0].image[::-1]).offset == image.offset  # of the lowest byte
        assert {it.key for it in (image, part, cut)} == {whole.key}
        with rx.receive() as m:
            assert _native.region(m.pose.position).key == whole.key
            assert _native.region(np.asarray(memoryview(m.image))).offset == image.offset


def test_columns_are_places_in_the_same_pages():
    with psyne.sender("ipc://columns", Columns, capacity=8) as tx, tx.loan_many(2) as batch:
        image, stamp = _native.region(batch["image"]), _native.region(batch["stamp"])
        assert image.key == stamp.key
        assert (image.offset, image.nbytes) == (0, 512)
        assert (stamp.offset, stamp.nbytes) == (8 * 256, 16)


def test_a_ring_that_grew_has_other_pages():
    with (
        psyne.sender("ipc://planes", Plane, capacity=2, full="grow", budget=1 << 24) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        keys = []
        for _ in range(12):  # nobody receives: it has to grow
            with tx.loan(timeout=30) as m:
                keys.append(_native.region(m.array).key)
        assert len(set(keys)) > 1
        for key in keys:
            with rx.receive() as m:
                assert _native.region(m.array).key == key


def test_a_message_beside_its_slot_has_pages_of_its_own_and_no_others():
    with (
        psyne.sender("ipc://blobs", Blob, capacity=4, full="grow", budget=1 << 27) as tx,
        psyne.receiver("ipc://blobs", Blob) as rx,
    ):
        tx.send(b"small")
        small = rx.receive()
        with tx.loan(size=3_000_000) as m:
            m.array[:] = 7
            long = _native.region(m.array)
        if long.key[1] == _native.region(small.array).key[1]:
            pytest.skip("the ring has slots that are long enough")
        assert not long.lasting
        assert long.offset == 0
        assert 3_000_000 <= long.key[3] < 3_000_000 + 8192
        with rx.receive() as m:
            region = _native.region(m.array)
            assert region.key == long.key
            assert bytes_at(region.map(False), 0, 3) == b"\7\7\7"


# ---- what has none --------------------------------------------------------------------------------------------------


def test_private_memory_and_foreign_arrays_are_refused(ends: Ends):
    tx, rx = ends
    tx.send(np.zeros((64, 64), "f4"))
    with rx.receive() as m, pytest.raises(psyne.CannotShare, match="private memory of this process"):
        _native.region(m.private().array)
    for message in (Plane(), Plane().copy()):
        with pytest.raises(psyne.CannotShare, match="Copy them into a loan"):
            _native.region(message.array)
    with pytest.raises(psyne.CannotShare, match="not in the memory of a channel"):
        _native.region(np.zeros(4))
    with pytest.raises(TypeError):
        _native.region([1, 2])  # type: ignore[arg-type]


def test_messages_of_a_tap_are_copies_and_refused(ends: Ends):
    tx, rx = ends
    with psyne.tap(tx.address, Plane) as tap:
        tx.send(np.zeros((64, 64), "f4"))
        seen = tap.receive()
        with pytest.raises(psyne.CannotShare, match="came from a tap"):
            _native.region(seen.array)
    rx.receive().release()


def test_a_forked_child_has_no_regions_of_its_parent():
    with Child() as child:
        says = child.run(
            "tx = psyne.sender('ipc://n', Number)\n"
            "m = tx.loan(); a = m.array\n"
            "def ask():\n"
            " try: psyne._native.region(a)\n"
            " except psyne.ForkedError as error: return str(error)\n"
            "it = forked(ask); m.discard(); tx.close()\n"
            "it"
        )
    assert "message of the parent process" in says


# ---- mappings -------------------------------------------------------------------------------------------------------


def test_a_mapping_is_the_same_bytes_at_another_address_in_both_directions(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        region = _native.region(m.array)
        mapping = region.map(True)
        ctypes.memset(mapping.address + region.offset, 0x3F, region.nbytes)
        assert mapping.address + region.offset != m.array.ctypes.data
        assert (m.array.view("u1") == 0x3F).all()
        m.array.view("u1")[0, :4] = 1, 2, 3, 4
        assert bytes_at(mapping, region.offset, 5) == b"\1\2\3\4\x3f"
    with rx.receive() as m:
        assert m.array.tobytes()[:5] == b"\1\2\3\4\x3f"


def test_who_may_not_write_gets_no_writable_mapping(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        array = m.array
        assert _native.region(array).writable
    assert not _native.region(array).writable  # it was sent
    assert not _native.region(array[1:]).writable
    with rx.receive() as m:
        region = _native.region(m.array)
        with pytest.raises(psyne.ReadOnly, match="read-only"):
            region.map(True)
        assert not region.map(False).writable


def test_a_mutating_stage_may_write_as_long_as_it_has_the_message():
    with (
        psyne.sender("ipc://planes", Plane, stages=[Stage("change", mutate=True)]) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        tx.send(np.zeros((64, 64), "f4"))
        m = rx.receive()
        array = m.array
        assert _native.region(array).map(True).writable
        with m:
            pass
        assert not _native.region(array).writable


@pytest.mark.parametrize("scheme", ["ipc", "memory"])
def test_a_mapping_outlives_the_end_and_its_slab(scheme: str):
    tx = psyne.sender(f"{scheme}://planes", Plane, capacity=4)
    with tx.loan() as m:
        m.array[:] = 5
        region = _native.region(m.array)
        mapping = region.map(False)
    del m
    assert not mapping.over
    tx.close()
    assert mapping.over is (scheme == "ipc")  # its file was removed
    del tx, region
    gc.collect()
    assert mapping.over
    assert bytes_at(mapping, 0, 4) == np.float32(5).tobytes()
    mapping.close()
    assert mapping.address == 0
    mapping.close()


def test_a_place_that_a_device_still_maps_is_no_other_slabs_place():
    with psyne.sender("memory://planes", Plane, capacity=4):  # keeps the channel
        tx = psyne.sender("memory://planes", Plane, capacity=4)
        with tx.loan() as m:
            m.array[:] = 5
            region = _native.region(m.array)
        key, mapping = region.key, region.map(False)
        del m, region
        with psyne.receiver("memory://planes", Plane) as rx:
            rx.receive().release()
        tx.close()
        del tx
        gc.collect()
        tx = psyne.sender("memory://planes", Plane, capacity=4)
        with tx.loan() as m:
            m.array[:] = 6
            assert _native.region(m.array).key != key
        assert bytes_at(mapping, 0, 4) == np.float32(5).tobytes()
        mapping.close()
        tx.close()


def test_a_mapping_of_a_retired_slab_says_that_it_is_over():
    with (
        psyne.sender("ipc://planes", Plane, capacity=2, full="grow", budget=1 << 24) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        with tx.loan() as m:
            first = _native.region(m.array)
            mapping = first.map(True)
        key = first.key
        del m, first
        grown = False
        while not grown:
            with tx.loan(timeout=30) as m:
                grown = _native.region(m.array).key != key
        del m
        while (m := rx.try_receive()) is not None:
            m.release()
        until(lambda: mapping.over, "the slab is retired")


def test_nothing_is_left_of_a_closed_mapping(ends: Ends):
    tx, _ = ends
    with tx.loan() as m:
        region = _native.region(m.array)
        before, fds = len(mapped(region.key[1])), len(os.listdir("/proc/self/fd"))
        mappings = [region.map(True) for _ in range(5)]
        assert len(os.listdir("/proc/self/fd")) == fds + 5
        for it in mappings[:3]:
            it.close()
        del it, mappings
        gc.collect()
        assert len(mapped(region.key[1])) == before
        assert len(os.listdir("/proc/self/fd")) == fds
