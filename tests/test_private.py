"""private(): writable pages of one's own over a slot, copied as they are written."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, _native, u8, u64

from .helpers.layouts import Line, line_of
from .helpers.process import Child, descriptors, run_program

PAGE = mmap.PAGESIZE
Pages = Array("u1", 16 * PAGE)


class Frame(Struct):
    stamp = u64()
    image = u8(20, PAGE)


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


def private_mappings() -> int:
    return sum(" rw-p " in line and ".slab" in line for line in Path("/proc/self/maps").read_text().splitlines())


def dirty_bytes(address: int) -> int:
    """Bytes of the mapping at this address that this process has written copies of."""
    here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, end = (int(n, 16) for n in first.split("-"))
            here = start <= address < end
        elif here and first == "Private_Dirty:":
            return int(line.split()[1]) << 10
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_what_is_written_to_a_private_message_stays_there():
    with psyne.sender("ipc://pages", Pages, capacity=2) as tx, psyne.receiver("ipc://pages") as rx:
        tx.send(np.full(16 * PAGE, 7, "u1"))
        with rx.receive() as m:
            own = m.private()
            assert type(own) is type(m)
            assert own.array.flags.writeable
            assert not np.shares_memory(own.array, m.array)
            own.array[5] = 9
            own.array[PAGE:] += 1
            assert (m.array == 7).all()
        assert (own.array[5], own.array[0], own.array[PAGE]) == (9, 7, 8)


def test_only_the_pages_that_are_written_are_copied():
    with psyne.sender("ipc://pages", Pages, capacity=2) as tx, psyne.receiver("ipc://pages") as rx:
        tx.send(np.full(16 * PAGE, 7, "u1"))
        with rx.receive() as m:
            own = m.private()
        address = own.array.ctypes.data
        assert own.array.sum() == 7 * 16 * PAGE
        assert dirty_bytes(address) == 0
        own.array[3 * PAGE] = 1
        assert dirty_bytes(address) == PAGE


def test_a_page_that_nobody_wrote_to_follows_the_slot():
    stages = [Stage("change", mutate=True)]
    with psyne.sender("ipc://pages", Pages, capacity=2, stages=stages) as tx, psyne.receiver("ipc://pages") as rx:
        tx.send(np.zeros(16 * PAGE, "u1"))
        with rx.receive() as m:
            own = m.private()
            own.array[0] = 1
            m.array[:] = 2
        assert (own.array[0], own.array[1], own.array[PAGE]) == (1, 0, 2)


def test_a_private_message_keeps_its_slot_and_unmaps_with_its_last_view():
    with psyne.sender("ipc://pages", Pages, capacity=1) as tx, psyne.receiver("ipc://pages") as rx:
        for n in range(3):
            tx.send(np.full(16 * PAGE, n, "u1"))
            with rx.receive() as m:
                own = m.private()
            del m
            assert not slot_is_free(tx)
            part = own.array[PAGE : 2 * PAGE]
            del own
            assert not slot_is_free(tx)
            assert private_mappings() == 1
            assert (part == n).all()
            del part
            assert slot_is_free(tx)
            assert private_mappings() == 0


@pytest.mark.parametrize("capacity", [1, 3])
def test_every_slot_has_private_pages_of_its_own(capacity: int):
    odd = Array("u1", (64 << 10) + 64)  # slots begin in the midst of pages
    with psyne.sender("ipc://odd", odd, capacity=capacity) as tx, psyne.receiver("ipc://odd") as rx:
        for n in range(2 * capacity):
            tx.send(np.full((64 << 10) + 64, n, "u1"))
            with rx.receive() as m:
                own = m.private()
                own.array[-1] = 255
                assert (m.array == n).all()
                assert own.array.ctypes.data % PAGE == m.array.ctypes.data % PAGE
            assert (own.array[:-1] == n).all()
            del own, m


def test_a_small_message_is_copied_and_its_slot_is_free():
    with psyne.sender("ipc://lines", Line, capacity=1) as tx, psyne.receiver("ipc://lines") as rx:
        tx.send(line_of(1, 0))
        with rx.receive() as m:
            own = m.private()
            own.array[0] = 5
            assert m.array[0] == 1
        assert slot_is_free(tx)
        assert own.array[1:].tolist() == line_of(1, 0)[1:].tolist()
        assert own.array.ctypes.data % 64 == 0
        assert private_mappings() == 0


def test_a_private_batch_is_one_writable_array():
    with psyne.sender("ipc://lines", Line, capacity=1024) as tx, psyne.receiver("ipc://lines") as rx:
        tx.send_many(np.ones((1024, 8), "u8"))
        with rx.receive_many(1024) as batch:
            own = batch.private()
            own[0] = 2
            assert (batch.array == 1).all()
        assert own.shape == (1024, 8)
        assert private_mappings() == 1
        del own
        assert private_mappings() == 0


def test_a_message_that_brings_its_own_shape_keeps_it():
    planes = Array("f4", ndim=2, max_bytes=1 << 20)
    with psyne.sender("ipc://planes", planes, capacity=2) as tx, psyne.receiver("ipc://planes", planes) as rx:
        with tx.loan(shape=(200, 300)) as m:
            m.array[:] = 3
        with rx.receive() as m:
            own = m.private()
            own.array[:] = 1
            assert own.array.shape == m.array.shape == (200, 300)
            assert (m.array == 3).all()


def test_a_struct_stays_a_struct():
    with psyne.sender("ipc://frames", Frame, capacity=2) as tx, psyne.receiver("ipc://frames", Frame) as rx:
        tx.send(Frame(stamp=3))
        with rx.receive() as m:
            own = m.private()
            own.image = 1
            own.stamp += 1
            assert (m.stamp, own.stamp, m.image.max(), own.image.min()) == (3, 4, 0, 1)
        own.release()


def test_an_array_of_a_field_has_private_pages_too():
    with psyne.sender("ipc://frames", Frame, capacity=2) as tx, psyne.receiver("ipc://frames", Frame) as rx:
        tx.send(Frame(stamp=3))
        with rx.receive() as m:
            for view in (m.image, m.image[::-1], m.image.T, np.asarray(memoryview(m.image))[1:]):
                own = _native.private_array(view, 1)
                assert (own.shape, own.strides, own.flags.writeable) == (view.shape, view.strides, True)
                assert private_mappings() == 1
                own[:] = 1
                assert not m.image.any()
                del own
                assert private_mappings() == 0


def test_where_the_address_does_not_suit_or_no_slot_is_there_it_is_a_copy():
    with psyne.sender("ipc://frames", Frame, capacity=2) as tx, psyne.receiver("ipc://frames", Frame) as rx:
        tx.send(Frame(stamp=3, image=2))
        with rx.receive() as m:
            own = _native.private_array(m.image, 64)
            assert own.ctypes.data % 64 == 0
            assert private_mappings() == 0
            assert (own == 2).all()
            assert (_native.private_array(own, 1) == 2).all()
            assert (m.private().private().image == 2).all()
    assert _native.private_array(np.arange(5)[::-2], 1).tolist() == [4, 2, 0]
    assert _native.private_array(np.zeros((3, 0)), 1).shape == (3, 0)
    with pytest.raises(TypeError, match="numpy array"):
        _native.private_array([1], 1)  # type: ignore[arg-type]


def test_a_private_message_of_a_loan_is_writable_on_its_own():
    with psyne.sender("ipc://pages", Pages, capacity=1) as tx, psyne.receiver("ipc://pages") as rx:
        with tx.loan() as m:
            m.array[:] = 1
            own = m.private()
            own.array[:] = 2
        del m
        with rx.receive() as m:
            assert (m.array == 1).all()
        assert not slot_is_free(tx)
        del own, m
        assert slot_is_free(tx)


def test_a_private_message_outlives_its_end_and_the_channel_files(psyne_directory: Path):
    tx, rx = psyne.sender("ipc://pages", Pages, capacity=1), psyne.receiver("ipc://pages")
    tx.send(np.full(16 * PAGE, 5, "u1"))
    own = rx.receive().private()
    tx.close()
    rx.close()
    assert (own.array == 5).all()
    own.array[:] = 6
    del own
    assert list(psyne_directory.iterdir()) == []


def test_a_private_message_lets_numpy_compute_in_place_where_the_slot_would_kill_the_process():
    with psyne.sender("ipc://pages", Pages, capacity=1) as tx, Child() as child:
        tx.send(np.full(16 * PAGE, 5, "u1"))
        child.run("rx = psyne.receiver('ipc://pages'); m = rx.receive()")
        child.run("own = m.private(); ctypes.memset(own.array.ctypes.data, 1, 1 << 16)")
        assert child.run("m.array.sum() == 5 * m.array.size")


def test_private_messages_leave_no_descriptors_and_no_mappings():
    with psyne.sender("ipc://pages", Pages, capacity=1) as tx, psyne.receiver("ipc://pages") as rx:
        tx.send(np.zeros(16 * PAGE, "u1"))
        with rx.receive() as m:
            before = descriptors()
            own = [m.private() for _ in range(100)]
            assert private_mappings() == 100
            assert not descriptors() - before
            del own
            assert private_mappings() == 0


def test_a_program_may_end_with_private_messages():
    run_program("""
import psyne, numpy as np
t = psyne.Array("u1", 1 << 16)
tx, rx = psyne.sender("ipc://x", t), psyne.receiver("ipc://x")
tx.send(np.zeros(1 << 16, "u1"))
own = rx.receive().private()
own.array[:] = 1
""")
