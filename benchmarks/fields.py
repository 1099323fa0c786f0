"""What a field costs: reading and writing scalars and arrays of a message that lies in its slot.

    python benchmarks/fields.py [--json FILE] [--rounds N] [--cores A B] [--calls N]

One pinned process. Each statement runs in a loop of its own, all of them in turns; a figure is the least of the rounds,
less the least of the empty loop. `.array` is measured inside send and receive, less the same without it. Targets: a
scalar 60 ns, an array field from a tuple 150 ns, `.array` 300 ns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Figures, expect, interleaved, machine, options, play_role, private_channels, run_roles, write

import psyne
from psyne import Array, Struct, f32, f64, u64


class Imu(Struct):
    stamp = u64()
    speed = f64()
    accel = f32(3)
    gyro = f32(3)


Plane = Array("f4", (64, 64))

# name: statement over the message m of a loan (or of none), nanoseconds that it may take
FIELDS = {
    "read u64": ("m.stamp", 60),
    "read f64": ("m.speed", 60),
    "write u64": ("m.stamp = n", 60),
    "write f64": ("m.speed = x", 60),
    "write f32(3) from a tuple": ("m.accel = (x, y, z)", 150),
    "write f32(3) from an array": ("m.accel = a", 150),
}
PASSES = {
    "send, receive, release": "",
    "… and .array": "m.array",
    "… and np.asarray": "np.asarray(m)",
    "… and memoryview": "memoryview(m)",
    "… and .info": "m.info",
    "… and .copy()": "m.copy()",
}
ARRAY = 300


def loop(statement: str, names: dict[str, Any]) -> Callable[[int], int]:
    """A function that runs the statement n times and gives the nanoseconds of all."""
    body = f"start = now()\n    for _ in range(count): {statement}\n    return now() - start"
    space = {"now": time.perf_counter_ns, **names}
    exec(f"def run(count):\n    {body}", space)
    return space["run"]  # type: ignore[no-any-return]


def measure(calls: int) -> Figures:
    """Nanoseconds of one run of each statement, the loop's own included."""
    figures: Figures = {}
    with psyne.sender("ipc://fields", Imu) as out, psyne.receiver("ipc://fields", Imu) as source:
        m = out.loan()
        names = {"m": m, "n": 12345, "x": 1.5, "y": -2.0, "z": 9.75, "a": np.array([1.5, -2, 9.75], "f4")}
        for name, statement in {"empty loop": "pass", **{key: value[0] for key, value in FIELDS.items()}}.items():
            run = loop(statement, names)
            run(calls // 20)
            figures[name] = run(calls) / calls
        out.send(m)
        with source.receive() as got:
            expect((got.stamp, got.speed, got.accel.tolist()), (12345, 1.5, [1.5, -2.0, 9.75]), "what was written")
    with psyne.sender("ipc://planes", Plane) as planes, psyne.receiver("ipc://planes", Plane) as source:
        view = memoryview(np.ones((64, 64), "f4"))
        names = {"send": planes.send, "receive": source.receive, "view": view, "np": np}
        for name, statement in PASSES.items():
            run = loop(f"send(view); m = receive(); {statement or 'pass'}; m.release()", names)
            run(calls // 20)
            figures[name] = run(calls) / calls
        expect(source.statistics().received, len(PASSES) * (calls + calls // 20), "messages")
    return figures


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--calls", type=int, default=50_000, help="runs of each statement per round")
        parser.set_defaults(rounds=7)

    chosen = options(__doc__, more)
    with private_channels():
        rounds = interleaved(
            chosen.rounds,
            {"all": lambda: run_roles(__file__, ("measure", chosen.cores[0], {"calls": chosen.calls}))[0]},
        )["all"]
    least = {name: min(one[name] for one in rounds) for name in rounds[0]}
    bare = next(iter(PASSES))
    net = {name: round(least[name] - least["empty loop"], 1) for name in FIELDS}
    net |= {name: round(least[name] - least[bare], 1) for name in PASSES if name != bare}
    targets = {name: limit for name, (_, limit) in FIELDS.items() if limit} | {"… and .array": ARRAY}
    print(f"least of {chosen.rounds} rounds, nanoseconds; the empty loop takes {least['empty loop']:.1f}")
    for name, ns in net.items():
        over = f"over {bare} ({least[bare]:.0f})" if name in PASSES else ""
        print(f"{name:28}{ns:8.1f}   {'target ' + str(targets[name]) if name in targets else '':12}{over}")
    write(
        chosen.json,
        {"machine": machine(chosen.cores), "net_ns": net, "targets_ns": targets, "least_ns": least, "rounds": rounds},
    )


if __name__ == "__main__":
    play_role({"measure": measure})
    main()
