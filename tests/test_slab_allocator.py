"""SlabAllocator and DynamicSlabAllocator by themselves."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import DynamicSlabAllocator, SlabAllocator

from .helpers.process import run_program


def resident() -> int:
    """Bytes of shared memory that this process has in use."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssShmem"].split()[0]) * 1024


def test_a_slab_is_a_writable_array_that_begins_at_a_page():
    slab = SlabAllocator(slot_bytes=1000, capacity=64).allocate()
    array = slab.array
    assert (array.shape, array.dtype, array.flags.writeable) == ((64, 1000), np.uint8, True)
    assert array.ctypes.data % 4096 == 0
    assert not array.any()
    array[3] = 7
    assert memoryview(slab).tobytes()[3000:4000] == b"\7" * 1000
    assert np.asarray(slab)[3, 0] == 7
    assert (slab.slot_bytes, slab.capacity) == (1000, 64)
    assert slab.bytes >= 64_000


def test_all_pages_of_a_slab_are_there_from_the_start():
    before = resident()
    slab = DynamicSlabAllocator(budget=1 << 26).allocate(slot_bytes=1 << 20, capacity=16)
    assert resident() - before >= 16 << 20
    del slab
    assert resident() - before < 1 << 20


def test_a_fixed_allocator_has_one_slab():
    allocator = SlabAllocator(64, 8)
    slab = allocator.allocate()
    assert (allocator.slabs, allocator.reserved) == (1, slab.bytes)
    with pytest.raises(psyne.ChannelBusy, match="a SlabAllocator has one slab"):
        allocator.allocate()
    slab.free()
    assert (allocator.slabs, allocator.reserved) == (0, 0)


def test_a_dynamic_allocator_keeps_within_its_budget():
    allocator = DynamicSlabAllocator(budget=1 << 20)
    slabs: list[psyne.Slab] = []
    with pytest.raises(psyne.NoSpace, match=r"budget=1048576 .* is used up"):
        slabs.extend(allocator.allocate(4096, 32) for _ in range(100))
    assert 4 <= len(slabs) < 8
    assert allocator.slabs == len(slabs)
    assert allocator.reserved == sum(slab.bytes for slab in slabs) <= allocator.budget == 1 << 20
    for number, slab in enumerate(slabs):
        slab.array[...] = number
    assert [int(slab.array[31, 4095]) for slab in slabs] == list(range(len(slabs)))
    slabs.pop(1).free()
    again = allocator.allocate(100, 1000)
    assert not again.array.any()  # nothing of what was there
    assert [int(slab.array[0, 0]) for slab in slabs] == [0, *range(2, len(slabs) + 1)]


def test_it_has_32_slabs_at_most_at_a_time():
    allocator = DynamicSlabAllocator(budget=1 << 30)
    slabs = [allocator.allocate(64, 1) for _ in range(32)]
    with pytest.raises(psyne.ChannelBusy, match="all 32 places"):
        allocator.allocate(64, 1)
    del slabs[7]
    assert allocator.allocate(64, 1).array.shape == (1, 64)


def test_a_slab_goes_with_the_last_view_of_it():
    allocator = DynamicSlabAllocator(budget=1 << 20)
    slab = allocator.allocate(64, 8)
    row: Any = memoryview(slab)[2:3]
    view = slab.array[1]
    with pytest.raises(psyne.ViewsAlive, match="arrays still use"):
        slab.free()
    del slab
    gc.collect()
    view[:] = 5
    assert (allocator.slabs, int(view[3])) == (1, 5)
    del view
    assert allocator.slabs == 1
    row.release()
    del row
    assert (allocator.slabs, allocator.reserved) == (0, 0)


def test_the_memory_outlives_its_allocator():
    array = DynamicSlabAllocator(budget=1 << 20).allocate(64, 8).array
    array[:] = 3
    assert array.sum() == 3 * 64 * 8


def test_a_freed_slab_has_no_array():
    slab = SlabAllocator(64, 8).allocate()
    slab.free()
    slab.free()
    with pytest.raises(psyne.MessageReleased, match="was freed"):
        _ = slab.array
    with pytest.raises(ValueError, match="was freed"):
        memoryview(slab)


@pytest.mark.parametrize(
    "call",
    [
        lambda: SlabAllocator(0, 8).allocate(),
        lambda: SlabAllocator(8, 0).allocate(),
        lambda: DynamicSlabAllocator(0),
        lambda: DynamicSlabAllocator(1 << 20).allocate(0, 1),
    ],
)
def test_sizes_of_nothing_are_invalid(call: Any):
    with pytest.raises(psyne.InvalidArgument, match="got"):
        call()


def test_more_than_there_is_is_no_space():
    with pytest.raises(psyne.NoSpace):
        SlabAllocator(1 << 40, 1 << 20).allocate()
    with pytest.raises(psyne.NoSpace):
        SlabAllocator(1 << 45, 1).allocate()


def test_a_forked_child_leaves_the_slabs_of_its_parent_alone():
    done = run_program(
        "import os, psyne\n"
        "allocator = psyne.DynamicSlabAllocator(1 << 20)\n"
        "slab = allocator.allocate(64, 8)\n"
        "if os.fork() == 0:\n"
        "    del slab\n"
        "    try: allocator.allocate(64, 8)\n"
        "    except psyne.InvalidArgument: os._exit(0)\n"
        "    os._exit(2)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "slab.array[:] = 1\n"
        "print(allocator.slabs, slab.array.sum())\n"
    )
    assert done.stdout.strip() == "1 512"
