"""Kernels of Vulkan devices: what they take, what they refuse, and many threads."""

import signal
import struct
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import psyne

from .helpers.planes import MUTATES, N, Plane, change, ramp, show
from .helpers.process import Child
from .helpers.vulkan import ADD, SCALE, scaled
from .helpers.vulkan_fixtures import GLSL, dev, out, scale

__all__ = ["dev", "out", "scale"]  # fixtures


@GLSL
def test_a_kernel_that_writes_past_its_message_does_not_reach_the_next(dev: Any, out: Any):
    beyond = dev.kernel("""
        #version 450
        layout(local_size_x = 64) in;
        layout(std430, set = 0, binding = 0) buffer Message { float x[]; } message;
        void main() { message.x[gl_GlobalInvocationID.x + 64] = 9; }
    """)
    with out.loan_many(2) as batch:
        batch.array[:] = 1
        assert beyond(dev.view(batch[0].array[:64]), groups=4).wait()
        assert beyond(dev.view(batch[0]), groups=N // 64).wait()
        assert (batch[0].array[:64] == 1).all()
        assert (batch[0].array[64:] == 9).all()
        assert (batch[1].array == 1).all()


def test_a_read_only_message_goes_to_a_kernel_that_reads_it_and_to_no_other(dev: Any, scale: Any, out: Any):
    add = dev.kernel(ADD)
    assert add.shader.writes == {0: False, 1: True}
    with change() as first, show() as last:
        out.send(ramp())
        first.receive().release()
        with last.receive() as m, out.loan() as total:
            total.array[:] = 1
            assert add(dev.view(m), dev.view(total), groups=N // 64).wait()
            assert (total.array == ramp() + 1).all()
            for refused in (lambda: scaled(scale, dev.view(m), 2, 0), lambda: add(dev.view(total), dev.view(m))):
                with pytest.raises(psyne.ReadOnly, match=r"buffer \d of this kernel"):
                    refused()
            with pytest.raises(psyne.ReadOnly, match="cannot be written"):
                dev.view(m, writable=True)
            with pytest.raises(psyne.ReadOnly, match="writable=False"):
                scaled(scale, dev.view(total, writable=False), 2, 0)
            assert (m.array == ramp()).all()


def test_without_that_check_the_driver_ends_the_process(dev: Any):
    if "llvmpipe" not in dev.info.product:
        pytest.skip("a GPU does not fault in this process")
    with psyne.sender("ipc://planes", Plane, stages=MUTATES) as out, Child() as child:
        out.send(ramp())
        child.run("first = psyne.receiver('ipc://planes', stage='change'); first.receive().release()")
        child.begin(
            "import vulkan; dev = psyne.device('vulkan'); kernel = dev.kernel(vulkan.SCALE, push=8)\n"
            "m = psyne.receiver('ipc://planes', stage='show').receive(); view = dev.view(m)\n"
            "view.check_writable = lambda what: None\n"
            "vulkan.scaled(kernel, view, 2, 0).wait()"
        )
        assert child.process.wait() == -signal.SIGSEGV


def test_a_kernel_is_called_as_it_was_declared(dev: Any, scale: Any, out: Any, monkeypatch: pytest.MonkeyPatch):
    with out.loan() as m:
        view = dev.view(m)
        for arguments, options, text in [
            ((), {}, "takes 1 buffers, and got 0"),
            ((view, view), {}, "takes 1 buffers, and got 2"),
            ((view,), {"push": b"1234"}, "has 8 bytes of push constants, and got 4"),
            ((view,), {"push": bytes(8), "groups": 0}, "groups=0"),
            ((view,), {"push": bytes(8), "groups": (1, -1)}, "groups="),
            ((view,), {"push": bytes(8), "groups": (1, 1, 1, 1)}, "groups="),
            ((view,), {"push": bytes(8), "groups": 1 << 40}, "numbers are wanted, from 1 to"),
        ]:
            with pytest.raises(psyne.InvalidArgument, match=text):
                scale(*arguments, **options)
        limits = SimpleNamespace(maxStorageBufferRange=1024, maxComputeWorkGroupCount=(1, 1, 1))
        monkeypatch.setattr(dev.vulkan.physical, "limits", limits)
        with pytest.raises(psyne.CannotShare, match=r"at most 1,024 of one: hand over parts"):
            scale(view, push=bytes(8))
        m.discard()


def test_limits_of_the_device_are_checked(dev: Any, monkeypatch: pytest.MonkeyPatch):
    limits = dev.vulkan.physical.limits
    with pytest.raises(psyne.InvalidArgument, match=r"at most \d+ buffers, not 10000"):
        dev.kernel(SCALE, buffers=10_000, push=8)
    for push in (6, -4, limits.maxPushConstantsSize + 4):
        with pytest.raises(psyne.InvalidArgument, match=f"a multiple of 4 .* not {push}"):
            dev.kernel(SCALE, push=push)
    large = SCALE.replace(struct.pack("<III", 64, 1, 1), struct.pack("<III", 1 << 20, 1, 1))
    assert large != SCALE
    with pytest.raises(psyne.InvalidArgument, match=r"1048576 × 1 × 1 threads"):
        dev.kernel(large, push=8)


def test_what_was_recorded_once_is_used_again(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        view = dev.view(m)
        for _ in range(20):
            assert scaled(scale, view, 0, 1).wait()
        assert len(scale.idle) == 1
        events = [scaled(scale, view, 0, 1) for _ in range(5)]
        assert scale.idle == []
        del events
        assert len(scale.idle) == 5


def test_many_threads_use_one_device_and_one_kernel(dev: Any, scale: Any):
    faults = []

    def work(n: int) -> None:
        try:
            with psyne.sender(f"ipc://planes{n}", Plane) as out, psyne.receiver(f"ipc://planes{n}", Plane) as rx:
                for k in range(50):
                    with out.loan() as m:
                        m.array[:] = k
                        event = scaled(scale, dev.view(m), n, 1)
                        assert event.wait()
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
