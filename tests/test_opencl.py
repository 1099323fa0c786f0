"""OpenCL devices on a real driver, PoCL where there is no GPU: kernels in OpenCL C on messages in place."""

import dataclasses
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, u64
from psyne.testing import touch_test

from .helpers.process import HELPERS, Child, run_program, until

sys.path.insert(0, str(HELPERS))
from opencl import ADD, SCALE, SET, SLOW  # type: ignore[import-not-found]
from vulkan import device_place, place  # type: ignore[import-not-found]

try:
    psyne.device("opencl")
except psyne.DeviceUnavailable as error:
    pytest.skip(f"no OpenCL: {error}", allow_module_level=True)

import pyopencl as cl

from psyne.devices import opencl

N = 4096
Plane = Array("f4", N)
Words = Array("u4", 1024)
MUTATES = [Stage("change", mutate=True), "show"]
ALIGN = psyne.device("opencl").info.alignment


class Frame(Struct, layout="columns"):
    stamp = u64()
    image = f32(16, 64)


@pytest.fixture
def dev() -> Any:
    return psyne.device("opencl")


@pytest.fixture
def scale(dev: Any) -> Any:
    return dev.kernel(SCALE)


@pytest.fixture
def out() -> Iterator[Any]:
    with psyne.sender("ipc://planes", Plane, capacity=8, align=ALIGN, stages=MUTATES) as out:
        yield out


@pytest.fixture
def words() -> Iterator[Any]:
    with (
        psyne.sender("ipc://words", Words, capacity=1, align=ALIGN) as out,
        psyne.receiver("ipc://words", Words) as rx,
    ):
        yield out, rx


class Gate:
    """Work in a queue that is done when the test says so: all that comes later there waits."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self._event = cl.UserEvent(queue.context)
        cl.enqueue_marker(queue, wait_for=[self._event])

    def open(self) -> None:
        if self._event.command_execution_status != cl.command_execution_status.COMPLETE:
            self._event.set_status(cl.command_execution_status.COMPLETE)


@pytest.fixture
def gate(dev: Any) -> Iterator[Gate]:
    """In the queue of the device."""
    made = Gate(dev.queue)
    yield made
    made.open()  # whatever has failed


@pytest.fixture
def aside(dev: Any) -> Iterator[Gate]:
    """In a queue of the test's own."""
    made = Gate(cl.CommandQueue(dev.context))
    yield made
    made.open()


def change() -> Any:
    return psyne.receiver("ipc://planes", Plane, stage="change")


def show() -> Any:
    return psyne.receiver("ipc://planes", Plane, stage="show")


def ramp() -> Any:
    return np.arange(N, dtype="f4")


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_a_kernel_changes_a_message_in_place_and_another_process_sees_it_in_its_own_mapping(
    dev: Any, scale: Any, out: Any
):
    with Child() as child:
        child.run("import vulkan; rx = psyne.receiver('ipc://planes', stage='show')")
        with change() as rx:
            out.send(ramp())
            with rx.receive() as m:
                view = dev.view(m)
                ours, devices = place(m.array.ctypes.data), device_place(view)
                assert scale(view, 2, 1).wait()
                assert (m.array == ramp() * 2 + 1).all()
        theirs, seen = child.run("m = rx.receive(); (vulkan.place(m.array.ctypes.data), m.array.copy())")
        assert ours == devices == theirs
        assert (seen == ramp() * 2 + 1).all()


def test_a_kernel_sees_what_another_process_wrote_after_the_slab_was_registered(dev: Any, scale: Any, out: Any):
    add = dev.kernel(ADD)
    with Child() as child, show() as rx, psyne.sender("ipc://sums", Plane, align=ALIGN) as sums:
        child.run("rx = psyne.receiver('ipc://planes', stage='change')")
        with out.loan() as m:
            assert scale(dev.view(m), 0, 3).wait()  # the slab is registered here
        child.run("with rx.receive() as m: m.array[:] = np.arange(4096)")
        with rx.receive() as m, sums.loan() as total:
            total.array[:] = 5
            assert add(dev.view(m), dev.view(total)).wait()
            assert (total.array == ramp() + 5).all()


