"""A million records in batches: consecutive messages are one array, on both sides."""

import multiprocessing

import numpy as np

import psyne
from psyne import Struct, i16, u64

RECORDS, BATCH = 1_000_000, 1000


class Sample(Struct):
    stamp = u64()
    adc = i16(4)


def acquire() -> None:
    stamps = np.arange(BATCH, dtype=np.uint64)
    with psyne.sender("ipc://adc", Sample) as out:
        for start in range(0, RECORDS, BATCH):
            with out.loan_many(BATCH) as batch:  # exactly so many slots, one behind the other
                batch["stamp"] = stamps + np.uint64(start)  # a field of all of them
                batch["adc"] = 7

        with out.loan_many(BATCH) as batch:  # room for many, but the device gave 10
            batch["stamp"][:10] = 1
            batch["adc"] = 0
            batch.truncate(10)

        out.send_many(np.ones(90, Sample().array.dtype))  # copies any number
        out.drain()


def main() -> None:
    process = multiprocessing.get_context("spawn").Process(target=acquire)
    process.start()
    total = batches = stamps = adc = 0
    with psyne.receiver("ipc://adc", Sample) as samples:
        for batch in samples.batches(BATCH):  # 1 to 1000 messages of one sender
            batches += 1
            total += len(batch)
            stamps += int(batch["stamp"].sum())
            adc += int(batch["adc"].sum(dtype=np.int64))
    process.join()
    assert process.exitcode == 0
    assert total == RECORDS + 100
    assert stamps == RECORDS * (RECORDS - 1) // 2 + 100
    assert adc == RECORDS * 4 * 7 + 90 * 4
    print(f"{total:,} records came as {batches:,} arrays; every sum is right")


if __name__ == "__main__":
    main()
