# type: ignore  # tests/test_typing.py checks a copy without this line
"""What type checkers must refuse. Each comment names the error of mypy, then that of pyright, on its line."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np

import psyne
from psyne import Array, Batch, Receiver, Sender, Struct, f32, u32, u64


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


class Tick(Struct):
    copy = u32()  # refused: assignment, reportAssignmentType


def a_receiver_cannot_send(imu: Receiver[Imu]) -> None:
    imu.send(Imu())  # refused: attr-defined, reportAttributeAccessIssue
    imu.loan()  # refused: attr-defined, reportAttributeAccessIssue


def a_sender_cannot_receive(out: Sender[Imu]) -> None:
    out.receive()  # refused: attr-defined, reportAttributeAccessIssue


def a_field_takes_no_other_type(m: Imu) -> None:
    m.stamp = "now"  # refused: assignment, reportAttributeAccessIssue
    m.stamp = 1.5  # refused: assignment, reportAttributeAccessIssue
    m.accel = object()  # refused: assignment, reportAttributeAccessIssue


def a_message_has_no_other_fields(m: Imu) -> None:
    print(m.velocity)  # refused: attr-defined, reportAttributeAccessIssue


def nothing_may_have_come(imu: Receiver[Imu]) -> None:
    print(imu.try_receive().stamp)  # refused: union-attr, reportOptionalMemberAccess


def a_message_type_is_a_class_of_messages() -> None:
    psyne.sender("ipc://x", int)  # refused: type-var, reportArgumentType|reportCallIssue
    psyne.sender("ipc://x", Imu())  # refused: call-overload, reportArgumentType|reportCallIssue
    psyne.sender("ipc://x", [Imu])  # refused: call-overload, reportArgumentType|reportCallIssue


def an_option_has_its_words() -> None:
    psyne.sender("ipc://x", Imu, pattern="many")  # refused: call-overload, reportArgumentType|reportCallIssue
    psyne.sender("ipc://x", Imu, full="wait")  # refused: call-overload, reportArgumentType|reportCallIssue
    psyne.receiver("ipc://x", Imu, wait="poll")  # refused: call-overload, reportArgumentType|reportCallIssue


def an_end_of_other_messages_is_another_type(frames: Receiver[Array[np.uint8]]) -> None:
    imu: Receiver[Imu] = frames  # refused: assignment, reportAssignmentType
    print(imu)


def a_batch_is_no_sequence_of_messages(batch: Batch[Imu]) -> None:
    messages: Sequence[Imu] = batch  # refused: assignment, reportAssignmentType
    print(batch[0.5], messages)  # refused: call-overload, reportArgumentType|reportCallIssue


async def a_wait_is_awaited(imu: psyne.aio.Receiver[Imu], out: psyne.aio.Sender[Imu]) -> None:
    imu.receive()  # refused: unused-coroutine, reportUnusedCoroutine
    print(imu.receive().stamp)  # refused: attr-defined, reportAttributeAccessIssue
    await imu.receive(timeout=1.0)  # refused: call-arg, reportCallIssue


def a_handler_takes_the_messages_of_its_receiver(imu: Receiver[Imu]) -> None:
    def handle(number: int) -> None: ...

    imu.listen(handle)  # refused: arg-type, reportArgumentType


def a_type_without_a_case_is_noticed(events: Receiver[Imu | Array[np.uint8]]) -> None:
    match events.receive():
        case Imu():
            pass
        case other:
            assert_never(other)  # refused: arg-type, reportArgumentType
