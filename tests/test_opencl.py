"""OpenCL devices on a real driver, PoCL where there is no GPU: messages in place, from first to last."""

import gc
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne.testing import touch_test

from .helpers.maps import device_place, inode_of, mappings, place
from .helpers.opencl import ADD, SCALE
from .helpers.opencl_fixtures import ALIGN, Gate, cl, dev, gate, out, scale, words
from .helpers.planes import MUTATES, Frame, Plane, Words, change, ramp, show
from .helpers.process import Child, run_program, until

__all__ = ["dev", "gate", "out", "scale", "words"]  # fixtures


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_a_kernel_changes_a_message_in_place_and_another_process_sees_it_in_its_own_mapping(
    dev: Any, scale: Any, out: Any
):
    with Child() as child:
        child.run("import maps; rx = psyne.receiver('ipc://planes', stage='show')")
        with change() as rx:
            out.send(ramp())
            with rx.receive() as m:
                view = dev.view(m)
                ours, devices = place(m.array.ctypes.data), device_place(view)
                assert scale(view, 2, 1).wait()
                assert (m.array == ramp() * 2 + 1).all()
        theirs, seen = child.run("m = rx.receive(); (maps.place(m.array.ctypes.data), m.array.copy())")
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


# ---- life and death -------------------------------------------------------------------------------------------------


def test_memory_is_kept_until_the_queue_has_done_all_that_is_in_it(dev: Any, gate: Gate, out: Any):
    m = out.loan()
    inode = inode_of(m)
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


@pytest.mark.leaves_nothing
def test_registrations_do_not_leak(dev: Any, scale: Any):
    inodes = []
    for n in range(100):
        with psyne.sender(f"ipc://leaky{n}", Words, capacity=8, align=ALIGN) as out:
            with out.loan() as m:
                m.array[:] = 0
                scale(dev.view(m), 0, 1)
                inodes.append(inode_of(m))
            with out.loan() as m:
                dev.view(m, writable=False)
    del out, m
    with psyne.sender("ipc://last", Words, align=ALIGN) as out, out.loan() as m:
        dev.view(m)
        m.discard()
    gc.collect()
    assert dev._alive <= 2
    assert mappings(*inodes) == 0


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
            "event.wait(), copy.event.wait()  # a fork while PoCL has its locks leaves them locked in the child\n"
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
