"""One contract for all devices: each is tried with the same messages, by work of its own kind."""

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Bytes, Stage, Struct, devices, f32, u8
from psyne.devices import Device, DeviceInfo, Event, View, contract, registry, unavailable

from .helpers import fakecuda, fakemetal
from .helpers.process import HELPERS, Child, until

Plane = Array("f4", (64, 64))  # 16 KiB
Blob = Bytes(max_bytes=1 << 24)


class Frame(Struct):
    stamp = f32()
    image = u8(4, 64)


@dataclass(frozen=True)
class Case:
    """A device, and its way to add 1 to each float32 of a view."""

    name: str
    add_one: Callable[[Any], Event]
    pins: bool = False  # its driver makes all pages that it registers


def give_back(fd: int, offset: int, nbytes: int) -> None:
    """Makes a stretch of a file sparse."""
    keep_size, punch_hole = 1, 2
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate(fd, keep_size | punch_hole, ctypes.c_long(offset), ctypes.c_long(nbytes)) == 0


def add_one_by_numpy(view: Any) -> Event:
    view.check_writable("numpy")
    np.asarray(view)[...] += 1
    return contract.Finished()


def add_one_by_vulkan(view: Any) -> Event:
    kernel = view.device.kernel((HELPERS / "kernels" / "scale.spv").read_bytes(), push=8)
    event: Event = kernel(view, groups=-(-view.nbytes // 256), push=np.ones(2, "f4").tobytes())
    return event


def add_one_by_cuda(view: Any) -> Event:
    view.check_writable("add")
    fakecuda.add(view.device, view, 1)
    event: Event = view.device.event(None, view)
    return event


def add_one_by_metal(view: Any) -> Event:
    event: Event = fakemetal.kernel(view.device, "add_one")(view, groups=view.nbytes // 256, threads=64)
    return event


def add_one_by_opencl(view: Any) -> Event:
    kernel = view.device.kernel("kernel void add(global float *x) { x[get_global_id(0)] += 1; }")
    event: Event = kernel(view)
    return event


CASES = [
    Case("cpu", add_one_by_numpy),
    Case("vulkan", add_one_by_vulkan),
    Case("cuda", add_one_by_cuda, pins=True),  # by a stand-in for its driver
    Case("metal", add_one_by_metal, pins=fakemetal.REAL),  # by a stand-in, except on a Mac
    Case("opencl", add_one_by_opencl),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Case:
    found: Case = request.param
    if found.name == "cuda":
        monkeypatch.setenv("PSYNE_LIBCUDA", fakecuda.library())
        monkeypatch.setenv("FAKECUDA_DIR", str(tmp_path))
    if found.name == "metal" and not fakemetal.REAL:
        monkeypatch.setenv("PSYNE_LIBMETAL", fakemetal.library())
    if (why := unavailable().get(found.name.partition(":")[0])) is not None:
        pytest.skip(why)
    return found


@pytest.fixture
def device(case: Case) -> Iterator[Device]:
    with psyne.device(case.name) as opened:
        yield opened


@pytest.fixture
def ends() -> Iterator[tuple[psyne.Sender[Any], psyne.Receiver[Any]]]:
    with (
        psyne.sender("ipc://planes", Plane, capacity=4, align=256) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        yield tx, rx


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_what_the_device_writes_is_in_the_message(case: Case, device: Device, ends: Any):
    tx, rx = ends
    for n in range(6):
        with tx.loan() as m:
            m.array[:] = n
            case.add_one(device.view(m)).wait()
            assert (m.array == n + 1).all()
        with rx.receive() as m:
            assert (m.array == n + 1).all()


def test_another_process_sees_what_the_device_wrote_and_the_device_what_it_wrote(case: Case, device: Device):
    stages = [Stage("change", mutate=True), "read"]
    with Child() as child, psyne.sender("ipc://planes", Plane, capacity=4, align=256, stages=stages) as tx:
        child.run("rx = psyne.receiver('ipc://planes', stage='change')")
        with psyne.receiver("ipc://planes", Plane, stage="read") as rx:
            with tx.loan() as m:
                m.array[:] = 1
                case.add_one(device.view(m)).wait()
            child.run("with rx.receive() as m: assert (m.array == 2).all(); m.array[:] = 7")
            with rx.receive() as m:
                assert device.upload(m).numpy().tolist() == np.full((64, 64), 7, "f4").tolist()
        child.run("rx.close()")


def test_a_message_of_a_mutating_stage_is_changed_in_place(case: Case, device: Device):
    stages = [Stage("change", mutate=True), "read"]
    with (
        psyne.sender("ipc://planes", Plane, align=256, stages=stages) as tx,
        psyne.receiver("ipc://planes", Plane, stage="change") as change,
        psyne.receiver("ipc://planes", Plane, stage="read") as read,
    ):
        tx.send(np.ones((64, 64), "f4"))
        with change.receive() as m:
            case.add_one(device.view(m)).wait()
        with read.receive() as m:
            assert (m.array == 2).all()


def test_a_field_or_a_slice_is_viewed_alone(case: Case, device: Device, ends: Any):
    tx, _ = ends
    with tx.loan() as m:
        m.array[:] = 0
        case.add_one(device.view(m.array[16:32])).wait()  # 16 rows of 256 bytes
        assert (m.array[16:32] == 1).all()
        assert (m.array[:16] == 0).all()
        assert (m.array[32:] == 0).all()


def test_a_batch_is_one_view(case: Case, device: Device, ends: Any):
    tx, rx = ends
    with tx.loan_many(4) as batch:
        batch.array[:] = np.arange(4, dtype="f4")[:, None, None]
        view = device.view(batch)
        assert view.shape == (4, 64, 64)
        case.add_one(view).wait()
    with rx.receive_many(4) as batch:
        assert batch.array[:, 0, 0].tolist() == [1, 2, 3, 4]


def test_a_view_says_what_it_is(device: Device, ends: Any):
    tx, _ = ends
    with tx.loan() as m:
        view = device.view(m)
        assert (view.shape, view.dtype, view.strides) == ((64, 64), np.dtype("f4"), (256, 4))
        assert (view.device, view.nbytes, view.writable) == (device, 16384, True)
        assert view.array is m.array
        assert "float32[64, 64]" in repr(view)
        assert device.name in repr(view)


def test_an_upload_is_a_copy(device: Device, ends: Any):
    tx, rx = ends
    with tx.loan() as m:
        m.array[:] = 3
        copy = device.upload(m)
        copy.event.wait()
        m.array[:] = 4
        assert copy.event.done()
        assert (copy.shape, copy.dtype, copy.nbytes) == ((64, 64), np.dtype("f4"), 16384)
        assert (copy.numpy() == 3).all()
    rx.receive().release()


# ---- leases ---------------------------------------------------------------------------------------------------------


def test_a_view_keeps_its_message(device: Device, ends: Any):
    tx, rx = ends
    for _ in range(4):
        tx.send(np.ones((64, 64), "f4"))
    with rx.receive() as m:
        view = device.view(m)
    assert tx.try_loan() is None  # the slot of the view is the next
    del view
    gc.collect()
    tx.try_loan().discard()


def test_a_view_lives_on_when_its_end_and_the_device_are_closed(case: Case, device: Device):
    tx = psyne.sender("ipc://planes", Plane, align=256)
    with psyne.receiver("ipc://planes", Plane) as rx:
        with tx.loan() as m:
            m.array[:] = 1
            view = device.view(m)
            event = case.add_one(view)
        rx.receive().release()
        tx.close()
        device.close()
        event.wait()
        assert (view.array == 2).all()
        with pytest.raises(psyne.ChannelClosed, match="was closed"):
            device.view(view.array)


def test_a_device_that_was_closed_lets_go_of_the_memory_when_the_last_view_goes(device: Device, ends: Any):
    tx, _ = ends
    with tx.loan() as m:
        view = device.view(m)
        device.close()
        assert device._alive == 1
        del view
        gc.collect()
        assert device._alive == 0
        assert device._shut_down


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_what_is_read_only_is_never_written(case: Case, device: Device, ends: Any):
    tx, rx = ends
    with tx.loan() as m:
        m.array[:] = 1
        view = device.view(m)
        frozen = device.view(m, writable=False)
        assert (view.writable, frozen.writable) == (True, False)
        with pytest.raises(psyne.ReadOnly, match="read-only on"):
            case.add_one(frozen)
    with pytest.raises(psyne.ReadOnly):
        case.add_one(view)  # it was sent
    with rx.receive() as m:
        received = device.view(m)
        assert not received.writable
        with pytest.raises(psyne.ReadOnly, match="would write"):
            case.add_one(received)
        with pytest.raises(psyne.ReadOnly, match="cannot be written on"):
            device.view(m, writable=True)
        assert (m.array == 1).all()


def test_a_message_that_is_over_is_refused(device: Device, ends: Any):
    tx, rx = ends
    with tx.loan() as m:
        pass
    with pytest.raises(psyne.MessageReleased):
        device.view(m)
    with rx.receive() as m:
        part = m.array[2:]
    with pytest.raises(psyne.MessageReleased):
        device.view(m)
    assert device.view(part).nbytes == 62 * 256  # an array keeps it


def test_memory_that_is_no_channels_is_refused(device: Device, ends: Any):
    tx, rx = ends
    with pytest.raises(psyne.CannotShare, match="not in the memory of a channel"):
        device.view(np.zeros(4, "f4"))
    with pytest.raises(psyne.CannotShare, match="private memory"):
        device.view(Plane())
    with pytest.raises(TypeError, match="a message, a batch or an array of one is wanted, not list"):
        device.view([1, 2])  # type: ignore[arg-type]
    with psyne.tap(tx.address, Plane) as tap:
        tx.send(np.zeros((64, 64), "f4"))
        seen = tap.receive()
        with pytest.raises(psyne.CannotShare, match="came from a tap"):
            device.view(seen)
    rx.receive().release()


def test_what_a_device_has_no_words_for_is_refused(device: Device, ends: Any):
    tx, _ = ends
    with tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match="has no bytes"):
            device.view(m.array[:0])
        with pytest.raises(psyne.CannotShare, match="no negative strides"):
            device.view(m.array[::-1])


def test_a_place_where_the_device_cannot_begin_is_refused_with_the_numbers(device: Device, ends: Any):
    tx, _ = ends
    unit = device.info.alignment
    if unit == 1:
        pytest.skip(f"{device.name} begins anywhere")
    with tx.loan() as m, pytest.raises(psyne.CannotShare, match=rf"needs an address that {unit} divides.*\(rest 4\)"):
        device.view(m.array[0, 1:])


def test_a_forked_child_is_refused(case: Case):
    with Child() as child:
        says = child.run(
            f"tx = psyne.sender('ipc://n', Number); dev = psyne.device({case.name!r})\n"
            "m = tx.loan(); view = dev.view(m)\n"
            "def ask():\n"
            " global view\n"
            " del view\n"
            " dev._registry.clear()\n"
            " try: dev.view(m.array)\n"
            " except psyne.ForkedError as error: return str(error), dev._alive\n"
            "says, alive = forked(ask); m.discard(); tx.close()\n"
            "assert alive == dev._alive == 1  # the driver is the parent's, and knows what it knew\n"
            "says"
        )
        assert child.finish() == 0
    assert "the parent process" in says


# ---- registrations --------------------------------------------------------------------------------------------------


def test_a_slab_is_registered_once(device: Device, ends: Any):
    tx, rx = ends
    for _ in range(10):
        with tx.loan() as m:
            device.view(m)
        with rx.receive() as m:
            device.view(m)
    assert device._alive == 2  # to write, and to read


def test_of_the_slabs_without_views_those_used_last_are_kept(device: Device, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "MOST", 2)
    ends = [psyne.sender(f"ipc://planes{n}", Plane, capacity=2, align=256) for n in range(4)]
    views = []
    for tx in ends:
        with tx.loan() as m:
            views.append(device.view(m))
    assert device._alive == 4  # views keep theirs
    with ends[0].loan() as m:
        assert device.view(m)._registration is views[0]._registration
    views.clear()
    gc.collect()
    assert device._alive == 2
    for tx in ends:
        tx.close()


def test_when_an_end_is_gone_its_memory_is(device: Device):
    tx = psyne.sender("ipc://planes", Plane, align=256)
    with tx.loan() as m:
        device.view(m)
        inode = psyne._native.region(m.array).key[1]
    assert device._alive == 1
    tx.close()
    del tx, m
    gc.collect()
    assert device._alive == 0
    if sys.platform == "linux":
        assert f" {inode} " not in Path("/proc/self/maps").read_text()


def test_slabs_of_a_ring_that_grew_are_let_go_when_they_are_retired(device: Device):
    with (
        psyne.sender("ipc://planes", Plane, capacity=2, full="grow", budget=1 << 25, align=256) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        for _ in range(40):
            with tx.loan(timeout=30) as m:
                device.view(m)
        del m
        *older, _ = [it.mapping for it in device._registry._kept.values()]
        assert len(older) > 1
        while (m := rx.try_receive()) is not None:
            m.release()
        until(lambda: all(mapping.over for mapping in older), "the slabs are retired")
        with tx.loan() as m:
            device.view(m, writable=False)  # something new is registered
        assert device._alive == 2


def test_a_message_beside_its_slot_is_registered_for_itself(device: Device):
    with (
        psyne.sender("ipc://blobs", Blob, capacity=4, full="grow", budget=1 << 27) as tx,
        psyne.receiver("ipc://blobs", Blob) as rx,
    ):
        with tx.loan(size=3_000_000) as m:
            lasting = psyne._native.region(m.array).lasting
            view, again = device.view(m), device.view(m.array[4096:])
            assert view._registration is again._registration
            assert device._alive == 1
            del view, again
            gc.collect()
            assert device._alive == int(lasting)
        rx.receive().release()


def test_threads_register_a_slab_once(device: Device, ends: Any):
    tx, _ = ends
    with tx.loan() as m:
        views: list[View] = []
        barrier = threading.Barrier(8)

        def look(array: Any = m.array) -> None:
            barrier.wait()
            views.extend(device.view(array) for _ in range(50))

        threads = [threading.Thread(target=look) for _ in range(8)]
        for it in threads:
            it.start()
        for it in threads:
            it.join()
        assert len(views) == 400
        assert device._alive == 1
        views.clear()


def test_work_on_one_element_touches_one_page(case: Case, device: Device):
    if case.pins:
        pytest.skip(f"{device.name} pins all that it registers")
    if sys.platform != "linux":
        pytest.skip("pages of a file are given back on Linux only")
    floats = 16 << 20
    with psyne.sender("ipc://large", Array("f4", floats), capacity=1, align=256) as tx, tx.loan() as m:
        region = psyne._native.region(m.array)
        fd = (mapping := region.map(True)).fd
        give_back(fd, region.key[2] + region.offset, region.nbytes)  # slabs have all their pages: this one has none
        before = os.fstat(fd).st_blocks * 512
        case.add_one(device.view(m.array[:64])).wait()
        assert m.array[0] == 1
        touched = os.fstat(fd).st_blocks * 512 - before
        assert 0 < touched <= max(1 << 21, floats * 4 // 32)  # a huge page at most
        mapping.close()
        m.discard()


# ---- devices --------------------------------------------------------------------------------------------------------


def test_a_device_is_one_object_by_all_its_names(case: Case, device: Device):
    assert psyne.device(case.name) is device
    assert psyne.device(device.name) is device
    device.close()
    assert device.closed
    with psyne.device(case.name) as other:
        assert other is not device


def test_the_list_of_devices_says_what_each_can_do(case: Case, device: Device):
    found = {info.name: info for info in devices()}
    info = found[device.name]
    assert info == device.info
    assert isinstance(info, DeviceInfo)
    assert info.kind == case.name.partition(":")[0]
    assert info.product
    assert info.zero_copy
    assert info.alignment >= 1


@pytest.mark.parametrize("name", ["", "abacus", "abacus:1", "cpu:7", "cpu:x", None])
def test_a_device_that_is_not_there_is_named(name: Any):
    with pytest.raises(psyne.DeviceUnavailable, match=r"no (kind of )?device"):
        psyne.device(name)


def test_the_cpu_is_always_there():
    assert "cpu" in {info.name for info in devices()}
    assert "cpu" not in unavailable()


def test_the_view_of_the_cpu_is_an_array_by_a_mapping_of_its_own(ends: Any):
    tx, _ = ends
    with psyne.device("cpu") as device, tx.loan() as m:
        view: Any = device.view(m)
        array = np.asarray(view)
        assert isinstance(view, View)
        assert array.ctypes.data == view.pointer
        assert array.ctypes.data != m.array.ctypes.data
        assert not np.shares_memory(array, m.array)  # as far as addresses say
        array[3, 4] = 5
        assert m.array[3, 4] == 5
        assert np.from_dlpack(view).ctypes.data == view.pointer
        del view
        gc.collect()
        array[:] = 6  # it keeps the view
        assert (m.array == 6).all()
