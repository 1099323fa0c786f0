"""What type checkers must infer. Nothing here runs: mypy and pyright read it."""

import socket
from collections.abc import Iterator
from typing import Any, assert_never, assert_type

import jax  # pyright: ignore[reportMissingImports]
import numpy as np
import pyarrow  # pyright: ignore[reportMissingImports]
import torch  # pyright: ignore[reportMissingImports]
import warp as wp  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

import psyne
from psyne import (
    Array,
    ArrowBatch,
    Batch,
    Bytes,
    Info,
    Listener,
    Matrix,
    Receiver,
    Sender,
    Stage,
    Struct,
    Tap,
    Text,
    VariantHdr,
    aio,
    bool_,
    c64,
    f32,
    f64,
    u8,
    u64,
)
from psyne.aio.resident import ResidentSender as AsynchronousResidentSender
from psyne.devices import Device
from psyne.devices.cpu import Cpu
from psyne.devices.cuda import Cuda
from psyne.devices.resident import ResidentSender
from psyne.devices.resident_message import ResidentMessage
from psyne.devices.vulkan import Vulkan
from psyne.testing import assert_same_bytes, touch_test


class Imu(Struct):
    stamp = u64()
    accel = f32(3)
    gyro = f32(3)


class Sample(Struct):
    gain = f64()
    phase = c64()
    valid = bool_()
    pixels = u8(480, 640)
    length_ = u64(name="length")


class Pixels(Array[np.uint8], dtype="u1", shape=(480, 640)): ...


def fields_have_the_types_of_their_values(m: Imu, s: Sample) -> None:
    assert_type(m.stamp, int)
    assert_type(m.accel, NDArray[np.float32])
    assert_type(s.gain, float)
    assert_type(s.phase, complex)
    assert_type(s.valid, bool)
    assert_type(s.pixels, NDArray[np.uint8])
    assert_type(s.length_, int)
    assert_type(m.array, NDArray[np.void])


def fields_take_what_can_be_stored(m: Imu, s: Sample) -> None:
    m.stamp = 1
    m.stamp = np.uint64(2)
    m.accel = np.zeros(3, np.float32)
    m.accel = (0.0, 0.0, 9.8)
    m.accel = 0.0
    s.gain = 1
    s.gain = np.float32(0.5)
    s.phase = 1j
    s.valid = True
    assert_type(m.stamp, int)
    assert_type(m.accel, NDArray[np.float32])


def a_sender_knows_its_messages() -> None:
    out = psyne.sender("ipc://imu", Imu)
    assert_type(out, Sender[Imu])
    assert_type(out.loan(), Imu)
    assert_type(out.loan(timeout=1.0), Imu)
    assert_type(out.try_loan(), Imu | None)
    assert_type(out.loan_many(8), Batch[Imu])
    assert_type(out.send(Imu(stamp=1)), bool)
    assert_type(out.capacity, int)
    assert_type(out.address, str)
    with out.loan() as m:
        assert_type(m, Imu)
    with out.loan_many(8, timeout=0.5) as batch:
        assert_type(batch, Batch[Imu])
        batch["stamp"] = range(8)
        batch.truncate(4)
    with psyne.sender("ipc://imu", Imu, pattern="spsc", capacity=16, full="drop", wait="spin") as again:
        assert_type(again, Sender[Imu])
    assert_type(psyne.sender("ipc://imu", Imu, stages=[Stage("rectify", mutate=True), "draw"]), Sender[Imu])


def a_receiver_knows_its_messages() -> None:
    imu = psyne.receiver("ipc://imu", Imu)
    assert_type(imu, Receiver[Imu])
    assert_type(imu.receive(), Imu)
    assert_type(imu.receive(timeout=1.0), Imu)
    assert_type(imu.try_receive(), Imu | None)
    assert_type(imu.receive_many(32, linger=0.002), Batch[Imu])
    assert_type(imu.try_receive_many(32), Batch[Imu] | None)
    assert_type(imu.batches(1024), Iterator[Batch[Imu]])
    for m in imu:
        assert_type(m, Imu)
        assert_type(m.copy(), Imu)
    for batch in imu.batches(1024):
        assert_type(batch, Batch[Imu])
    with imu.receive() as m:
        assert_type(m, Imu)
        assert_type(m.info, Info)
        assert_type(m.info.sequence, int)
        assert_type(m.info.redelivered, bool)
    with psyne.receiver("ipc://imu", Imu, stage="draw", follow=True) as again:
        assert_type(again, Receiver[Imu])


def a_batch_is_arrays(batch: Batch[Imu]) -> None:
    assert_type(len(batch), int)
    assert_type(batch.array, NDArray[Any])
    assert_type(batch["accel"], NDArray[Any])
    assert_type(batch.copy(), NDArray[Any])
    assert_type(batch.info.missed, int)


