"""Arrow: record batches written into slots, and fields that lie in columns, which Arrow takes by pointer.

Needs pyarrow.
"""

import numpy as np

import psyne
from psyne import ArrowBatch, Struct, f64, interop, u8, u64
from psyne.testing import assert_same_bytes


class Frame(Struct, layout="columns"):  # a column per field in the ring
    stamp = u64()
    exposure = f64()
    image = u8(48, 64)


def columns() -> None:
    with psyne.sender("ipc://frames", Frame, capacity=64) as out, psyne.receiver("ipc://frames", Frame) as frames:
        with out.loan_many(16) as batch:
            batch["stamp"] = np.arange(16)
            batch["exposure"] = 0.01
            batch["image"] = np.arange(16)[:, None, None]
        with frames.receive_many(16) as batch:
            images = batch["image"]
            assert images.shape == (16, 48, 64)
            assert images.flags.c_contiguous  # 16 images in one piece, as a model wants them
            table = interop.arrow(batch)
            assert_same_bytes(table.column("stamp"), batch["stamp"])  # the same pointer
            assert_same_bytes(table.column("image"), images)
            print(f"{table.num_rows} frames are an Arrow {type(table).__name__} of {table.schema.names}")
            del images, table  # both keep the slots


def record_batches() -> None:
    import pyarrow as pa

    trades = pa.RecordBatch.from_pydict(
        {"symbol": ["PSY", "ARW", "PSY"], "price": [101.5, 7.25, None], "size": [300, 40, 25]}
    )
    Trades = ArrowBatch(trades.schema, max_bytes=1 << 16)
    with psyne.sender("ipc://trades", Trades) as out, psyne.receiver("ipc://trades") as rx:
        with out.loan() as m:
            m.batch = trades  # Arrow's IPC stream, written straight into the slot
        with rx.receive() as m:  # no type: the channel's text has the Arrow schema, too
            got = m.batch  # its buffers are bytes of the slot
            assert got.equals(trades)
            slot = m.array.ctypes.data
            assert all(slot <= b.address < slot + len(m.array) for c in got.columns for b in c.buffers() if b)
            sizes = got.column("size").to_numpy()  # and these are, too
            print(f"{got.num_rows} trades of {sizes.sum()} pieces, read where they were written")
            del sizes
            del got


if __name__ == "__main__":
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        print("pyarrow is not installed: pip install pyarrow")
    else:
        columns()
        record_batches()
