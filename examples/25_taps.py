"""Taps look on at a channel: a viewer and a recorder get copies, and hold neither the sender nor the stages up."""

import numpy as np

import psyne
from psyne import Stage, Struct, u8, u64


class Frame(Struct):
    number = u64()
    gain = u64()
    pixels = u8(48, 64)


def send(camera: psyne.Sender[Frame], first: int, last: int) -> None:
    for n in range(first, last):
        with camera.loan() as m:
            m.number = n
            m.pixels[:] = n


def main() -> None:
    with (
        psyne.sender("ipc://frames", Frame, capacity=8, stages=[Stage("correct", mutate=True)]) as camera,
        psyne.receiver("ipc://frames", Frame, stage="correct") as correct,
        psyne.tap("ipc://frames", Frame) as recorder,
        psyne.tap("ipc://frames", Frame, latest=True) as viewer,
    ):
        send(camera, 0, 5)
        print("before they are corrected a tap sees:", recorder.try_receive())
        for _ in range(5):
            with correct.receive() as m:
                m.gain = 2
                m.pixels[:] *= 2

        kept = [recorder.receive() for _ in range(3)]  # private copies: kept as long as one likes, and written
        kept[0].pixels[:] = 0
        print("the recorder has frames", [m.number for m in kept], "with gain", [m.gain for m in kept])
        newest = viewer.receive()
        print(f"the viewer shows frame {newest.number} and skipped {newest.info.missed}")

        for n in range(5, 105):  # nobody waits for the recorder, who is busy with its disk
            send(camera, n, n + 1)
            with correct.receive() as m:
                m.gain = 2
        rest = recorder.receive_many(100)
        print(f"the recorder missed {rest.info.missed} frames and goes on with {rest['number'].tolist()}")
        assert 3 + rest.info.missed == rest["number"][0]

        with psyne.tap("ipc://frames", history=2) as latecomer:  # without a type the channel describes itself
            print("who comes late may ask for", [latecomer.receive().number for _ in range(2)])
        assert np.all(rest["gain"] == 2)


if __name__ == "__main__":
    main()