def an_end_without_a_type_is_of_any_type() -> None:
    assert_type(psyne.receiver("ipc://imu"), Receiver[Any])
    assert_type(psyne.sender("ipc://imu"), Sender[Any])


def an_end_with_a_device_has_messages_there() -> None:
    out = psyne.sender("ipc://tensors", Array("f4", (1024, 1024)), device="cuda:0", capacity=4)
    assert_type(out, ResidentSender)
    assert_type(out.loan(timeout=1.0), ResidentMessage)
    assert_type(psyne.receiver("ipc://tensors", device="cuda:0").receive(), ResidentMessage)
    assert_type(list(psyne.receiver("ipc://tensors", Pixels, device="cuda:0")), list[ResidentMessage])
    assert_type(psyne.receiver("ipc://tensors", device=None), Receiver[Any])
    assert_type(psyne.aio.sender("ipc://tensors", Pixels, device="cuda:0"), AsynchronousResidentSender)
    assert_type(psyne.aio.receiver("ipc://tensors", device="cuda:0"), psyne.aio.Receiver[Any])


def an_array_type_is_made_by_a_call() -> None:
    assert_type(psyne.sender("ipc://camera", Array("u1", (1080, 1920, 3))), Sender[Array[np.uint8]])
    assert_type(psyne.receiver("ipc://camera", Array("uint8", (1080, 1920, 3))), Receiver[Array[np.uint8]])
    assert_type(psyne.receiver("ipc://depth", Array(np.float32, (480, 640))), Receiver[Array[np.float32]])
    assert_type(psyne.receiver("ipc://depth", Array(np.dtype(np.float32), 640)), Receiver[Array[np.float32]])
    assert_type(psyne.receiver("ipc://level", Array("f8")), Receiver[Array[np.float64]])
    assert_type(psyne.receiver("ipc://camera", Array("u1", (1080, 1920, 3))).receive().array, NDArray[np.uint8])
    assert_type(Array("f4", 3)([1.0, 2.0, 3.0]).array, NDArray[np.float32])


def an_array_type_may_have_a_name() -> None:
    assert_type(psyne.sender("ipc://camera", Pixels), Sender[Pixels])
    assert_type(psyne.receiver("ipc://camera", Pixels).receive().array, NDArray[np.uint8])
    assert_type(Pixels(np.zeros((480, 640), np.uint8)), Pixels)


def every_dtype_has_its_array_type() -> None:
    assert_type(Array("u2", 1)().array, NDArray[np.uint16])
    assert_type(Array("u4", 1)().array, NDArray[np.uint32])
    assert_type(Array("u8", 1)().array, NDArray[np.uint64])
    assert_type(Array("i1", 1)().array, NDArray[np.int8])
    assert_type(Array("i2", 1)().array, NDArray[np.int16])
    assert_type(Array("i4", 1)().array, NDArray[np.int32])
    assert_type(Array("i8", 1)().array, NDArray[np.int64])
    assert_type(Array("f2", 1)().array, NDArray[np.float16])
    assert_type(Array("f4", 1)().array, NDArray[np.float32])
    assert_type(Array("c8", 1)().array, NDArray[np.complex64])
    assert_type(Array("c16", 1)().array, NDArray[np.complex128])
    assert_type(Array("?", 1)().array, NDArray[np.bool_])


def a_single_number_is_one_of_python() -> None:
    assert_type(Array("f8")(1.5).item(), float)
    assert_type(Array("f2")(1.5).item(), float)
    assert_type(Array("u1")(1).item(), int)
    assert_type(Array("i8")(1).item(), int)
    assert_type(Array("c8")(1j).item(), complex)
    assert_type(Array("?")(True).item(), bool)
    assert_type(Matrix(1, 1)([[1.0]]).item(), float)


def matrices_bytes_and_text_have_their_types() -> None:
    assert_type(psyne.sender("ipc://m", Matrix(3, 4, "f4", order="F")), Sender[Matrix[np.float32]])
    assert_type(Matrix(3, 4)().array, NDArray[np.float64])
    assert_type(psyne.receiver("ipc://t", Text(max_bytes=100)), Receiver[Text])
    assert_type(Text("a").text, str)
    assert_type(Bytes(b"a").bytes, bytes)
    assert_type(Bytes(b"a").array, NDArray[np.uint8])
    assert_type(Array("f4", ndim=2, max_bytes=1 << 20)().array, NDArray[np.float32])


