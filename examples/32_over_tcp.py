"""Ends over TCP: a bound receiver, senders of other programs, and a tap from afar; the same ends, with another address.

    sender 0 ─┐
    sender 1 ─┼─ tcp ─▶ receiver, bound        sender, bound ─ tcp ─▶ tap: looks on, holds nobody up
    sender 2 ─┘
A secret lets in only who has it: both sides prove that they do, and it never goes over the wire.
"""

import multiprocessing
import secrets
from collections import Counter

import psyne
from psyne import Struct, f32, u64

SENDERS, EACH = 3, 200


class Reading(Struct):
    sensor = u64()
    number = u64()
    values = f32(64)


def sensor(address: str, token: str, number: int) -> None:
    # As many times as it takes: it may be started before the receiver, and it survives a cut connection.
    with psyne.sender(address, Reading, token=token) as tx:
        for n in range(EACH):
            with tx.loan() as m:
                m.sensor, m.number = number, n
                m.values[:] = n
    # Here all of them have arrived, or five seconds (linger=) are over.


def main() -> None:
    token = secrets.token_hex(32)
    with psyne.receiver("tcp://127.0.0.1:0", Reading, bind=True, token=token, follow=True) as rx:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=sensor, args=(rx.address, token, n)) for n in range(SENDERS)]
        for process in processes:
            process.start()
        seen: Counter[int] = Counter()
        while sum(seen.values()) < SENDERS * EACH:
            with rx.receive_many(64) as batch:  # of one sender
                readings = batch.array
                first, n = int(readings["sensor"][0]), len(batch)
                assert (readings["number"] == range(seen[first], seen[first] + n)).all()  # in order, none twice
                assert (readings["values"][:, 0] == readings["number"]).all()
                seen[first] += n
        for process in processes:
            process.join()
        print(f"{dict(sorted(seen.items()))} readings came, each sender's in its order")

        try:
            with psyne.sender(rx.address, Reading, token=secrets.token_hex(32)) as stranger:
                stranger.drain()
                while True:
                    stranger.send(Reading())
        except psyne.AuthenticationFailed as error:
            print("a stranger:", error)

    tx = psyne.sender("tcp://127.0.0.1:0", Reading, bind=True, stages=[])
    with tx, psyne.tap(tx.address, Reading) as tap:
        number = 0
        while (m := tap.try_receive()) is None:  # it looks on from when it is connected
            tx.send(Reading(sensor=9, number=number))
            number += 1
        print("a tap saw a reading of sensor", m.sensor)


if __name__ == "__main__":
    main()