def test_the_address_that_a_kernel_sees_is_that_of_the_message(dev: Any, out: Any):
    if not dev.info.unified or "Portable Computing" not in dev.info.driver:
        pytest.skip("a GPU has addresses of its own")
    tell = dev.kernel("kernel void tell(const global float *x, global ulong *seen) { *seen = (ulong)x; }")
    with out.loan() as m, out.loan() as seen:
        view = dev.view(m.array[ALIGN:])
        tell(view, dev.view(seen.array.view("u8")), size=1).wait()
        assert int(seen.array.view("u8")[0]) == view._registration.mapping.address + view.offset
        seen.discard()


class Foreign:
    """What kernels take, over memory of the test's own."""

    def __init__(self, dev: Any, buffer: Any) -> None:
        self.device, self._buffer, self.shape = dev, buffer, (1,)

    def region(self) -> Any:
        return self._buffer

    def check_writable(self, what: str) -> None:
        pass

    def sent(self, region: Any) -> list[Any]:
        return []

    fetched = sent


def test_a_registration_does_not_copy(dev: Any, scale: Any):
    def adapter(m: Any) -> Any:
        pages = SimpleNamespace(address=m.array.ctypes.data, nbytes=m.array.nbytes)
        return Foreign(dev, dev._register(pages, True))

    touch_test(adapter, write=lambda it: scale(it, 0, 1).wait())  # a sparse 256 MiB, one element written


def test_the_touch_test_catches_an_adapter_that_copies(dev: Any, scale: Any):
    def copies_in(m: Any) -> Any:
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        return m, Foreign(dev, cl.Buffer(dev.context, flags, hostbuf=m.array))

    def write(made: Any) -> None:
        scale(made[1], 0, 1).wait()

    def write_and_copy_back(made: Any) -> None:
        write(made)
        cl.enqueue_copy(dev.queue, made[0].array, made[1].region())

    for how in (write, write_and_copy_back):
        with pytest.raises(AssertionError, match="copied"):
            touch_test(copies_in, write=how, nbytes=1 << 20)


def test_a_region_is_a_message_alone_and_keeps_it(dev: Any, words: Any):
    out, rx = words
    with out.loan() as m:
        m.array[:] = 3
        region = dev.view(m).region()
        assert (region.size, region.offset) == (4096, dev.view(m).offset)
        cl.enqueue_fill_buffer(dev.queue, region, np.uint32(9), 0, 4096)
        dev.queue.finish()
        assert (m.array == 9).all()
        m.discard()
    rx.try_receive()  # passes over the loan that was taken back
    gc.collect()
    assert out.try_loan() is None
    del region
    gc.collect()
    out.loan(timeout=0).discard()


def test_an_array_of_pyopencl_is_the_message_and_keeps_it(dev: Any, words: Any):
    out, rx = words
    with out.loan() as m:
        m.array[:] = np.arange(1024)
        array = dev.view(m).pyopencl()
        assert (array.shape, array.dtype, array.strides) == ((1024,), np.dtype("u4"), (4,))
        array += 5
        half = array[512:]
        half *= 2
        dev.event(None, dev.view(m)).wait()
        assert (m.array == (np.arange(1024) + 5) * np.repeat([1, 2], 512)).all()
        m.discard()
    del array
    rx.try_receive()
    gc.collect()
    assert out.try_loan() is None
    del half
    gc.collect()
    out.loan(timeout=0).discard()


def test_parts_batches_and_columns_are_seen_where_they_lie(dev: Any, scale: Any):
    with (
        psyne.sender("ipc://frames", Frame, capacity=16, align=256, stages=MUTATES) as out,
        psyne.receiver("ipc://frames", Frame, stage="change") as rx,
    ):
        for n in range(8):
            out.send(Frame(stamp=n, image=np.full((16, 64), n)))
        with rx.receive_many(5) as batch:
            assert scale(dev.view(batch["image"]), 10, 0).wait()
            assert scale(dev.view(batch["image"][2]), 1, 5).wait()
            assert scale(dev.view(batch[3].image[4:6, :]), 1, 7).wait()
            expected = np.zeros((5, 16, 64), "f4") + np.arange(0, 50, 10, dtype="f4")[:, None, None]
            expected[2] += 5
            expected[3, 4:6] += 7
            assert (batch["image"] == expected).all()
            assert (batch["stamp"] == np.arange(5)).all()
        with rx.receive() as m:
            assert (m.image == 5).all()  # the neighbour


