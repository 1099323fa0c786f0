"""Messages and kernels of an NVIDIA GPU: bandwidth in place beside copies, and latency from kernel to kernel.

    python benchmarks/gpu.py [--json FILE] [--rounds N] [--trips N] [--mib N] [--stand-in]

Bandwidth: a kernel of torch reads or writes a message where it lies, in registered memory of the CPU; beside it the
copy engine with the same pages, and what the link could do at most. Latency: a kernel writes a tensor, a kernel of
another process reads it and writes an answer, a kernel here reads that: half of such a round trip, through two channels
whose messages stay on the GPU, and through two queues of torch.multiprocessing, which hands tensors over by CUDA IPC.

Without a GPU it says so and runs nothing. --stand-in runs the steps against the stand-in of the tests, and gives no
figures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figures, expect, machine, median_of, percentiles, private_channels, write

import psyne
from psyne import Array
from psyne.devices import cuda_driver as cu

SMALL = 1024  # float32 of a tensor that is handed over
REPEATS = 10  # kernels that one measured time has
LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}  # GB/s of a PCIe lane, by generation
Small = Array("f4", (SMALL,))


# ------------------------------------------------------------------------ bandwidth


def link() -> Figures:
    """The most that the link to the first GPU can do, as the driver says."""
    asked = "pcie.link.gen.max,pcie.link.width.max"
    try:
        said = subprocess.run(
            ["nvidia-smi", "-i", "0", f"--query-gpu={asked}", "--format=csv,noheader,nounits"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        generation, width = (int(word) for word in said.split(","))
        return {"pcie": generation, "lanes": width, "GB/s": round(LANE[generation] * width, 1)}
    except (OSError, subprocess.CalledProcessError, ValueError, KeyError) as error:
        return {"unknown": repr(error)}


def bandwidth(mib: int, rounds: int) -> Figures:
    """GB/s of each way to the bytes of one message."""
    n = mib << 18
    with (
        psyne.device("cuda:0") as gpu,
        psyne.sender("ipc://bandwidth", Array("f4", (n,)), capacity=1) as tx,
        tx.loan() as m,
    ):
        m.array[:] = 1
        figures = bandwidth_of(gpu, gpu.view(m), rounds)
        expect((m.array.min(), m.array.max()), (1.0, 1.0), "the message")
        m.discard()
    return figures


def bandwidth_of(gpu: Any, view: Any, rounds: int) -> Figures:
    import torch

    here, pages = torch.from_dlpack(view), view._registration.mapping.address + view.offset
    there, total = torch.ones_like(here), torch.zeros((), device="cuda")

    def copy(call: str, to: int, source: int) -> None:
        with gpu.context() as driver:
            driver.call(call, to, source, view.nbytes, None)

    ways: dict[str, Callable[[], object]] = {
        "kernel reads in place": lambda: torch.sum(here, dim=0, out=total),
        "kernel writes in place": lambda: torch.mul(there, 1, out=here),
        "copy to the GPU": lambda: copy("cuMemcpyHtoDAsync_v2", there.data_ptr(), pages),
        "copy from the GPU": lambda: copy("cuMemcpyDtoHAsync_v2", pages, there.data_ptr()),
        "kernel reads in memory of the GPU": lambda: torch.sum(there, dim=0, out=total),
    }
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way()
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(REPEATS):
                way()
            torch.cuda.synchronize()
            seconds = (time.perf_counter() - begin) / REPEATS
            found[name].append({"GB/s": round(view.nbytes / seconds / 1e9, 2)})
        expect(float(total.item()), float(here.numel()), "the sum of all ones")
    return {name: median_of(each) for name, each in found.items()}


# ------------------------------------------------------------------------ kernels


class Torch:
    """Kernels by torch, on a stream of its own."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.stream = torch.cuda.Stream()
        self.copy = torch.zeros(SMALL, device="cuda")

    def write(self, message: Any, number: int) -> None:
        with self.torch.cuda.stream(self.stream):
            self.torch.from_dlpack(message).fill_(number)

    def answer(self, message: Any, loan: Any) -> None:
        with self.torch.cuda.stream(self.stream):
            self.torch.add(self.torch.from_dlpack(message), 1, out=self.torch.from_dlpack(loan))

    def read(self, message: Any) -> None:
        with self.torch.cuda.stream(self.stream):
            self.copy.copy_(self.torch.from_dlpack(message))

    def finish(self) -> float:
        self.stream.synchronize()
        return float(self.copy[SMALL - 1].item())


class StandIn:
    """The same by copies of the driver, which is all that the stand-in has."""

    def __init__(self) -> None:
        from ctypes import byref, c_void_p

        self.gpu: Any = psyne.device("cuda:0")
        made = c_void_p()
        with self.gpu.context() as driver:
            driver.call("cuStreamCreate", byref(made), cu.NON_BLOCKING)
        self.stream = made.value or 0
        self.copy = np.zeros(SMALL, "f4")

    def write(self, message: Any, number: int) -> None:
        values = np.full(SMALL, number, "f4")
        self._call("cuMemcpyHtoDAsync_v2", message, message.pointer, values.ctypes.data)
        self.finish()  # the values live until then

    def answer(self, message: Any, loan: Any) -> None:
        self.read(message)
        self.write(loan, int(self.finish()) + 1)

    def read(self, message: Any) -> None:
        self._call("cuMemcpyDtoHAsync_v2", message, self.copy.ctypes.data, message.pointer)

    def finish(self) -> float:
        with self.gpu.context() as driver:
            driver.call("cuStreamSynchronize", self.stream)
        return float(self.copy[SMALL - 1])

    def _call(self, name: str, message: Any, to: int, source: int) -> None:
        message.wait(self.stream)
        with self.gpu.context() as driver:
            driver.call(name, to, source, 4 * SMALL, self.stream)


