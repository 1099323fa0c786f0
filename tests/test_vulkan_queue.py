"""Events of Vulkan devices, and the order of what they are given."""

import gc
import threading
from typing import Any

import numpy as np
import pytest

import psyne
from psyne.devices import vulkan_api

from .helpers.process import Child, until
from .helpers.vulkan import SLOW, scaled
from .helpers.vulkan_fixtures import GLSL, dev, out, scale, slowly, words

__all__ = ["dev", "out", "scale", "words"]  # fixtures


@GLSL
def test_an_event_says_when_the_work_is_done(dev: Any, words: Any):
    slow = dev.kernel(SLOW, push=4)
    with words[0].loan() as m:
        m.array[:] = 0
        event = slowly(slow, dev.view(m))
        assert m.array[0] == (7 if event.done() else 0) or event.done()
        until(event.done, "the kernel")
        assert m.array[0] == 7
        assert event.wait(0)
        assert event.wait()


def test_an_event_keeps_the_message_until_the_work_is_done(
    dev: Any, scale: Any, words: Any, monkeypatch: pytest.MonkeyPatch
):
    out, rx = words
    m = out.loan()
    view = dev.view(m)
    with monkeypatch.context() as patch:
        patch.setattr(dev.vulkan.api, "vkWaitForFences", lambda *_: vulkan_api.TIMEOUT)  # it takes its time
        event = scaled(scale, view, 1, 1)
        m.discard()
        del m, view
        assert not event.done()
        rx.try_receive()  # passes over the loan that was taken back
        gc.collect()
        assert out.try_loan() is None
        assert not event.wait(0.01)
    assert event.wait()
    out.loan(timeout=0).discard()


@GLSL
def test_an_event_that_is_dropped_is_waited_for(dev: Any, words: Any):
    slow = dev.kernel(SLOW, push=4)
    with words[0].loan() as m:
        m.array[:] = 0
        slowly(slow, dev.view(m))
        assert m.array[0] == 7


@GLSL
def test_a_loan_is_sent_when_the_kernel_that_fills_it_is_done(dev: Any, words: Any):
    out, rx = words
    slow = dev.kernel(SLOW, push=4)
    m = out.loan()
    m.array[:] = 0
    out.send(m, after=slowly(slow, dev.view(m)))
    with pytest.raises(psyne.MessageReleased):
        dev.view(m)
    with rx.receive(timeout=60) as got:
        assert got.array[0] == 7


def test_work_is_done_in_the_order_of_its_calls(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = 0
        view = dev.view(m)
        events = [scaled(scale, view, 0.5, n % 3) for n in range(200)]
        assert events[-1].wait()
        assert all(event.done() for event in events)
        expected = 0.0
        for n in range(200):
            expected = float(np.float32(expected * 0.5 + n % 3))
        assert m.array[0] == np.float32(expected)


@GLSL
def test_ctrl_c_ends_a_wait(dev: Any):
    with Child() as child:
        child.run(
            "import vulkan; dev = psyne.device('vulkan'); slow = dev.kernel(vulkan.SLOW, push=4)\n"
            "out = psyne.sender('ipc://words', psyne.Array('u4', 1024)); m = out.loan(); view = dev.view(m)"
        )
        child.begin_waiting("event = slow(view, push=(1 << 31).to_bytes(4, 'little')); event.wait()")
        child.interrupt()
        with pytest.raises(KeyboardInterrupt):
            child.result()
        assert not child.run("event.wait(0.001)") or child.run("int(m.array[0])") == 7
        child.kill()


def test_many_threads_wait_for_one_event(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = 1
        view = dev.view(m)
        for _ in range(50):
            event = scaled(scale, view, 1, 1)
            seen: list[bool] = []
            threads = [threading.Thread(target=lambda: seen.append(event.wait())) for _ in range(3)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert seen == [True] * 3
        assert (m.array == 51).all()