def test_anonymous_channels_work_too(dev: Any, scale: Any):
    tx, rx = psyne.channel(Plane, align=ALIGN)
    with tx, rx:
        with tx.loan() as m:
            m.array[:] = 1
            assert scale(dev.view(m), 4, 0).wait()
        with rx.receive() as m:
            assert (m.array == 4).all()


# ---- what is refused, before a driver sees it -----------------------------------------------------------------------


def test_what_lies_where_no_region_can_begin_is_refused_and_can_be_uploaded(dev: Any, out: Any):
    assert ALIGN > 1
    with out.loan() as m:
        m.array[:] = ramp()
        with pytest.raises(psyne.CannotShare, match=rf"an address that {ALIGN} divides.*\(rest 4\).*align={ALIGN}"):
            dev.view(m.array[1:])
        assert (dev.upload(m.array[1:]).numpy() == ramp()[1:]).all()


def test_a_read_only_message_goes_to_a_kernel_that_declares_it_const_and_to_no_other(dev: Any, scale: Any, out: Any):
    add = dev.kernel(ADD)
    assert [(it.name, it.type, it.kind, it.writes) for it in add.arguments] == [
        ("x", "float*", "buffer", False),
        ("y", "float*", "buffer", True),
    ]
    with change() as first, show() as last:
        out.send(ramp())
        first.receive().release()
        with last.receive() as m, out.loan() as total:
            total.array[:] = 1
            assert add(dev.view(m), dev.view(total)).wait()
            assert (total.array == ramp() + 1).all()
            for refused in (lambda: scale(dev.view(m), 2, 0), lambda: add(dev.view(total), dev.view(m))):
                with pytest.raises(
                    psyne.ReadOnly, match=r"[xy] of kernel (scale|add) \(not declared `const`\) would write"
                ):
                    refused()
            with pytest.raises(psyne.ReadOnly, match="an array of pyopencl would write"):
                dev.view(m).pyopencl()
            with pytest.raises(psyne.ReadOnly, match="writable=False"):
                scale(dev.view(total, writable=False), 2, 0)
            assert (m.array == ramp()).all()


def test_without_that_check_the_driver_ends_the_process(dev: Any):
    if "Portable Computing" not in dev.info.driver:
        pytest.skip("a GPU does not fault in this process")
    with psyne.sender("ipc://planes", Plane, align=ALIGN, stages=MUTATES) as out, Child() as child:
        out.send(ramp())
        child.run("first = psyne.receiver('ipc://planes', stage='change'); first.receive().release()")
        child.begin(
            "import opencl; dev = psyne.device('opencl'); kernel = dev.kernel(opencl.SCALE)\n"
            "m = psyne.receiver('ipc://planes', stage='show').receive(); view = dev.view(m)\n"
            "view.check_writable = lambda what: None\n"
            "kernel(view, 2, 0).wait()"
        )
        assert child.process.wait() == -signal.SIGSEGV


def test_memory_that_no_buffer_can_have_is_refused(dev: Any, scale: Any, out: Any, monkeypatch: pytest.MonkeyPatch):
    with out.loan() as m:
        monkeypatch.setattr(dev, "_largest", 4096)
        with pytest.raises(psyne.CannotShare, match=r"has at most 4,096 bytes, .* a smaller capacity="):
            dev.view(m)
        for it in (m, m.array, None):
            with pytest.raises(psyne.InvalidArgument, match=r"float\* x of kernel scale\(.*takes what view\(\)"):
                scale(it, 1, 1)
        m.discard()
    with pytest.raises(psyne.CannotShare, match=r"does not take 0 bytes at 0x0 in place: .*INVALID_BUFFER_SIZE"):
        dev._register(SimpleNamespace(address=0, nbytes=0), True)


# ---- kernels --------------------------------------------------------------------------------------------------------


