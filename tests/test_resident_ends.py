"""Ends of channels in memory of a GPU: killed, closed, lied to, opened wrongly. Against a stand-in for the driver."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
import psyne.aio
from psyne import Array, Stage, Struct, Text, f32
from psyne.devices import resident_memory

from .helpers import fakecuda
from .helpers.process import Child, until
from .helpers.resident import Peer, Plane, gpu

__all__ = ["gpu"]

OTHER = np.zeros((64, 64), "f4")


def test_a_sender_that_is_killed_between_loan_and_send_has_sent_nothing(gpu: Any) -> None:
    with Peer() as peer:
        peer.run("tx = psyne.sender('ipc://planes', Plane, device='cuda:0'); m = tx.loan(); m.wait(stream)")
        with psyne.receiver("ipc://planes", device="cuda:0") as rx:
            assert rx.try_receive() is None
            peer.kill()
            with pytest.raises(psyne.SenderLost):
                rx.receive(timeout=60)


def test_what_a_sender_has_sent_is_read_after_it_was_killed(gpu: Any) -> None:
    with Peer() as peer:
        peer.run("tx = psyne.sender('ipc://planes', Plane, device='cuda:0')")
        with psyne.receiver("ipc://planes", device="cuda:0") as rx:
            peer.run("[tx.send(np.full((64, 64), n, 'f4')) for n in range(3)]; gpu.event().wait()")
            first = rx.receive()
            peer.kill()
            assert [float(m.numpy()[0, 0]) for m in (first, rx.receive(), rx.receive())] == [0.0, 1.0, 2.0]
            with pytest.raises(psyne.SenderLost):
                rx.receive(timeout=60)


def test_a_fence_that_died_with_its_sender_holds_up_its_streams_alone(gpu: Any, tmp_path: Path) -> None:
    with Peer() as peer, Peer() as reader:
        peer.run("tx = psyne.sender('ipc://planes', Plane, device='cuda:0', capacity=1); m = tx.loan(); m.wait(stream)")
        reader.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
        peer.run("fakecuda.run_until(gpu, never, stream); tx.send(m, stream=stream)", never=tmp_path / "never")
        reader.run("m = rx.receive()")
        peer.kill()
        assert not reader.run("m.event.wait(timeout=0.05)")
        reader.run("m.wait(stream); m.release()")
        with pytest.raises(psyne.SenderLost):
            reader.run("rx.receive(timeout=60)")
        with psyne.sender("ipc://others", Plane, device="cuda:0") as tx:
            tx.send(OTHER)
            assert reader.run("m = psyne.receiver('ipc://others', device='cuda:0').receive(); m.event.wait(60)")
            assert reader.run("rx.close(); m.release()") is None
            tx.drain(timeout=60)


def test_the_messages_of_a_receiver_that_is_killed_go_to_the_next_one(gpu: Any, tmp_path: Path) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=2) as tx:
        with Peer() as peer:
            peer.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
            tx.send(np.ones((64, 64), "f4"))
            tx.send(np.ones((64, 64), "f4") * 2)
            peer.run("one = rx.receive(); two = rx.receive()")
            peer.run("fakecuda.run_until(gpu, never, stream); one.release(stream)", never=tmp_path / "never")
            peer.kill()
        with psyne.receiver("ipc://planes", device="cuda:0") as rx:
            for n in (1, 2):
                with rx.receive(timeout=60) as m:
                    assert (m.info.redelivered, float(m.numpy()[0, 0])) == (True, n)
        tx.drain(timeout=60)


def test_a_receiver_that_leaves_gives_nothing_back_that_a_stream_reads(gpu: Any, tmp_path: Path) -> None:
    stream = fakecuda.new_stream(gpu)
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx:
        rx = psyne.receiver("ipc://planes", device="cuda:0")
        tx.send(OTHER)
        m = rx.receive()
        m.wait(stream)
        fakecuda.run_until(gpu, tmp_path / "go", stream)
        assert rx.leave() == 0
        del m
        assert tx.try_loan() is None
        (tmp_path / "go").touch()
        tx.drain(timeout=60)


def test_memory_of_a_sender_that_closed_is_the_next_ones_when_all_was_read(gpu: Any) -> None:
    pointers = set()
    for _ in range(3):
        with (
            psyne.sender("ipc://planes", Plane, device="cuda:0") as tx,
            psyne.receiver("ipc://planes", device="cuda:0") as rx,
        ):
            with tx.loan() as m:
                pointers.add(m.pointer)
            rx.receive().release()
            tx.drain(timeout=60)
            until(tx._memory.idle, "the fence")
    assert len(pointers) == 1
    assert len(resident_memory._shared) == 1


def test_messages_are_read_after_their_sender_has_closed_and_nobody_else_has_their_memory(
    gpu: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with psyne.receiver("ipc://planes", device="cuda:0") as rx:
        for n in range(2):
            with psyne.sender("ipc://planes", Plane, device="cuda:0") as tx:
                assert rx.joined or rx.try_receive() is None
                tx.send(OTHER + n)
        assert "closed before its messages were read" in caplog.text
        assert len(resident_memory._shared) == 2
        assert [float(rx.receive().numpy()[0, 0]) for _ in range(2)] == [0.0, 1.0]
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()


HOSTILE = """
from psyne.ends import Sender
from psyne.devices.resident_memory import share
from psyne.types.resident import Record, resident_type
tx = Sender("ipc://planes", [resident_type(Plane, "cuda")])
memory = share(gpu, 2, 16384)
good = Record(gpu.uuid, memory.handle, memory.nbytes, 16384, list(memory.by_handle)[1])
def send(raw):
    with tx.loan() as m: m._write(raw)
