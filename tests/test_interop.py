"""torch, JAX, Warp, numba and Arrow over the same memory: no copies, kept slots, no write into read-only pages."""

import gc
import importlib.util
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, bool_, f32, interop, u8, u64
from psyne.testing import assert_same_bytes, touch_test

from .helpers.process import Child, run_program, until

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]
Plane = Array("f4", (128, 128))  # 64 KiB


def needs(*names: str) -> pytest.MarkDecorator:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


TORCH, JAX, ARROW, WARP = needs("torch"), needs("jax"), needs("pyarrow"), needs("warp")
LIBRARIES = [
    pytest.param(interop.torch, marks=TORCH, id="torch"),
    pytest.param(interop.jax, marks=JAX, id="jax"),
    pytest.param(interop.arrow, marks=ARROW, id="arrow"),
    pytest.param(interop.lapack, id="lapack"),
    pytest.param(interop.warp, marks=WARP, id="warp"),
    pytest.param(interop.numba, id="numba"),
]
READERS = LIBRARIES[1:3]


class Frame(Struct):
    stamp = u64()
    small = f32(3)
    image = u8(2, 4096)
    flag = bool_()


class Columns(Struct, layout="columns"):
    stamp = u64()
    image = u8(4, 8)


class Stamp(Struct):
    stamp = u64()


class Pose(Struct):
    position = f32(2, 3)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://planes", Plane, capacity=1) as tx, psyne.receiver("ipc://planes", Plane) as rx:
        yield tx, rx