def test_a_kernel_says_what_it_takes(dev: Any):
    kernel = dev.kernel("""
        typedef struct { int a, b; } pair;
        kernel void f(global const uint * restrict a, constant float *b, local char *c, global pair *d, unsigned int e,
                      float4 f, pair g) {}
    """)
    assert [tuple(it) for it in kernel.arguments] == [
        ("a", "uint*", "buffer", False),
        ("b", "float*", "buffer", False),
        ("c", "char*", "local", False),
        ("d", "pair*", "buffer", True),
        ("e", "uint", "scalar", False),
        ("f", "float4", "scalar", False),
        ("g", "pair", "scalar", False),
    ]
    assert repr(kernel) == "kernel f(uint* a, float* b, char* c, pair* d, uint e, float4 f, pair g)"


def test_a_kernel_that_does_not_compile_says_where(dev: Any):
    with pytest.raises(psyne.InvalidArgument, match=r"does not compile:(.|\n)*2:\d+: .*nonsense"):
        dev.kernel("kernel void f(global int *x) {\n  nonsense = 1;\n}\n")


def test_a_source_with_several_kernels_is_asked_for_one(dev: Any, out: Any):
    source = f"{SCALE}\n{ADD}\nkernel void set(global float *x) {{ x[get_global_id(0)] = VALUE; }}"
    kernel = dev.kernel(source, "set", options=["-DVALUE=6"])
    with out.loan() as m:
        kernel(dev.view(m)).wait()
        assert (m.array == 6).all()
    for name in (None, "sett"):
        with pytest.raises(psyne.InvalidArgument, match=r"has the kernels .*(scale|add|set), "):
            dev.kernel(source, name, options=["-DVALUE=6"])
    with pytest.raises(psyne.InvalidArgument, match=r"has the kernels \(none\)"):
        dev.kernel("float f(float x) { return x; }")


def test_numbers_are_what_the_kernel_declares(dev: Any, out: Any):
    source = """
        typedef struct { int a; float b; } pair;
        kernel void f(global double *x, char a, ushort b, long c, float d, double e, float2 f, pair g, local int *h) {
            h[0] = 1;
            x[0] = a; x[1] = b; x[2] = c; x[3] = d; x[4] = e; x[5] = f.y; x[6] = g.a + g.b; x[7] = h[0];
        }
    """
    kernel = dev.kernel(source)
    pair = np.array((3, 4), [("a", "i4"), ("b", "f4")])[()]
    good = [np.int64(-7), 60000, -(2**40), np.int32(5), 0.1, cl.cltypes.make_float2(1, 2), pair, cl.LocalMemory(4)]
    with out.loan() as m:
        view = dev.view(m.array.view("f8"))
        kernel(view, *good, size=1).wait()
        assert view.array[:8].tolist() == [-7, 60000, -(2**40), 5, 0.1, 2, 7, 1]
        for i, bad, text in [
            (0, 200, "char a of kernel f.* cannot be 200"),
            (0, np.int64(200), "cannot be 200|cannot be np.int64"),
            (1, 1.5, "ushort b .* cannot be 1.5"),
            (1, -1, "cannot be -1"),
            (2, float("nan"), "cannot be nan"),
            (3, "1", "float d .* takes a number"),
            (4, None, "double e .* takes a number"),
            (4, view, "takes a number"),
            (5, np.float32(1), "INVALID_ARG_SIZE"),
            (6, 7, "invalid kernel argument"),
            (7, 4, r"local|int\* h .* takes pyopencl.LocalMemory"),
        ]:
            with pytest.raises(psyne.InvalidArgument, match=text):
                kernel(view, *good[:i], bad, *good[i + 1 :], size=1)
        for arguments in ((), (view,), (view, *good, 1)):
            with pytest.raises(psyne.InvalidArgument, match=f"takes 9 arguments, and got {len(arguments)}"):
                kernel(*arguments)
        m.discard()


