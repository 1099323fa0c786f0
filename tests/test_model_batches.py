"""Batches to a model: k messages of one field as one tensor over the slots."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, interop, u8, u64

CAPACITY = 8


class Columns(Struct, layout="columns"):
    image = u8(3, 64, 64)
    answer = f32(4)
    number = u64()


class Rows(Struct):
    image = u8(3, 64, 64)
    answer = f32(4)
    number = u64()


Planes = Array("u1", (3, 64, 64))
Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any], psyne.Receiver[Any]]


@pytest.fixture(params=[Columns, Rows, Planes], ids=["columns", "rows", "array"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """A sender, a stage that infers in place, and one that reads."""
    stages = [Stage("infer", mutate=True), "read"]
    with (
        psyne.sender("ipc://frames", request.param, stages=stages, capacity=CAPACITY) as tx,
        psyne.receiver("ipc://frames", request.param, stage="infer") as infer,
        psyne.receiver("ipc://frames", request.param, stage="read") as read,
    ):
        yield tx, infer, read


def images(it: Any) -> np.ndarray:
    """The images of a batch, or that of a message."""
    if isinstance(it, Planes) or (isinstance(it, psyne.Batch) and isinstance(it[0], Planes)):
        return it.array
    return it["image"] if isinstance(it, psyne.Batch) else it.image


def send(tx: psyne.Sender[Any], n: int) -> None:
    for i in range(n):
        with tx.loan(timeout=0) as m:
            images(m)[:] = i + 1


def test_a_batch_is_one_tensor_over_its_slots(ends: Ends):
    pytest.importorskip("torch")
    tx, infer, _ = ends
    send(tx, 5)
    with infer.receive_many(CAPACITY, timeout=0) as batch:
        tensor = interop.torch(images(batch))
        assert tuple(tensor.shape) == (5, 3, 64, 64)
        for i in range(5):
            assert tensor[i].data_ptr() == images(batch[i]).ctypes.data
            assert tensor[i].is_contiguous()
        # Rows have other fields between the images: only a column, or an Array, is one contiguous block.
        assert tensor.is_contiguous() == (not isinstance(batch[0], Rows))
        assert tensor.flatten(1).float().mean(1).tolist() == [1, 2, 3, 4, 5]
        del tensor


def test_what_a_model_writes_the_next_stage_reads(ends: Ends):
    pytest.importorskip("torch")
    tx, infer, read = ends
    send(tx, 3)
    with infer.receive_many(CAPACITY, timeout=0) as batch:
        tensor = interop.torch(images(batch))
        tensor += 10
        if not isinstance(batch[0], Planes):
            interop.torch(batch["answer"])[:] = tensor.float().mean((1, 2, 3))[:, None]
        del tensor
    with read.receive_many(CAPACITY, timeout=0) as batch:
        assert images(batch)[:, 0, 0, 0].tolist() == [11, 12, 13]
        if not isinstance(batch[0], Planes):
            assert batch["answer"][:, 3].tolist() == [11, 12, 13]


def test_a_tensor_keeps_all_slots_of_its_batch(ends: Ends):
    pytest.importorskip("torch")
    tx, infer, _ = ends
    send(tx, 4)
    with infer.receive_many(CAPACITY, timeout=0) as batch:
        tensor = interop.torch(images(batch))
    assert infer.statistics().held == 4
    assert int(tensor[3, 0, 0, 0]) == 4
    del tensor
    assert infer.statistics().held == 0


def test_a_stage_that_only_reads_gets_no_tensor_that_could_write(ends: Ends):
    pytest.importorskip("torch")
    tx, infer, read = ends
    send(tx, 2)
    infer.receive_many(2, timeout=0).release()
    with read.receive_many(2, timeout=0) as batch:
        with pytest.raises(psyne.ReadOnly, match="private=True"):
            interop.torch(images(batch))
        own = interop.torch(images(batch), private=True)
        own += 100
        assert images(batch)[:, 0, 0, 0].tolist() == [1, 2]
        assert own[:, 0, 0, 0].tolist() == [101, 102]


def test_jax_takes_the_images_of_a_stage_that_only_reads(ends: Ends):
    pytest.importorskip("jax")
    tx, infer, read = ends
    send(tx, 2)
    infer.receive_many(2, timeout=0).release()
    with read.receive_many(2, timeout=0) as batch:
        if isinstance(batch[0], Rows):
            with pytest.raises(psyne.CannotShare):  # JAX has no gaps
                interop.jax(images(batch))
            return
        array = interop.jax(images(batch))
        assert array.shape == (2, 3, 64, 64)
        assert array.unsafe_buffer_pointer() == images(batch).ctypes.data
        assert array[:, 0, 0, 0].tolist() == [1, 2]
        del array


def test_a_batch_never_goes_over_the_end_of_the_ring(ends: Ends):
    tx, infer, read = ends
    send(tx, 6)
    infer.receive_many(6, timeout=0).release()
    read.receive_many(6, timeout=0).release()
    send(tx, 6)  # slots 6 and 7, then 0 to 3
    sizes, addresses = [], []
    for _ in range(2):
        with infer.receive_many(CAPACITY, timeout=0) as batch:
            sizes.append(len(batch))
            addresses.append(images(batch).ctypes.data)
    assert sizes == [2, 4]
    assert addresses[1] < addresses[0]
