"""What the benchmarks share: pinned processes, percentiles, medians over rounds, the report."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WATCHDOG = 300.0  # seconds for one role; a benchmark that hangs is killed, never waited for

Figures = dict[str, Any]
Role = Callable[..., Figures | None]
Process = subprocess.Popen[bytes]


class WrongData(AssertionError):
    """What arrived is not what was sent."""


def expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise WrongData(f"{what}: saw {seen!r}, expected {wanted!r}")


# ------------------------------------------------------------------------ processes


def run_roles(script: str, *roles: tuple[str, int, Figures]) -> list[Figures]:
    """Starts each (role, core, arguments) as a process of its own; returns what each reported."""
    return finish([start(script, role, core, arguments) for role, core, arguments in roles])


def start(script: str, role: str, core: int, arguments: Figures) -> Process:
    where = ["--core", str(core), "--arguments", json.dumps(arguments)]
    command = [sys.executable, script, "--role", role, *where]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def finish(group: list[Process]) -> list[Figures]:
    """Waits for all, without polling; the first one that fails takes the others with it."""
    said = dict.fromkeys(group, b"")
    deadline = time.monotonic() + WATCHDOG
    with selectors.DefaultSelector() as selector:
        for process in group:
            selector.register(process.stdout, selectors.EVENT_READ, process)  # type: ignore[arg-type]
        try:
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise SystemExit(f"killed after {WATCHDOG:.0f} s: {describe(group)}")
                for key, _ in ready:
                    chunk = os.read(key.fd, 1 << 16)
                    said[key.data] += chunk
                    if not chunk:
                        selector.unregister(key.fileobj)
                        if key.data.wait() != 0:
                            raise SystemExit(f"{describe([key.data])}: exit {key.data.returncode}")
        finally:
            for process in group:
                process.kill()
                process.communicate()
    return [json.loads(said[process].splitlines()[-1]) for process in group]


def describe(group: list[Process]) -> str:
    return "; ".join(" ".join(process.args[1:]) for process in group)  # type: ignore[index, arg-type]


def play_role(roles: dict[str, Role]) -> None:
    """In a started process: plays the role that the command line names, and exits."""
    if "--role" not in sys.argv:
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", required=True)
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--arguments", type=json.loads, required=True)
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    print(json.dumps(roles[options.role](**options.arguments) or {}), flush=True)
    sys.exit(0)


@contextmanager
def private_channels() -> Iterator[None]:
    """Channels of this run lie in a directory of their own, gone afterwards, after SIGTERM too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    with tempfile.TemporaryDirectory(prefix="psyne-benchmark-", dir="/dev/shm") as directory:
        os.environ["PSYNE_DIR"] = directory
        yield


def compile_bare(name: str, directory: Path) -> Path:
    """One of the bare loops in C++ that are the floors."""
    program = directory / name
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-std=c++20", "-O2", str(HERE / f"{name}.cpp"), "-o", str(program)], check=True)
    return program


def run_bare(program: Path, *arguments: object) -> Figures:
    done = subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------ figures


def percentiles(samples: Any) -> Figures:
    import numpy as np

    names = ("p50", "p90", "p99", "p99.9")
    return dict(zip(names, np.percentile(samples, [50, 90, 99, 99.9]).round(1).tolist(), strict=True))


def median_of(rounds: list[Figures]) -> Figures:
    """Key by key, over the rounds: one disturbed round changes nothing."""
    return {key: round(statistics.median(one[key] for one in rounds), 4) for key in rounds[0]}


def ratio(rounds: dict[str, list[Figures]], over: str, under: str, key: str) -> float:
    """The median of the rounds' own ratios: what disturbs a whole round cancels out."""
    pairs = zip(rounds[over], rounds[under], strict=True)
    return round(statistics.median(one[key] / other[key] for one, other in pairs), 4)


def interleaved(rounds: int, cases: dict[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
    """All cases once, then all cases again: what disturbs the machine disturbs them alike."""
    results: dict[str, list[Figures]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            print(f"\rround {number + 1}/{rounds}: {name:40}", end="", file=sys.stderr, flush=True)
            results[name].append(case())
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return results


# ------------------------------------------------------------------------ report


def installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def machine(cores: list[int]) -> Figures:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    versions = {"python": platform.python_version()}
    for package in ("psyne", "numpy", "iceoryx2", "pyzmq", "faster-fifo"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "pinned": cores,
        "kernel": platform.release(),
        "versions": versions,
        "load": os.getloadavg()[0],
    }


def options(description: str | None, add: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument(
        "--cores",
        type=int,
        nargs=2,
        help="the two cores to pin to (default: the first two allowed)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; figures are their medians")
    add(parser)
    chosen = parser.parse_args()
    if not chosen.cores:
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            parser.error(f"two cores are needed, this process may use {len(allowed)}")
        chosen.cores = allowed[:2]
    return chosen


def write(path: Path | None, figures: Figures) -> None:
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