def test_a_kernel_has_one_work_item_for_each_element_or_as_many_as_it_is_told(dev: Any, out: Any):
    count = dev.kernel("""
        kernel void count(global uint *x) {
            x[get_global_id(0) + get_global_size(0) * (get_global_id(1) + get_global_size(1) * get_global_id(2))] =
                get_local_size(0);
        }
    """)

    def run(**how: Any) -> Any:
        m.array[:] = 0
        count(dev.view(m.array.view("u4")), **how).wait()
        return m.array.view("u4")

    with out.loan() as m:
        assert (run() > 0).all()
        assert (run(size=(4, 3, 2)) > 0).sum() == 24
        assert (run(size=128, group=32) == 32).sum() == 128
        assert (run(size=[np.int64(128)], group=np.int32(32)) == 32).sum() == 128
        for size in (0, -4, 1.5, "8", (), (1, 1, 1, 1), (1.5,), (4, None)):
            with pytest.raises(psyne.InvalidArgument, match="one to three positive whole numbers"):
                run(size=size)
        with pytest.raises(psyne.InvalidArgument, match=r"group=-1 .*one to three positive whole numbers"):
            run(size=4, group=-1)
        with pytest.raises(psyne.InvalidArgument, match=r"size=None .*one to three positive whole numbers"):
            dev.kernel("kernel void f(int n) {}")(3)
        with pytest.raises(psyne.InvalidArgument, match=r"size=\(100,\), group=\(33,\): .*INVALID_WORK_GROUP_SIZE"):
            run(size=100, group=33)
        with pytest.raises(psyne.InvalidArgument, match="INVALID_WORK"):
            run(size=1 << 20, group=1 << 20)
        m.discard()


# ---- events, leases, copies -----------------------------------------------------------------------------------------


def test_an_event_says_when_the_work_is_done(dev: Any, words: Any, gate: Gate):
    with words[0].loan() as m:
        m.array[:] = 0
        event = dev.kernel(SET)(dev.view(m), size=1)
        assert not event.done()
        assert not event.wait(0)
        assert not event.wait(0.01)
        assert "under way" in repr(event)
        assert m.array[0] == 0
        gate.open()
        assert event.wait()
        assert event.done()
        assert event.wait(0)
        assert m.array[0] == 7


def test_an_event_keeps_the_message_until_the_work_is_done(dev: Any, words: Any, gate: Gate):
    out, rx = words
    m = out.loan()
    event = dev.kernel(SET)(dev.view(m), size=1)
    m.discard()
    del m
    rx.try_receive()  # passes over the loan that was taken back
    gc.collect()
    assert out.try_loan() is None
    gate.open()
    assert event.wait()
    out.loan(timeout=0).discard()


def test_an_event_that_is_dropped_is_waited_for(dev: Any, words: Any):
    slow = dev.kernel(SLOW)
    with words[0].loan() as m:
        m.array[:] = 0
        slow(dev.view(m), 50_000_000, size=1)
        assert m.array[0] == 7


def test_a_loan_is_sent_when_the_kernel_that_fills_it_is_done(dev: Any, words: Any, gate: Gate):
    out, rx = words
    m = out.loan()
    m.array[:] = 0
    out.send(m, after=dev.kernel(SET)(dev.view(m), size=1))
    with pytest.raises(psyne.MessageReleased):
        dev.view(m)
    assert rx.try_receive() is None
    gate.open()
    with rx.receive(timeout=60) as got:
        assert got.array[0] == 7


def test_a_loan_whose_work_failed_is_taken_back(dev: Any, words: Any):
    out, rx = words
    failing = cl.UserEvent(dev.context)
    m = out.loan()
    event = dev.event(failing, dev.view(m))
    out.send(m, after=event)
    failing.set_status(-5)
    with pytest.raises(psyne.EventFailed, match="error -5 of OpenCL"):
        out.drain()
    for ask in (event.done, event.wait, lambda: event.wait(1)):
        with pytest.raises(psyne.SystemFailure, match="error -5 of OpenCL") as refused:
            ask()
        assert refused.value.errno == -5
    assert rx.try_receive() is None


def test_an_event_of_ones_own_queue_keeps_the_message_too(dev: Any, words: Any, aside: Gate):
    out, rx = words
    m = out.loan()
    m.array[:] = 0
    cl.enqueue_fill_buffer(aside.queue, dev.view(m).region(), np.uint32(7), 0, 4096)
    out.send(m, after=dev.event(aside.queue, dev.view(m)))
    assert rx.try_receive() is None
    aside.open()
    with rx.receive(timeout=60) as got:
        assert (got.array == 7).all()