"""


@pytest.mark.parametrize(
    ("raw", "error", "text"),
    [
        ("b'x' + good.packed()[1:]", psyne.PeerCorrupted, "has no record of a message"),
        ("bytes(168)", psyne.PeerCorrupted, "has no record of a message"),
        ("good._replace(uuid=b'another GPU').packed()", psyne.CannotShare, "in memory of another GPU"),
        ("good._replace(begin=2 << 20).packed()", psyne.PeerCorrupted, "leads out of memory of 2097152 bytes"),
        ("good._replace(begin=2**64 - 256).packed()", psyne.PeerCorrupted, "leads out of memory"),
        ("good._replace(begin=2 << 20, size=4 << 20).packed()", psyne.PeerCorrupted, "leads out of memory"),
        ("good._replace(begin=(2 << 20) - 256).packed()", psyne.PeerCorrupted, "leads out of memory"),
        ("good._replace(size=0).packed()", psyne.PeerCorrupted, "leads out of memory"),
        ("good._replace(begin=8).packed()", psyne.PeerCorrupted, "begin at a multiple of 256"),
        ("good._replace(memory=b'no handle').packed()", psyne.CannotShare, "does not open the memory of a message"),
        ("good._replace(memory=bytes(64)).packed()", psyne.CannotShare, "does not open the memory of a message"),
        ("good._replace(memory=b'f' * 64).packed()", psyne.CannotShare, "does not open the memory of a message"),
        ("good._replace(fence=b'no handle').packed()", psyne.CannotShare, "does not open the fence of a message"),
    ],
)
def test_a_record_that_lies_is_an_error_and_the_next_message_is_none(
    raw: str, error: type[Exception], text: str, gpu: Any
) -> None:
    with Peer() as peer, psyne.receiver("ipc://planes", Plane, device="cuda:0") as rx:
        peer.run(HOSTILE)
        peer.run(f"send({raw}); send(good.packed())")
        with pytest.raises(error, match=text) as raised:
            rx.receive()
        with rx.receive() as m:
            assert m.numpy().shape == (64, 64)
        del m
        peer.run("tx.drain(60)")  # whoever keeps the error keeps no slot
        assert raised.value.__traceback__ is not None
        peer.run(f"send({raw}); send(good.packed())")
        with pytest.raises(error, match=text):
            rx.try_receive()
        rx.receive().release()


def test_a_fence_that_is_none_of_its_sender_is_seen_in_its_own_process_too(gpu: Any) -> None:
    space: dict[str, Any] = {"gpu": gpu, "Plane": Plane}
    exec(HOSTILE, space)
    with space["tx"], psyne.receiver("ipc://planes", Plane, device="cuda:0") as rx:
        space["send"](space["good"]._replace(fence=b"another").packed())
        with pytest.raises(psyne.PeerCorrupted, match="none of its sender's"):
            rx.receive()


def test_a_process_with_another_gpu_of_that_name_is_told(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0") as tx:
        monkeypatch.setenv("FAKECUDA_GPU", "1")
        with Peer() as peer:
            peer.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
            tx.send(OTHER)
            with pytest.raises(psyne.CannotShare, match="in memory of another GPU"):
                peer.run("rx.receive()")


def test_ends_of_another_memory_are_told_what_to_open(gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0"), psyne.sender("ipc://host", Plane):
        for open_end in (psyne.sender, psyne.receiver, psyne.tap):
            for types in ((), (Plane,), (Text,)):
                with pytest.raises(psyne.LayoutMismatch, match=r'open senders and receivers with device="cuda:0"'):
                    open_end("ipc://planes", *types)
        for open_end in (psyne.sender, psyne.receiver):
            for types in ((), (Plane,)):
                with pytest.raises(psyne.LayoutMismatch, match=r"leave device= out, and view them on the device"):
                    open_end("ipc://host", *types, device="cuda:0")  # type: ignore[operator]
        with pytest.raises(psyne.LayoutMismatch, match=r"shape: theirs \[64, 64\], yours \[64\]"):
            psyne.receiver("ipc://planes", Array("f4", (64,)), device="cuda:0")
        with pytest.raises(psyne.LayoutMismatch, match="dtype: theirs <f4, yours <f8"):
            psyne.sender("ipc://planes", Array("f8", (64, 64)), device="cuda:0")
        assert psyne.inspect("ipc://planes").types == "Array(<f4, [64, 64], on cuda)"


class Point(Struct):
    x = f32()


@pytest.mark.parametrize(
    ("open_end", "types", "options", "text"),
    [
        (psyne.sender, (Point,), {}, r"carries arrays of one shape: .*, not Point"),
        (psyne.sender, (Text,), {}, r"carries arrays of one shape"),
        (psyne.sender, (Array("f4", ndim=2),), {}, r"carries arrays of one shape"),
        (psyne.sender, (Plane, Array("f8")), {}, r"carries one type; got 2"),
        (psyne.sender, (Plane,), {"full": "grow"}, r"full='grow' is for messages in memory of the CPU; .*capacity"),
        (psyne.sender, (Plane,), {"budget": 1 << 20}, r"budget=1048576 is for messages in memory of the CPU"),
        (psyne.sender, (Plane,), {"align": 256}, r"align=256 is for messages in memory of the CPU"),
        (
            psyne.sender,
            (Plane,),
            {"capacity": 0},
            r"capacity=0; with device= it is a number of messages from 1 to 4096",
        ),
        (psyne.sender, (Plane,), {"capacity": 4097}, r"capacity=4097; with device= it is a number of messages"),
        (psyne.sender, (Plane,), {"stages": [Stage("w", mutate=True)]}, r"in memory of a GPU stages read"),
        (psyne.sender, (Plane,), {"device": "cpu"}, r"device='cpu'; messages stay in memory of CUDA devices alone"),
        (psyne.sender, (Plane,), {"device": 0}, r"device=0; messages stay in memory of CUDA devices alone"),
        (psyne.receiver, (), {"subset": True}, r"subset=True is for messages in memory of the CPU"),
        (psyne.receiver, (), {"new_stage": True, "stage": Stage("w", mutate=True)}, r"stages read"),
    ],
)
def test_what_can_never_work_is_refused(
    open_end: Any, types: tuple[type, ...], options: dict[str, Any], text: str, gpu: Any
) -> None:
    with pytest.raises(psyne.InvalidArgument, match=text):
        open_end("ipc://planes", *types, **({"device": "cuda:0"} | options))


def test_a_network_carries_no_memory_of_a_gpu(gpu: Any) -> None:
    for open_end in (psyne.sender, psyne.receiver):
        with pytest.raises(psyne.InvalidArgument, match="device= is for channels of this host"):
            open_end("tcp://127.0.0.1:1", Plane, device="cuda:0")
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0"),
        psyne.serve("tcp://127.0.0.1:0") as gateway,
        psyne.receiver(f"{gateway.address}/planes", Plane) as rx,
        pytest.raises(psyne.LayoutMismatch, match="ends over a network cannot read them"),
    ):
        rx.receive(timeout=60)


def test_one_message_at_a_time(gpu: Any) -> None:
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0") as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        for call in (
            lambda: tx.loan_many(2), lambda: tx.send_many([OTHER]), lambda: tx.call(OTHER), lambda: rx.receive_many(2),
            lambda: rx.try_receive_many(2), lambda: rx.receive_into(OTHER), lambda: rx.batches(2),
        ):  # fmt: skip
            with pytest.raises(psyne.InvalidArgument, match="has one message at a time"):
                call()


def test_without_a_driver_or_memory_no_channel_is_made(gpu: Any, psyne_directory: Path) -> None:
    with Child() as child:
        child.run("import os; os.environ['PSYNE_LIBCUDA'] = '/nowhere/libcuda.so.1'")
        with pytest.raises(psyne.DeviceUnavailable, match="no NVIDIA driver here"):
            child.run("psyne.sender('ipc://planes', psyne.Array('f4', (4,)), device='cuda:0')")
    for n, text in ((1 << 26, "has no 17179869184 bytes for 64 messages of 268435456: cuMem"), (1 << 45, "for 64 mes")):
        with pytest.raises(psyne.NoSpace, match=text):
            psyne.sender("ipc://planes", Array("f4", (n,)), device="cuda:0", capacity=64)
    assert not psyne_directory.exists() or list(psyne_directory.iterdir()) == []


def test_a_driver_that_shares_nothing_leaves_nothing(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECUDA_DIR", "/nowhere")  # where no event for others can be made
    driver = gpu.context.driver
    call = driver.call
    directory = Path(fakecuda.library()).parent

    def elsewhere(name: str, *rest: Any) -> None:
        monkeypatch.setenv("FAKECUDA_DIR", str(directory) if "Mem" in name else "/nowhere")
        call(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(driver, "call", elsewhere)
        with pytest.raises(psyne.DeviceUnavailable, match="does not share 2097152 bytes and 8 events"):
            psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=8)
    assert fakecuda.left()[0] == 0


def test_a_forked_child_is_refused(gpu: Any) -> None:
    with Peer() as peer:
        peer.run(
            "tx = psyne.sender('ipc://planes', Plane, device='cuda:0')\n"
            "rx = psyne.receiver('ipc://planes', device='cuda:0')\n"
            "tx.send(np.zeros((64, 64), 'f4')); m = rx.receive(); loan = tx.loan()"
        )
        for call in (
            "tx.loan()", "rx.receive()", "rx.try_receive()", "m.pointer", "m.wait()", "m.numpy()", "tx.send(loan)",
            "m.__dlpack__(max_version=(1, 0))", "loan.__exit__(None, None, None)",
        ):  # fmt: skip
            assert isinstance(peer.run(f"forked(lambda: {call})"), psyne.ForkedError), call
        assert peer.run("float(m.numpy()[0, 0])") == 0.0
        assert peer.run("loan.discard(); m.release(); tx.drain(60)") is None


def test_a_closed_device_is_refused_and_what_was_received_before_is_given_back(gpu: Any) -> None:
    tx = psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1)
    rx = psyne.receiver("ipc://planes", device="cuda:0")
    tx.send(OTHER)
    m = rx.receive()
    gpu.close()
    for call in (tx.loan, rx.receive, m.wait, m.numpy):
        with pytest.raises(psyne.ChannelClosed, match="the device cuda:0 was closed"):
            call()
    del m, call
    tx.drain(timeout=60)
    tx.close()
    rx.close()


def test_event_loops_have_the_same_ends(gpu: Any) -> None:
    stream = fakecuda.new_stream(gpu)

    async def send(tx: psyne.aio.Sender[Any]) -> None:
        async with tx:
            for n in range(20):
                if n % 2:
                    await tx.send(OTHER + n, stream=stream)  # type: ignore[call-arg]
                    continue
                async with tx.loan() as m:
                    m.wait(stream)
                    fakecuda.add(gpu, m, 0, stream)
                m = await tx.loan()
                m.wait()
                assert await tx.send(m, stream=stream)  # type: ignore[call-arg]
            await tx.drain()
            for call in (tx.call(OTHER), tx.send_many([OTHER]), tx.send(OTHER, after=gpu.event())):
                with pytest.raises(psyne.InvalidArgument):
                    await call
            with pytest.raises(psyne.InvalidArgument):
                await tx.loan_many(2)

    async def receive(rx: psyne.aio.Receiver[Any]) -> list[float]:
        async with rx:
            return [float(m.numpy()[0, 0]) async for m in rx]

    async def both() -> list[float]:
        tx = psyne.aio.sender("ipc://planes", Plane, device="cuda:0", capacity=2)
        rx = psyne.aio.receiver("ipc://planes", device="cuda:0")
        return (await asyncio.gather(send(tx), receive(rx)))[1]

    got = asyncio.run(asyncio.wait_for(both(), 60))
    assert len(got) == 30
    assert got[2::3] == [float(n) for n in range(1, 20, 2)]


def test_event_loops_wait_for_streams_that_use_what_was_sent(gpu: Any, tmp_path: Path) -> None:
    stream = fakecuda.new_stream(gpu)

    async def run() -> None:
        rx = psyne.aio.receiver("ipc://planes", device="cuda:0")
        async with psyne.aio.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx, rx:
            async with tx.loan() as m:
                capsule = m.__dlpack__(stream=stream)
            (await rx.receive()).release()
            with pytest.raises(psyne.LeaseLimit):
                await tx.loan()
            fakecuda.run_until(gpu, tmp_path / "go", stream)
            del capsule
            next_one = asyncio.ensure_future(tx.loan())
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(next_one), 0.05)
            (tmp_path / "go").touch()
            (await asyncio.wait_for(next_one, 60)).discard()

    asyncio.run(run())


def test_select_and_listeners_take_them(gpu: Any) -> None:
    seen = []
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=2) as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        assert psyne.select(rx, timeout=0) == []
        tx.send(OTHER)
        assert psyne.select(rx, timeout=60) == [rx]
        rx.receive().release()
        with rx.listen(lambda m: seen.append(float(m.numpy()[0, 0]))) as listener:
            for n in range(10):
                tx.send(OTHER + n)
            tx.drain(timeout=60)
            until(lambda: len(seen) == 10 or listener.error, "all messages")
        assert seen == [float(n) for n in range(10)]
        assert (tx.statistics().sent, rx.statistics().received) == (11, 11)
