"""A channel, its two ends, and messages written in place. One process, for a start."""

import psyne
from psyne import Struct, f32, u64


class Imu(Struct):  # C layout; a message is an instance of its type, lying in shared memory
    stamp = u64()
    accel = f32(3)


out = psyne.sender("ipc://hello", Imu)  # the first sender makes the channel
imu = psyne.receiver("ipc://hello", Imu)

with out.loan() as m:  # a free slot; the end of the block sends it
    m.stamp = 1
    m.accel = (0.0, 0.0, 9.5)

out.send(Imu(stamp=2))  # copies a message that lies in private memory

with out.loan() as m:
    m.stamp = 3
    m.discard()  # nothing is sent after all

with imu.receive() as m:  # read where it was written; the end of the block gives the slot back
    print(m)
    assert m.stamp == 1
    assert m.accel[2] == 9.5
    kept = m.copy()  # what must outlive the block

out.close()  # the last sender closed: the loop ends after what it sent
stamps = [m.stamp for m in imu]  # each step of a loop ends the message before it
print("the rest:", stamps)
assert stamps == [2]
assert kept.stamp == 1
imu.close()