def test_memory_is_kept_until_the_queue_has_done_all_that_is_in_it(dev: Any, gate: Gate, out: Any):
    m = out.loan()
    inode = psyne._native.region(m.array).key[1]
    before = mappings(inode)
    slab = dev.view(m)._registration.handle
    cl.enqueue_fill_buffer(dev.queue, dev.view(m).region(), np.uint32(7), 0, 4096)  # and nobody keeps the view
    m.discard()
    dropping = threading.Thread(target=dev.close)
    dropping.start()
    until(lambda: dev._alive == 0, "the device to let go")
    assert mappings(inode) == before + 1
    gate.open()
    dropping.join()
    assert mappings(inode) == before
    with pytest.raises(cl.Error, match="double-unref"):
        slab.release()  # the driver had let go of it first


def mappings(inode: int) -> int:
    """How many mappings of a file this process has."""
    return Path("/proc/self/maps").read_text().count(f" {inode} ")


def test_work_is_done_in_the_order_of_its_calls(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = 0
        view = dev.view(m)
        events = [scale(view, 0.5, n % 3) for n in range(50)]
        assert events[-1].wait()
        assert all(event.done() for event in events)
        expected = 0.0
        for n in range(50):
            expected = float(np.float32(expected * 0.5 + n % 3))
        assert m.array[0] == np.float32(expected)


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_many_threads_use_one_device_and_one_kernel(dev: Any, scale: Any, switching: None):
    faults = []

    def work(n: int) -> None:
        try:
            where = f"ipc://planes{n}"
            with psyne.sender(where, Plane, align=ALIGN) as out, psyne.receiver(where, Plane) as rx:
                for k in range(20):
                    with out.loan() as m:
                        m.array[:] = k
                        assert scale(dev.view(m), n, 1).wait()
                    with rx.receive() as m:
                        assert (m.array == k * n + 1).all()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_an_upload_is_a_copy_that_kernels_and_pyopencl_take(dev: Any, scale: Any, out: Any):
    with change() as rx, show() as last:
        out.send(ramp())
        rx.receive().release()
        with last.receive() as m:
            copy = dev.upload(m)
            scale(copy, 2, 1)
            array = copy.pyopencl()
            array += 1
            assert (copy.numpy() == ramp() * 2 + 2).all()
            assert (m.array == ramp()).all()
            square = m.array.reshape(64, 64)
            for part in (square[3:9], square[::2, 1::3], square.T, square[::-1][::-1], m.array[5:6], square[:, 7]):
                again = dev.upload(part)
                assert (again.shape, again.dtype) == (part.shape, part.dtype)
                assert (again.numpy() == part).all()
            with pytest.raises(psyne.CannotShare, match="has no bytes"):
                dev.upload(m.array[:0])
            days = m.array[:8].view("M8[s]")  # numpy has no buffer protocol for these
            assert (dev.upload(days[::2]).numpy() == days[::2]).all()
        out.send(ramp() * 2)  # the slot was let go: `copy` keeps nothing
        assert (copy.numpy() == ramp() * 2 + 2).all()


def test_an_upload_keeps_the_message_until_it_is_there_and_kernels_wait_for_it(dev: Any, words: Any, aside: Gate):
    out, rx = words
    out.send(np.full(1024, 3, "u4"))
    with rx.receive() as m:
        copy = dev.upload(m, stream=aside.queue)
    assert not copy.event.done()
    assert out.try_loan() is None
    event = dev.kernel(SET)(copy, size=1)
    assert not event.done()
    aside.open()
    assert copy.event.wait()
    out.loan(timeout=0).discard()
    assert copy.numpy()[:2].tolist() == [7, 3]
    assert event.done()


# ---- a device with a memory of its own: a stand-in, whose buffers are copies ----------------------------------------


@pytest.fixture
def apart(dev: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def copied(self: Any, mapping: Any, writable: bool) -> Any:
        flags = cl.mem_flags.COPY_HOST_PTR | (cl.mem_flags.READ_WRITE if writable else cl.mem_flags.READ_ONLY)
        return cl.Buffer(self.context, flags, hostbuf=opencl._memory(mapping.address, mapping.nbytes))

    monkeypatch.setattr(opencl.OpenCl, "_register", copied)
    with opencl.OpenCl(dataclasses.replace(dev.info, unified=False), dev.context.devices[0]) as apart:
        yield apart


def test_where_memory_is_not_unified_a_kernel_brings_its_messages_there_and_back(apart: Any, out: Any):
    scale, add = apart.kernel(SCALE), apart.kernel(ADD)
    with change() as rx, show() as last:
        with out.loan() as m:
            view = apart.view(m)  # the device has it as it is now
            m.array[:] = 3
            assert scale(view, 2, 1).wait()
            assert (m.array == 7).all()
            m.array[:] = 4
            scale(view, 2, 1)
            assert (m.array == 9).all()
        rx.receive().release()
        with last.receive() as m, out.loan() as total:
            total.array[:] = 1
            assert add(apart.view(m), apart.view(total)).wait()  # nothing goes back into what is read-only
            assert (total.array == 10).all()
            out.send(total, after=scale(apart.view(total), 0, 5))
        with rx.receive() as m:
            assert (m.array == 5).all()


def test_where_memory_is_not_unified_what_would_need_more_is_refused(apart: Any, out: Any):
    scale, add = apart.kernel(SCALE), apart.kernel(ADD)
    with out.loan() as m, out.loan() as other:
        m.array[:], other.array[:] = 1, ramp()
        apart.view(m)
        with pytest.raises(psyne.CannotShare, match="has a memory of its own"):
            apart.view(m).pyopencl()
        gaps = other.array.reshape(64, 64)[:, :32]
        with pytest.raises(psyne.CannotShare, match=r"would write 8192 bytes with gaps between, .* 16256 back"):
            scale(apart.view(gaps), 1, 1)
        assert add(apart.view(gaps), apart.view(m), size=64).wait()  # it only reads
        assert (m.array[:64] == ramp()[:64] + 1).all()
        assert (apart.upload(gaps).pyopencl().get() == gaps).all()
        other.discard()


# ---- life and death -------------------------------------------------------------------------------------------------


@pytest.mark.leaves_nothing
def test_registrations_do_not_leak(dev: Any, scale: Any):
    inodes = []
    for n in range(100):
        with psyne.sender(f"ipc://leaky{n}", Words, capacity=8, align=ALIGN) as out:
            with out.loan() as m:
                m.array[:] = 0
                scale(dev.view(m), 0, 1)
                inodes.append(psyne._native.region(m.array).key[1])
            with out.loan() as m:
                dev.view(m, writable=False)
    del out, m
    with psyne.sender("ipc://last", Words, align=ALIGN) as out, out.loan() as m:
        dev.view(m)
        m.discard()
    gc.collect()
    assert dev._alive <= 2
    assert sum(map(mappings, inodes)) == 0


def test_a_device_that_is_closed_lets_go_and_opens_again(dev: Any, scale: Any, out: Any):
    m = out.loan()
    view = dev.view(m)
    event = scale(view, 0, 3)
    dev.close()
    assert dev.closed
    assert event.wait()
    assert (m.array == 3).all()
    for refused in (
        lambda: dev.view(m),
        lambda: dev.upload(m),
        lambda: scale(view, 1, 1),
        lambda: dev.kernel(SCALE),
        lambda: dev.queue,
        lambda: dev.context,
        lambda: dev.event(None, view),
    ):
        with pytest.raises(psyne.ChannelClosed, match=r"psyne.device\('opencl:0'\) opens it again"):
            refused()
    again = psyne.device("opencl")
    assert again is not dev
    again.kernel(SCALE)(again.view(m), 2, 0).wait()
    assert (m.array == 6).all()
    m.discard()


PROGRAM = """
import psyne, opencl, threading, numpy as np
dev = psyne.device("opencl")
kernel = dev.kernel(opencl.SLOW)
out = psyne.sender("ipc://exit", psyne.Array("u4", 1024), align=dev.info.alignment)
m = out.loan()
view = dev.view(m)
copy = dev.upload(m)
array = view.pyopencl()
"""


@pytest.mark.parametrize(
    "end",
    [
        "event = kernel(view, 100_000_000, size=1)",
        "event = kernel(view, 100_000_000, size=1); dev.close()",
        "keep = [view, kernel, copy, array]; keep.append(keep)",
        "dev.close()",
        "dev.close(); del dev, view, kernel, copy, array",
        "del dev, kernel, copy, m, out",
        "raise SystemExit(0)",
        "threading.Thread(target=lambda: [kernel(view, 9, size=1) for _ in iter(int, 1)], daemon=True).start()",
    ],
)
def test_a_program_ends_well_with_whatever_it_still_has(end: str):
    assert run_program(PROGRAM + end).stderr == ""


def test_a_forked_child_is_refused_and_ends_well(dev: Any):
    with Child() as child:
        told = child.run(
            "import opencl; dev = psyne.device('opencl'); kernel = dev.kernel(opencl.SCALE)\n"
            f"out = psyne.sender('ipc://planes', psyne.Array('f4', 4096), align={ALIGN})\n"
            "m = out.loan(); view = dev.view(m)\n"
            "region = view.region(); array = view.pyopencl(); copy = dev.upload(m)\n"
            "event = kernel(view, 0, 5)\n"
            "def tried():\n"
            "    global region, array, copy\n"
            "    del region, array, copy\n"
            "    said = []\n"
            "    for use in (lambda: dev.view(m), lambda: kernel(view, 1, 1), lambda: psyne.device('opencl'),\n"
            "                event.wait, lambda: dev.kernel(opencl.SCALE), lambda: dev.upload(m),\n"
            "                lambda: dev.close()):\n"
            "        try: said.append(use())\n"
            "        except psyne.ForkedError as error: said.append('ForkedError')\n"
            "    return said\n"
            "forked(tried)"
        )
        assert told == ["ForkedError"] * 6 + [None]
        assert child.run("event.wait(), float(m.array[0])") == (True, 5.0)
        assert child.run("kernel(view, 2, 0).wait(), float(m.array[0])") == (True, 10.0)


# ---- which device, and none -----------------------------------------------------------------------------------------


def test_two_devices_have_the_same_message(dev: Any):
    if "Portable Computing" not in dev.info.driver:
        pytest.skip("PoCL makes two devices of one CPU; this driver does not")
    with Child("env", "POCL_DEVICES=pthread pthread") as child:
        child.run(
            "import opencl; one, two = psyne.device('opencl:0'), psyne.device('opencl:1')\n"
            "assert psyne.device('opencl') is one is not two\n"
            "out = psyne.sender('ipc://planes', psyne.Array('f4', 4096), align=one.info.alignment)\n"
            "m = out.loan(); m.array[:] = 1; first, second = one.view(m), two.view(m)"
        )
        assert child.run(
            "one.kernel(opencl.SCALE)(first, 2, 1).wait(), two.kernel(opencl.SCALE)(second, 10, 0).wait()\n"
            "m.array[0], (m.array == 30).all()"
        ) == (30, True)
        with pytest.raises(psyne.InvalidArgument, match=r"on opencl:0.*view.* of its device"):
            child.run("two.kernel(opencl.SCALE)(first, 2, 1)")
        with pytest.raises(psyne.DeviceUnavailable, match=r"there are opencl:0, opencl:1$"):
            child.run("psyne.device('opencl:2')")
        assert child.run("[it.name for it in psyne.devices() if it.kind == 'opencl']") == ["opencl:0", "opencl:1"]


def test_gpus_come_before_cpus(monkeypatch: pytest.MonkeyPatch):
    def platform(*kinds: int, fails: bool = False) -> Any:
        def get_devices() -> Any:
            if fails:
                raise cl.RuntimeError("DEVICE_NOT_FOUND")
            return [SimpleNamespace(type=it, available=it, compiler_available=True) for it in kinds]

        return SimpleNamespace(get_devices=get_devices)

    kind = cl.device_type
    there = [platform(kind.CPU, kind.GPU), platform(fails=True), platform(kind.ACCELERATOR, 0, kind.CPU | kind.DEFAULT)]
    monkeypatch.setattr(cl, "get_platforms", lambda: there)
    assert [it.type for it in opencl.found()] == [kind.GPU, kind.ACCELERATOR, kind.CPU, kind.CPU | kind.DEFAULT]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    ask = "try: psyne.device('opencl')\nexcept psyne.DeviceUnavailable as error: print(error)\nassert psyne.devices()"
    done = run_program("import sys; sys.modules['pyopencl'] = None\nimport psyne\n" + ask)
    assert "pip install 'psyne[opencl]'" in done.stdout
    monkeypatch.setenv("OCL_ICD_VENDORS", os.devnull)
    done = run_program("import psyne\n" + ask)
    assert "apt install ocl-icd-libopencl1 pocl-opencl-icd" in done.stdout
