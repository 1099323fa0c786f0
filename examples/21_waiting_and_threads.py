"""How an end waits, what it counts, and what threads may do with it."""

import threading

import psyne
from psyne import ConcurrentUse, Receiver, Struct, u64

COUNT = 20_000


class Tick(Struct):
    n = u64()


def ways_to_wait() -> None:
    for wait in ("block", "adaptive", "spin"):  # sleeps at once; learns how long spinning pays; never sleeps
        tx, rx = psyne.channel(Tick, wait=wait, timestamps=True, capacity=256)  # ends for threads need no name

        def send(out: psyne.Sender[Tick] = tx) -> None:
            with out:
                for n in range(COUNT):
                    out.send(Tick(n=n))

        thread = threading.Thread(target=send)
        thread.start()
        with rx:
            assert sum(m.n for m in rx) == COUNT * (COUNT - 1) // 2
            seen = rx.statistics()
        thread.join()
        assert seen.received == COUNT
        assert seen.late_wakes == 0  # nobody slept over a message
        assert sum(seen.latency_ns) == COUNT
        print(f"{wait:8}: {seen.blocked} waits, latency p50 ≤ {seen.latency(0.5) / 1000:.0f} µs", end=", ")
        print(f"p99 ≤ {seen.latency(0.99) / 1000:.0f} µs")


def what_threads_may_do(rx: Receiver[Tick], tx: psyne.Sender[Tick]) -> None:
    with tx, rx:
        tx.send(Tick(n=1))
        message = rx.receive()
        release = threading.Thread(target=message.release)  # any thread may end a message
        release.start()
        release.join()

        ended: list[str] = []

        def receive() -> None:
            while not ended:
                try:
                    rx.receive()
                except ConcurrentUse:  # the other one was first
                    continue
                except psyne.ChannelClosed:
                    ended.append("closed")

        thread = threading.Thread(target=receive)
        thread.start()
        refused = ""
        while not refused:
            try:
                rx.try_receive()  # a second user at the same time
            except ConcurrentUse as error:
                refused = str(error)
        print("ConcurrentUse:", refused)
        rx.close()  # any thread may close an end, which ends its waits
        thread.join()
        assert ended == ["closed"]


if __name__ == "__main__":
    ways_to_wait()
    out, ticks = psyne.channel(Tick)
    what_threads_may_do(ticks, out)
