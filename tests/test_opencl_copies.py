"""Copies in memory of an OpenCL device: uploads, and a device that has no other memory."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne.devices import opencl

from .helpers.opencl import ADD, SCALE, SET
from .helpers.opencl_fixtures import Gate, aside, cl, dev, out, scale, words
from .helpers.planes import change, ramp, show

__all__ = ["aside", "dev", "out", "scale", "words"]  # fixtures


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