def a_channel_of_several_types_is_one_of_their_union(m: Imu | Sample | Text) -> None:
    out = psyne.sender("ipc://events", Imu, Sample, Text)
    assert_type(out, Sender[Imu | Sample | Text])
    assert_type(out.loan(Imu), Imu)
    assert_type(out.loan(Text, size=10), Text)
    assert_type(out.loan(Array, shape=(2, 3)), Array[Any])
    assert_type(out.loan_many(8, Imu), Batch[Imu])
    match psyne.receiver("ipc://events", Imu, Sample, Text).receive():
        case Imu() as imu:
            assert_type(imu.stamp, int)
        case Sample() as sample:
            assert_type(sample.gain, float)
        case Text() as note:
            assert_type(note.text, str)
        case other:
            assert_never(other)


def message_stands_for_all_other_types() -> None:
    match psyne.receiver("ipc://events", Imu, psyne.Message).receive():
        case Imu() as imu:
            assert_type(imu.accel, NDArray[np.float32])
        case other:
            assert_type(other, psyne.Message)


def types_that_bring_their_size_are_made_by_a_call_too() -> None:
    assert_type(psyne.sender("ipc://m", Matrix(3, 4)), Sender[Matrix[np.float64]])
    assert_type(psyne.receiver("ipc://m", Matrix(3, 4, "f4", order="F")).receive().array, NDArray[np.float32])
    assert_type(psyne.sender("ipc://a", Array("f4", ndim=2, max_bytes=1 << 20)).loan(shape=(3, 4)), Array[np.float32])
    assert_type(psyne.receiver("ipc://t", Text(max_bytes=100)).receive().text, str)
    assert_type(psyne.receiver("ipc://b", Bytes).receive().bytes, bytes)
    assert_type(psyne.receiver("ipc://w", ArrowBatch(pyarrow.schema([]))).receive().batch, pyarrow.RecordBatch)
    assert_type(VariantHdr.of_word(7).ndim, int)


def a_receiver_copies_into_an_array(imu: Receiver[Imu], out: NDArray[np.void]) -> None:
    assert_type(imu.receive_into(out, linger=0.001), int)
    assert_type(imu.receive_into(out, timeout=1.0), int)


def messages_go_to_other_libraries(m: Imu, batch: Batch[Imu], pixels: Pixels) -> None:
    assert_type(m.private(), Imu)
    assert_type(Imu.from_buffer(bytearray(64)), Imu)
    assert_type(Imu.from_buffer(b"", 8).accel, NDArray[np.float32])
    assert_type(batch.private(), NDArray[Any])
    assert_type(np.asarray(pixels), NDArray[np.uint8])
    assert_type(psyne.interop.torch(pixels), torch.Tensor)
    assert_type(psyne.interop.torch(m.accel, private=True), torch.Tensor)
    assert_type(psyne.interop.jax(batch), jax.Array)
    assert_type(psyne.interop.arrow(pixels), pyarrow.Array | pyarrow.Tensor | pyarrow.RecordBatch)
    assert_type(psyne.interop.lapack(m.accel), NDArray[Any])
    assert_type(psyne.interop.warp(m.accel, wp.vec3), wp.array[Any])
    assert_type(psyne.interop.numba(m), Any)


def devices_are_those_of_their_kind(m: Imu) -> None:
    assert_type(psyne.device("cuda:0"), Cuda)
    assert_type(psyne.device("cpu"), Cpu)
    assert_type(psyne.device("vulkan"), Vulkan)
    assert_type(psyne.device(f"cpu:{m.stamp}"), Device)
    psyne.interop.torch(psyne.device("cuda:0").view(m))


def proofs_take_what_adapters_make() -> None:
    touch_test(psyne.interop.torch)
    touch_test(psyne.interop.jax, read=lambda x: float(x[0]))
    assert_same_bytes(Imu(), Imu().array)


def select_gives_what_it_was_given(
    imu: Receiver[Imu], pixels: Receiver[Pixels], out: Sender[Imu], connection: socket.socket
) -> None:
    assert_type(psyne.select(imu, imu, timeout=1.0), list[Receiver[Imu]])
    assert_type(psyne.select(out), list[Sender[Imu]])
    assert_type(psyne.select(connection), list[socket.socket])
    assert_type(psyne.select(1, 2), list[int])
    for end in psyne.select(imu, pixels):
        m: psyne.Message = end.receive()
        if isinstance(m, Imu):
            assert_type(m.stamp, int)


def a_listener_takes_functions_of_its_messages(imu: Receiver[Imu]) -> None:
    def handle(m: Imu) -> None: ...

    assert_type(imu.listen(handle), Listener)
    with imu.listen({Imu: handle, psyne.Message: print}, on_error="log") as listener:
        assert_type(listener.error, BaseException | None)
        assert_type(listener.join(1.0), bool)


