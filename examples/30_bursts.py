"""A ring that grows with a burst and gives the memory back: the receiver does nothing about it."""

import multiprocessing
import time

import psyne
from psyne import Bytes

Packet = Bytes(max_bytes=16 << 20)  # costs nothing until a packet is as long
BURST = 20_000


def receive() -> None:
    with psyne.receiver("ipc://packets", Packet) as packets:
        lengths = [m.array.nbytes for m in packets]
    assert sum(length == 100 for length in lengths) >= BURST
    assert max(lengths) == 16 << 20
    print(f"received {len(lengths)} packets, the longest of {max(lengths)} bytes")


def main() -> None:
    with psyne.sender("ipc://packets", Packet, full="grow", budget=256 << 20, shrink_after=0.1) as out:
        first = out.statistics()
        print(f"at first {out.capacity} slots, {first.reserved >> 10} KiB")

        for _ in range(BURST):  # nobody reads yet
            out.send(bytes(100))
        with out.loan(size=16 << 20) as m:  # longer than any before: in one loan
            m.array[:] = 1
        full = out.statistics()
        print(f"after the burst {out.capacity} slots in {full.slabs} slabs, {full.reserved >> 10} KiB")
        assert full.grown > 0

        reader = multiprocessing.get_context("spawn").Process(target=receive)
        reader.start()
        while out.statistics().reserved > first.reserved:  # low load, now that all is read
            out.send(b"still here")
            time.sleep(0.01)
        last = out.statistics()
        print(f"then {out.capacity} slots, {last.reserved >> 10} KiB; {last.why}")
    reader.join()
    assert reader.exitcode == 0


if __name__ == "__main__":
    main()