def kernels() -> Any:
    return StandIn() if os.environ.get("PSYNE_LIBCUDA") else Torch()


# ------------------------------------------------------------------------ from kernel to kernel


def resident_answers(name: str, trips: int) -> None:
    work = kernels()
    with (
        psyne.sender(f"ipc://{name}-back", Small, device="cuda:0", wait="spin") as back,
        psyne.receiver(f"ipc://{name}-there", device="cuda:0", wait="spin") as there,
    ):
        for _ in range(trips):
            with there.receive() as m:
                loan = back.loan()
                work.answer(m, loan)
                back.send(loan, stream=work.stream)
        back.drain()


def resident_trips(trips: int) -> list[float]:
    """Microseconds of each half of a round trip."""
    import multiprocessing

    name, work, times = f"trip-{os.getpid()}", kernels(), []
    other = multiprocessing.get_context("spawn").Process(target=resident_answers, args=(name, trips))
    with psyne.sender(f"ipc://{name}-there", Small, device="cuda:0", wait="spin") as there:
        other.start()
        with psyne.receiver(f"ipc://{name}-back", device="cuda:0", wait="spin") as back:
            for number in range(trips):
                begin = time.perf_counter()
                loan = there.loan()
                work.write(loan, 2 * number)
                there.send(loan, stream=work.stream)
                with back.receive() as m:
                    work.read(m)
                    seen = work.finish()
                times.append((time.perf_counter() - begin) * 1e6 / 2)
                expect(seen, float(2 * number + 1), f"trip {number}")
        there.drain()
    other.join()
    expect(other.exitcode, 0, "the exit of the other process")
    return times


def torch_answers(there: Any, back: Any, trips: int) -> None:
    import torch

    stream = torch.cuda.Stream()
    kept = []
    with torch.cuda.stream(stream):
        for _ in range(trips):
            x = there.get()
            kept = [*kept[-8:], x + 1]  # torch wants them kept until the other process has let go
            back.put(kept[-1])
            del x
        there.get()  # the other process has all


def torch_trips(trips: int) -> list[float]:
    import torch
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    there, back = context.SimpleQueue(), context.SimpleQueue()
    other = context.Process(target=torch_answers, args=(there, back, trips))
    other.start()
    stream, copy, times = torch.cuda.Stream(), torch.zeros(SMALL, device="cuda"), []
    with torch.cuda.stream(stream):
        for number in range(trips):
            begin = time.perf_counter()
            x = torch.full((SMALL,), float(2 * number), device="cuda")
            there.put(x)
            y = back.get()
            copy.copy_(y)
            stream.synchronize()
            times.append((time.perf_counter() - begin) * 1e6 / 2)
            expect(float(copy[SMALL - 1].item()), float(2 * number + 1), f"trip {number}")
            del x, y
        there.put(None)
    other.join()
    return times


def latency(trips: int, rounds: int, ways: dict[str, Callable[[int], list[float]]]) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(percentiles(way(trips)[trips // 10 :]))
    return found


# ------------------------------------------------------------------------ report


def stand_in() -> None:
    """All steps once, without figures."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.helpers import fakecuda

    os.environ["PSYNE_LIBCUDA"] = fakecuda.library()
    os.environ["FAKECUDA_DIR"] = os.environ["PSYNE_DIR"]
    resident_trips(20)
    print("20 round trips through channels on a stand-in for a GPU: every answer was right. No figures: it is no GPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trips", type=int, default=2000, help="of one round")
    parser.add_argument("--mib", type=int, default=256, help="of the message whose bandwidth is measured")
    parser.add_argument("--stand-in", action="store_true", help="run the steps without a GPU, without figures")
    chosen = parser.parse_args()
    with private_channels():
        if chosen.stand_in:
            return stand_in()
        try:
            info = psyne.device("cuda:0").info
            import torch

            gpu = torch.cuda.get_device_name(0)
        except (psyne.DeviceUnavailable, ImportError, AssertionError, RuntimeError) as error:
            print(f"nothing was measured: {error}")
            return None
        print(f"{gpu}, {info.driver}, torch {torch.__version__}, link {link()}")
        inside = bandwidth(chosen.mib, chosen.rounds)
        for name, figures in inside.items():
            print(f"{name:36} {figures['GB/s']:10.2f} GB/s")
        trips = latency(chosen.trips, chosen.rounds, {"psyne": resident_trips, "torch": torch_trips})
        for name, rounds in trips.items():
            print(f"kernel to kernel, {name:18} {median_of(rounds)['p50']:10.2f} us (p50)")
        figures = {
            "gpu": gpu,
            "driver": info.driver,
            "torch": torch.__version__,
            "link": link(),
            "machine": machine([]),
        }
        write(chosen.json, figures | {"bandwidth": inside, "latency": trips})
    return None


if __name__ == "__main__":
    main()