@pytest.fixture
def mutating() -> Iterator[Ends]:
    stages = [Stage("change", mutate=True)]
    with (
        psyne.sender("ipc://planes", Plane, capacity=1, stages=stages) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        yield tx, rx


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    gc.collect()
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


def plane(value: float = 0) -> Any:
    return np.full((128, 128), value, "f4")


# ---- without a copy ------------------------------------------------------------------------------------------------


@TORCH
def test_torch_does_not_copy():
    import torch

    touch_test(interop.torch)
    touch_test(torch.from_dlpack)
    touch_test(torch.asarray)
    touch_test(lambda m: interop.torch(m.array))
    touch_test(interop.torch, read=lambda t: t[0].item())
    for copying in (torch.tensor, lambda m: torch.from_dlpack(m).clone(), lambda m: interop.torch(m, private=True)):
        with pytest.raises(AssertionError, match="copied"):
            touch_test(copying, nbytes=1 << 20)


@JAX
def test_jax_does_not_copy():
    import jax
    import jax.numpy as jnp

    touch_test(interop.jax, read=lambda x: float(x[0]))
    touch_test(lambda m: jax.dlpack.from_dlpack(m, copy=False), read=lambda x: float(x[0]))
    touch_test(lambda m: interop.jax(type(m).from_buffer(memoryview(m).toreadonly())), read=lambda x: float(x[0]))
    touch_test(lambda m: interop.jax(m, private=True), read=lambda x: float(x[0]))  # follows what it has not written
    with pytest.raises(AssertionError, match="copied"):
        touch_test(jnp.asarray, read=lambda x: float(x[0]), nbytes=1 << 20)


@ARROW
def test_arrow_does_not_copy():
    import pyarrow

    touch_test(interop.arrow, read=lambda a: a[0].as_py())
    touch_test(lambda m: interop.arrow(m.array.reshape(-1, 64)), read=lambda t: t.to_numpy()[0, 0])
    touch_test(lambda m: interop.arrow(m.array.view([("x", "f4")])), read=lambda b: b["x"][0].as_py())
    with pytest.raises(AssertionError, match="copied"):
        touch_test(lambda m: pyarrow.array(m.array.tolist()), read=lambda a: a[0].as_py(), nbytes=1 << 16)


def test_lapack_gets_the_array_itself():
    touch_test(interop.lapack)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_writable_message_is_the_same_bytes_in_every_library(library: Callable[..., Any], mutating: Ends):
    tx, rx = mutating
    with tx.loan() as m:
        view = m.array.T if library is interop.lapack else m
        assert_same_bytes(library(view), m)
        m.array[:] = 5
    del m, view
    with rx.receive() as m:
        made = library(m.array.T if library is interop.lapack else m)
        assert_same_bytes(made, m)
    del made, m
    assert slot_is_free(tx)


@pytest.mark.parametrize("library", READERS)
def test_a_received_message_is_the_same_bytes_for_libraries_that_only_read(library: Callable[..., Any], ends: Ends):
    tx, rx = ends
    tx.send(plane(5))
    with rx.receive() as m:
        made = library(m)
        assert_same_bytes(made, m)
        assert np.asarray(made).sum() == 5 * 128 * 128
        with pytest.raises((ValueError, TypeError, AttributeError), match=r"read-only|immutable|assignment|setitem"):
            np.asarray(made)[0] = 1


# ---- leases --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", READERS)
def test_what_a_library_made_of_a_received_message_keeps_the_slot(library: Callable[..., Any], ends: Ends):
    tx, rx = ends
    for n in range(3):
        tx.send(plane(n))
        with rx.receive() as m:
            made = library(m)
        del m
        assert not slot_is_free(tx)
        assert (np.asarray(made) == n).all()
        del made
        until(lambda: slot_is_free(tx), "the slot is free")


@TORCH
def test_a_tensor_and_its_slices_keep_the_slot(mutating: Ends):
    tx, rx = mutating
    tx.send(plane(3))
    with rx.receive() as m:
        tensor = interop.torch(m)
        tensor.mul_(2)
        row = tensor[4]
    del tensor, m
    assert not slot_is_free(tx)
    assert row.sum() == 6 * 128
    del row
    assert slot_is_free(tx)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_private_view_is_writable_shares_nothing_and_keeps_the_slot(library: Callable[..., Any], ends: Ends):
    tx, rx = ends
    tx.send(plane(3))
    with rx.receive() as m:
        made = library(m.array.T if library is interop.lapack else m, private=True)
        with pytest.raises(AssertionError, match="not the same memory"):
            assert_same_bytes(made, m)
        if library in (interop.torch, interop.lapack):
            made[0] = 9
            assert made.sum() != m.array.sum()
        assert (m.array == 3).all()
    del m
    assert not slot_is_free(tx)
    del made
    until(lambda: slot_is_free(tx), "the slot is free")


@TORCH
def test_a_sent_message_is_not_overwritten_while_a_tensor_of_it_lives(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        tensor = interop.torch(m)
        tensor.fill_(4)
    del m
    with rx.receive() as m:
        assert (m.array == 4).all()
    del m
    assert not slot_is_free(tx)
    del tensor
    assert slot_is_free(tx)


@pytest.mark.parametrize("library", LIBRARIES)
def test_batches_fields_and_slices_go_the_same_way(library: Callable[..., Any]):
    with psyne.sender("ipc://batch", Array("f4", 16), capacity=8) as tx:
        with tx.loan_many(4) as batch:
            batch.array[:] = 1
            whole = batch.array.T if library is interop.lapack else batch
            assert_same_bytes(library(whole), batch)
            assert_same_bytes(library(batch.array[2]), batch.array[2])
        del whole
    with psyne.sender("ipc://frames", Frame, capacity=8, align=64) as tx, tx.loan() as m:
        if library not in (interop.jax, interop.lapack):
            assert_same_bytes(library(m.image), m.image)
            assert_same_bytes(library(m.small), m.small)


# ---- read-only -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [LIBRARIES[0], *LIBRARIES[3:5]])
def test_libraries_that_write_are_not_given_a_read_only_message(library: Callable[..., Any], ends: Ends):
    tx, rx = ends
    tx.send(plane())
    with rx.receive() as m:
        for view in (m, m.array, m.array[3]):
            with pytest.raises(psyne.ReadOnly, match=r"kill the process.*private=True.*m\.copy\(\)"):
                library(view)
        with pytest.raises(psyne.ReadOnly):
            library(Plane.from_buffer(bytes(4 * 128 * 128)))
        library(m.copy().array.T)


@TORCH
def test_dlpack_itself_tells_torch_that_it_is_read_only_and_torch_writes_all_the_same():
    """Why interop.torch refuses: the flag alone does not save the process."""
    with psyne.sender("ipc://planes", Plane, capacity=1) as tx, Child() as child:
        tx.send(plane())
        child.run("import torch; rx = psyne.receiver('ipc://planes'); m = rx.receive()")
        child.begin("torch.from_dlpack(m)[0] = 1")
        assert child.process.wait() == -signal.SIGSEGV


# ---- what would be copied ------------------------------------------------------------------------------------------


@JAX
def test_jax_is_told_of_a_misaligned_address_with_numbers():
    m = Frame(image=7)
    address = m.image.ctypes.data
    assert address % 64
    with pytest.raises(psyne.CannotShare, match=rf"{address:#x} \(rest {address % 64}\).*align=64.*private=True"):
        interop.jax(m.image)
    own = interop.jax(m.image, private=True)
    assert own.unsafe_buffer_pointer() % 64 == 0
    assert (np.asarray(own) == 7).all()
    with psyne.sender("ipc://small", Array("f4", 3), capacity=4, align=64) as tx:
        for _ in range(3):
            with tx.loan() as loan:
                assert_same_bytes(interop.jax(loan), loan)


@JAX
@pytest.mark.parametrize("dtype", ["f8", "i8", "u8", "c16"])
def test_jax_is_not_given_numbers_that_it_would_shorten(dtype: str):
    import jax

    m = Array(dtype, 16)()
    with pytest.raises(psyne.CannotShare, match="jax_enable_x64"):
        interop.jax(m)
    with jax.enable_x64(True):
        assert_same_bytes(interop.jax(m), m)


@JAX
def test_jax_takes_axes_in_another_order_but_no_gaps():
    array = Plane().array
    made = interop.jax(array.T)
    assert made.shape == (128, 128)
    assert made.unsafe_buffer_pointer() == array.ctypes.data
    for view in (array[::2], array[:, :32]):
        with pytest.raises(psyne.CannotShare, match="strides"):
            interop.jax(view)
    with pytest.raises(psyne.CannotShare):
        interop.jax(array[::-1])


@JAX
def test_jax_computes_on_the_message_and_leaves_it_alone(ends: Ends):
    import jax
    import jax.numpy as jnp

    tx, rx = ends
    tx.send(plane(2))
    with rx.receive() as m:
        doubled = jax.jit(lambda x: x * 2, donate_argnums=0)  # may use the memory of its argument, if it is JAX's
        assert float(jnp.sum(doubled(interop.jax(m)))) == 4 * 128 * 128
        assert (m.array == 2).all()


@TORCH
def test_torch_is_not_given_strides_that_it_lacks():
    class Odd(Struct):
        tag = u8()
        pair = u8(2)

    with pytest.raises(psyne.CannotShare, match="negative"):
        interop.torch(Plane().array[::-1])
    with psyne.sender("ipc://odd", Odd, capacity=8) as tx:
        batch = tx.loan_many(2)
        with pytest.raises(psyne.CannotShare, match=r"2 bytes.*3 bytes"):
            interop.torch(batch["pair"].view("u2"))
        assert_same_bytes(interop.torch(batch["pair"][0]), batch["pair"][0])
        batch.discard()
    strided = Plane().array[::2, ::4]
    tensor = interop.torch(strided)
    assert (tensor.data_ptr(), tensor.stride()) == (strided.ctypes.data, (256, 4))


@ARROW
def test_arrow_refuses_what_it_would_convert():
    for dtype in ("?", "c8", ">f4", "S4"):
        with pytest.raises(psyne.CannotShare):
            interop.arrow(Array(dtype, 4)())
    with pytest.raises(psyne.CannotShare, match=r"4 bytes every 8.*layout=\"columns\""):
        interop.arrow(Array("f4", 8)().array[::2])
    with psyne.sender("ipc://frames", Frame, capacity=8) as tx:
        batch = tx.loan_many(2)
        with pytest.raises(psyne.CannotShare, match="stamp has 8 bytes every"):
            interop.arrow(batch)
        batch.discard()


@ARROW
def test_arrow_gets_arrays_tensors_and_record_batches():
    import pyarrow

    number, line, plane = (interop.arrow(Array("f4", shape)()) for shape in ((), 5, (2, 3)))
    assert (type(number), len(number)) == (pyarrow.FloatArray, 1)
    assert (type(line), len(line)) == (pyarrow.FloatArray, 5)
    assert (type(plane), plane.shape) == (pyarrow.Tensor, (2, 3))
    fortran = interop.arrow(Array("f4", (2, 3))().array.T)
    assert (fortran.shape, fortran.strides) == ((3, 2), (4, 12))
    with psyne.sender("ipc://stamps", Stamp, capacity=8) as tx:
        batch = tx.loan_many(3)
        batch["stamp"] = [1, 2, 3]
        table = interop.arrow(batch)
        assert table.to_pydict() == {"stamp": [1, 2, 3]}
        assert_same_bytes(table["stamp"], batch)
        batch.discard()
    with psyne.sender("ipc://poses", Pose, capacity=8) as tx:
        batch = tx.loan_many(2)
        batch["position"] = np.arange(12).reshape(2, 2, 3)
        table = interop.arrow(batch)
        assert table.to_pydict() == {"position": np.arange(12.0).reshape(2, 2, 3).tolist()}
        assert_same_bytes(table["position"], batch)
        batch.discard()


@ARROW
def test_a_batch_in_columns_is_a_record_batch_over_the_same_bytes():
    with (
        psyne.sender("ipc://columns", Columns, capacity=8) as tx,
        psyne.receiver("ipc://columns", Columns) as rx,
    ):
        for n in range(8):
            tx.send(Columns(stamp=n, image=n))
        with rx.receive_many(8) as batch:
            table = interop.arrow(batch)
            own = interop.arrow(batch, private=True)
            for name in ("stamp", "image"):
                assert_same_bytes(table[name], batch[name])
                assert own[name].equals(table[name])
        del batch
        assert not slot_is_free(tx)
        assert table["stamp"].to_pylist() == list(range(8))
        del table, own
        assert slot_is_free(tx)


@ARROW
def test_a_message_that_is_an_arrow_batch_is_just_that():
    import pyarrow

    m = psyne.ArrowBatch(batch=pyarrow.record_batch({"x": pyarrow.array([1, 2, 3])}))
    assert interop.arrow(m).to_pydict() == {"x": [1, 2, 3]}
    assert interop.arrow(m, private=True).to_pydict() == {"x": [1, 2, 3]}


# ---- missing libraries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "module", "package"),
    [
        ("torch", "torch", "torch"),
        ("jax", "jax", "jax"),
        ("arrow", "pyarrow", "pyarrow"),
        ("warp", "warp", "warp-lang"),
    ],
)
def test_a_missing_library_is_an_importerror_that_says_what_to_install(function: str, module: str, package: str):
    without = f"import sys; sys.modules[{module!r}] = None\nimport psyne\n"
    done = run_program(without + f"psyne.interop.{function}(psyne.Array('f4', 4)())", check=False)
    assert f"pip install {package}, or psyne[interop]" in done.stderr


def test_psyne_by_itself_imports_none_of_them():
    run_program(
        "import sys, psyne, psyne.interop\n"
        "assert not {'torch', 'jax', 'pyarrow', 'scipy', 'warp', 'numba', 'pytest', 'ml_dtypes'} & sys.modules.keys()"
    )
