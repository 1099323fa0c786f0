"""What a per-message object costs to make and to drop, per candidate.

    python benchmarks/instances/instances.py [--json FILE] [--core N]

Compiles instances.cpp into a temporary directory (needs nanobind, numpy and a C++ compiler).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nanobind
import numpy as np

HERE = Path(__file__).parent


def build(directory: Path) -> ModuleType:
    root = Path(nanobind.include_dir()).parent
    library = directory / f"psyne_instances{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [
        root / "include",
        root / "ext/robin_map/include",
        np.get_include(),
        sysconfig.get_path("include"),
    ]
    command = [
        os.environ.get("CXX", "c++"), "-std=c++20", "-O2", "-DNDEBUG", "-shared", "-fPIC",
        "-fvisibility=hidden", "-fno-strict-aliasing", "-w",
        *(f"-I{path}" for path in includes),
        str(HERE / "instances.cpp"), str(root / "src/nb_combined.cpp"), "-o", str(library),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    spec = importlib.util.spec_from_file_location("psyne_instances", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Each statement gets a loop of its own, which the interpreter specialises for it alone.
LOOP = """
def loop(n):
    {setup}
    start = clock()
    for _ in repeat(None, n):
        {statement}
    return (clock() - start) / n
"""


def loop(statement: str, setup: str, names: dict[str, Any]) -> Callable[[int], float]:
    scope = {"clock": time.perf_counter_ns, "repeat": itertools.repeat, **names}
    exec(LOOP.format(statement=statement, setup=setup or "pass"), scope)
    return scope["loop"]  # type: ignore[no-any-return]


def cases(native: Any) -> list[tuple[str, str, Callable[[int], float]]]:
    plain, replaced, headless = (
        type(name, (native.FreelistMessage,), {"__slots__": ()}) for name in ("Plain", "Replaced", "Headless")
    )
    native.use_subclasses(plain, replaced, headless)
    source, bound = native.Source(), native.BoundSource()
    payload = bytes(range(64))
    names: dict[str, Any] = {
        "source": source, "bound": bound, "np": np, "f4": np.dtype("f4"),
        "message": source.receive_freelist(), "own": source.receive_replaced(),
        "payload": payload, "view": memoryview(payload), "array": np.frombuffer(payload, "u1"),
    }  # fmt: skip
    check(native, names, replaced)

    table = [
        ("message", "empty loop", "m = None", ""),
        ("message", "object()", "m = object()", ""),
        ("message", "method that returns None", "m = call()", "call = source.receive_none"),
        ("message", "nanobind class", "m = call()", "call = bound.receive"),
        (
            "message",
            "nanobind class that keeps its source",
            "m = call()",
            "call = bound.receive_with_source",
        ),
        ("message", "C heap type", "m = call()", "call = source.receive_heap"),
        ("message", "C heap type, freelist", "m = call()", "call = source.receive_freelist"),
        ("message", "Python subclass", "m = call()", "call = source.receive_fresh"),
        (
            "message",
            "Python subclass, freelist, GC-tracked",
            "m = call()",
            "call = source.receive_tracked",
        ),
        ("message", "Python subclass, freelist", "m = call()", "call = source.receive_subclass"),
        (
            "message",
            "Python subclass, freelist, base's tp_dealloc",
            "m = call()",
            "call = source.receive_replaced",
        ),
        (
            "message",
            "the same, GC header taken off",
            "m = call()",
            "call = source.receive_headless",
        ),
        (
            "message",
            "base's tp_dealloc, called as source.receive()",
            "m = source.receive_replaced()",
            "",
        ),
        ("call", "METH_O send(x)", "call(payload)", "call = source.send_one"),
        ("call", "METH_FASTCALL|KEYWORDS send(x)", "call(payload)", "call = source.send_fastcall"),
        (
            "call",
            "METH_FASTCALL|KEYWORDS send(x, timeout=1)",
            "call(payload, timeout=1)",
            "call = source.send_fastcall",
        ),
        ("call", "nanobind send(x)", "call(payload)", "call = bound.send"),
        ("call", "nanobind send(x, timeout=1)", "call(payload, timeout=1)", "call = bound.send"),
    ]
    for kind in ("payload", "view", "array", "own"):
        word = {"payload": "bytes", "view": "memoryview", "array": "ndarray", "own": "message"}[kind]
        table += [
            (
                "copy 64 B",
                f"{word}: PyObject_GetBuffer(SIMPLE)",
                f"call({kind})",
                "call = source.copy_simple",
            ),
            (
                "copy 64 B",
                f"{word}: PyObject_GetBuffer(FORMAT|ND)",
                f"call({kind})",
                "call = source.copy_format",
            ),
            ("copy 64 B", f"{word}: direct access", f"call({kind})", "call = source.copy_direct"),
        ]
    table += [
        (
            "view",
            "PyArray_NewFromDescr with a base",
            "a = call(message)",
            "call = source.view_array",
        ),
        ("view", "np.frombuffer(message, dtype)", "a = call(message, f4)", "call = np.frombuffer"),
        ("view", "np.asarray(message)", "a = call(message)", "call = np.asarray"),
        ("view", "memoryview(message)", "a = memoryview(message)", ""),
    ]
    return [(group, name, loop(statement, setup, names)) for group, name, statement, setup in table]


def check(native: Any, names: dict[str, Any], replaced: type) -> None:
    source, own = names["source"], names["own"]
    assert type(own) is replaced
    for kind in ("payload", "view", "array"):
        for copy in (source.copy_simple, source.copy_format, source.copy_direct):
            source.copy_simple(bytes(64))
            assert copy(names[kind]) is True
            assert bytes(own) == names["payload"], (kind, copy)
    assert source.view_array(own).tobytes() == names["payload"]
    before = sys.getrefcount(source), sys.getrefcount(replaced)
    for _ in range(1000):
        source.receive_replaced()
        source.receive_subclass()
        source.receive_tracked()
        source.receive_fresh()
        source.receive_headless()
    assert (sys.getrefcount(source), sys.getrefcount(replaced)) == before, "a reference leaks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--core", type=int, help="pin to this core")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200_000)
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    with tempfile.TemporaryDirectory() as directory:
        measured = cases(build(Path(directory)))
        rounds: list[list[float]] = [[] for _ in measured]
        for _ in range(options.rounds):
            for samples, (_, _, run) in zip(rounds, measured, strict=True):
                samples.append(run(options.calls))
    empty = statistics.median(rounds[0])
    figures = [
        {"group": group, "name": name, "ns": statistics.median(samples), "ns_min": min(samples)}
        for (group, name, _), samples in zip(measured, rounds, strict=True)
    ]
    print(f"ns per call: median of {options.rounds} interleaved rounds; net: without the empty loop")
    for figure in figures:
        label = f"{figure['group']:10} {figure['name']:46}"
        net = figure["ns"] - empty
        print(f"{label} {figure['ns']:7.1f}  net {net:7.1f}  min {figure['ns_min']:7.1f}")
    if options.json:
        versions = {
            "python": platform.python_version(),
            "nanobind": nanobind.__version__,
            "numpy": np.__version__,
        }
        options.json.write_text(json.dumps({"versions": versions, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