async def the_ends_for_event_loops_have_the_same_types() -> None:
    async with (
        psyne.aio.sender("ipc://imu", Imu, capacity=8) as out,
        psyne.aio.receiver("ipc://imu", Imu, follow=True) as imu,
    ):
        assert_type(out, aio.Sender[Imu])
        assert_type(imu, aio.Receiver[Imu])
        async with out.loan() as m:
            assert_type(m, Imu)
        assert_type(await out.loan(), Imu)
        assert_type(out.try_loan(), Imu | None)
        async with out.loan_many(3) as lent:
            assert_type(lent, Batch[Imu])
        assert_type(await out.send(Imu(stamp=1)), bool)
        assert_type(await imu.receive(), Imu)
        assert_type(imu.try_receive(), Imu | None)
        assert_type(await imu.receive_many(3, linger=0.1), Batch[Imu])
        async for m in imu:
            assert_type(m, Imu)
        async for batch in imu.batches(8):
            assert_type(batch, Batch[Imu])
        assert_type(await aio.select(imu), list[aio.Receiver[Imu]])
        assert_type(await aio.select(out), list[aio.Sender[Imu]])
    async with psyne.aio.tap("ipc://imu", Imu, latest=True) as looks:
        assert_type(await looks.receive(), Imu)
        assert_type(looks.try_receive_many(3), Batch[Imu] | None)
        async for m in looks:
            assert_type(m, Imu)
        assert_type(await aio.select(looks), list[aio.Tap[Imu]])
    assert_type(aio.Tap(psyne.tap("ipc://imu", Imu)), aio.Tap[Imu])
    assert_type(aio.receiver("ipc://both", Imu, Pixels), aio.Receiver[Imu | Pixels])
    assert_type(aio.receiver("ipc://imu"), aio.Receiver[Any])
    assert_type(aio.Receiver(psyne.receiver("ipc://imu", Imu)), aio.Receiver[Imu])
    assert_type(aio.channel(Imu), tuple[aio.Sender[Imu], aio.Receiver[Imu]])
    assert_type(aio.channel(Imu, Sample, stages=["a", "b"])[1].clone("a"), aio.Receiver[Imu | Sample])


def an_alignment_knows_its_sets(imu: Receiver[Imu], other: Receiver[Sample], late: aio.Receiver[Imu]) -> None:
    pairs = psyne.align(imu, other, by="stamp", tolerance=5)
    assert_type(pairs, psyne.Aligned[tuple[Imu, Sample]])
    for a, b in pairs:
        assert_type(a, Imu)
        assert_type(b, Sample)
    assert_type(pairs.try_receive(), tuple[Imu, Sample] | None)
    three = psyne.align(imu, other, imu, by=("stamp", "time", lambda m: m.stamp))
    assert_type(three.receive(timeout=1.0), tuple[Imu, Sample, Imu])
    between = psyne.align(imu, other, by="stamp", between=True, hold=8)
    assert_type(between, psyne.Aligned[tuple[Imu, Batch[Sample]]])
    assert_type(aio.align(late, late, by="stamp"), aio.Aligned[tuple[Imu, Imu]])


def an_anonymous_channel_knows_its_messages() -> None:
    tx, rx = psyne.channel(Imu)
    assert_type(tx, Sender[Imu])
    assert_type(rx, Receiver[Imu])
    assert_type(tx.clone(), Sender[Imu])
    assert_type(rx.clone(stage="main"), Receiver[Imu])
    assert_type(rx.receive(), Imu)
    assert_type(tx.joined, bool)
    assert_type(psyne.channel(Imu, Sample, pattern="spsc"), tuple[Sender[Imu | Sample], Receiver[Imu | Sample]])
    assert_type(psyne.channel(Array("f4", 3), capacity=8, follow=True)[1], Receiver[Array[np.float32]])


def a_queue_knows_its_items() -> None:
    q: psyne.Queue[NDArray[np.float32]] = psyne.Queue(8, max_bytes=1 << 16)
    q.put(np.zeros(3, np.float32), timeout=1.0)
    assert_type(q.get(), NDArray[np.float32])
    assert_type(q.get_nowait(), NDArray[np.float32])
    assert_type(q.get(copy=False), NDArray[np.float32])
    assert_type(q.qsize(), int)


def taps_give_what_receivers_give() -> None:
    with psyne.tap("ipc://imu", Imu, history=3, latest=True, follow=True, wait="block") as tap:
        assert_type(tap, Tap[Imu])
        assert_type(tap.receive(timeout=1.0), Imu)
        assert_type(tap.try_receive(), Imu | None)
        assert_type(tap.receive_many(8, linger=0.1), Batch[Imu])
        assert_type(list(tap), list[Imu])
        assert_type(tap.batches(4), Iterator[Batch[Imu]])
        assert_type(tap.listen(print), Listener)
        assert_type(psyne.select(tap), list[Tap[Imu]])
    assert_type(psyne.tap("ipc://both", Imu, Sample), Tap[Imu | Sample])
    assert_type(psyne.tap("ipc://imu"), Tap[Any])
