#!/usr/bin/env python3
"""Check the models: every rule as written must hold over its complete state space, and every mutant must fail.

Each model names its runs in its first comment:
    @ holds  short|long  DEFINES             must pass; `long` ones run with --long only
    @ mutant NAME | DEFINES | REASON         must fail, with REASON in pan's report of it (`any error`: anything)
Over the `holds` runs of a model together, no statement may stay unreached: a rule that never ran was not checked.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN_LINE = re.compile(r"^@\s+(holds|mutant)\s+(.*)$", re.MULTILINE)
UNREACHED_LINE = re.compile(r"^\t.*\.pml:(\d+), state \d+, (\".*\")$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    model: Path
    defines: tuple[str, ...]
    mutant: str = ""  # empty: the rules as written
    reason: str = ""
    long: bool = False


@dataclass(frozen=True)
class Result:
    run: Run
    states: int
    seconds: float
    verdict: str
    expected: bool
    unreached: frozenset[tuple[int, str]] = frozenset()


def runs_of(model: Path) -> list[Run]:
    runs = []
    for kind, rest in RUN_LINE.findall(model.read_text()):
        if kind == "holds":
            length, *defines = rest.split()
            if length not in ("short", "long"):
                raise SystemExit(f"{model.name}: `@ holds {rest}` must say short or long first")
            runs.append(Run(model, tuple(defines), long=length == "long"))
        else:
            name, defines, reason = (part.strip() for part in rest.split("|"))
            runs.append(Run(model, tuple(defines.split()), mutant=name, reason=reason))
    if not runs:
        raise SystemExit(f"{model.name}: no `@ holds` or `@ mutant` line in it; see models/run.py")
    return runs


def compiler(run: Run) -> list[str]:
    if run.long:
        return ["cc", "-O2", "-DCOLLAPSE"]  # COLLAPSE: half the memory
    if run.mutant and shutil.which("tcc"):
        return ["tcc"]  # a mutant's run is over before an optimising compiler is
    return ["cc", "-O0" if run.mutant else "-Og"]  # -O1 compiles half a second longer and is no faster


def check(run: Run, megabytes: int, seconds: int) -> Result:
    defines = [f"-D{d}" for d in (*run.defines, *([run.mutant] if run.mutant else []))]
    with tempfile.TemporaryDirectory(prefix="psyne-models-") as folder:
        steps = [
            ["spin", "-a", *defines, str(run.model)],
            [*compiler(run), "-w", "-DSAFETY", f"-DMEMLIM={megabytes}", "-o", "pan", "pan.c"],
            ["./pan", "-m20000", "-w26" if run.long else "-w20"],
        ]
        for step in steps:
            try:
                done = subprocess.run(
                    step, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
                )
            except subprocess.TimeoutExpired:
                return Result(run, 0, seconds, f"{step[0]} ran longer than {seconds} s", False)
            if done.returncode != 0 and step is not steps[-1]:
                print(done.stdout, file=sys.stderr)
                return Result(run, 0, 0, f"{step[0]} refused the model", False)
    return judge(run, done.stdout)


def judge(run: Run, report: str) -> Result:
    states = re.search(r"(\d+) states, stored", report)
    elapsed = re.search(r"elapsed time ([\d.]+)", report)
    counted = (int(states[1]) if states else 0, float(elapsed[1]) if elapsed else 0.0)
    error = re.search(r"^pan:1: (.*?)(?: \(at depth \d+\))?$", report, re.MULTILINE)
    if run.mutant:
        failed_as_it_should = bool(error and (run.reason in error[1] or run.reason == "any error"))
        verdict = f"fails: {error[1]}" if error else "HOLDS, but must fail"
        return Result(
            run, *counted, verdict if failed_as_it_should else f"{verdict}; expected: {run.reason}", failed_as_it_should
        )
    if error:
        return Result(run, *counted, f"FAILS: {error[1]}", False)
    # Out of memory or depth, pan still says "errors: 0": only these lines tell that it did not see everything.
    if not re.search(r"errors: 0\b", report) or re.search(
        r"not completed|max search depth too small|out of memory|MEMLIM", report
    ):
        return Result(run, *counted, "INCOMPLETE: not all states seen", False)
    unreached = frozenset((int(line), text) for line, text in UNREACHED_LINE.findall(report) if "-end-" not in text)
    return Result(run, *counted, "holds", True, unreached)


def show(result: Result) -> None:
    run = result.run
    configuration = " ".join((f"[{run.mutant}]" if run.mutant else "", *run.defines)).strip()
    flag = "  " if result.expected else "✗ "
    cost = f"{result.states:>10,} {result.seconds:>6.1f} s"
    print(f"{flag}{run.model.stem:<11} {configuration:<72} {cost}  {result.verdict}", flush=True)


def inline_lines(model: Path) -> set[int]:
    """Lines inside `inline` bodies: pan lists each expansion of them apart, and not every one must be reached."""
    inside, depth = set(), 0
    for number, line in enumerate(model.read_text().splitlines(), 1):
        if depth or line.startswith("inline "):
            inside.add(number)
            depth += line.count("{") - line.count("}")
    return inside


def never_reached(results: list[Result]) -> list[str]:
    """The statements that no `holds` run of their model reached."""
    complaints = []
    for model in sorted({r.run.model for r in results}):
        seen = [r.unreached for r in results if r.run.model == model and not r.run.mutant and r.expected]
        skipped = inline_lines(model)
        for line, text in sorted(frozenset.intersection(*seen)) if seen else ():
            if line not in skipped:
                complaints.append(f"{model.name}:{line}: never reached: {text}")
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="the default: about a minute and a half on two cores")
    length.add_argument("--long", action="store_true", help="larger cases too, up to 10^7 states and 3 GB of memory")
    parser.add_argument("models", nargs="*", help="names of models (default: all)")
    options = parser.parse_args()

    missing = [tool for tool in ("spin", "cc") if not shutil.which(tool)]
    if missing:
        print(
            f"models: {' and '.join(missing)} not found; on Debian: apt-get install spin gcc libc6-dev", file=sys.stderr
        )
        return 2
    models = [HERE / f"{Path(name).stem}.pml" for name in options.models] or sorted(HERE.glob("*.pml"))
    unknown = [model.name for model in models if not model.exists()]
    if unknown:
        print(
            f"models: no {', '.join(unknown)}; there are {', '.join(sorted(m.stem for m in HERE.glob('*.pml')))}",
            file=sys.stderr,
        )
        return 2
    runs = [run for model in models for run in runs_of(model) if options.long or not run.long]

    print(f"  {'model':<11} {'configuration ([mutant])':<72} {'states':>10} {'time':>8}  result")
    results = []
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for result in pool.map(lambda run: check(run, 1200, 300), [run for run in runs if not run.long]):
            show(result)
            results.append(result)
    for run in (run for run in runs if run.long):  # one at a time: each may take most of the memory
        results.append(check(run, 2900, 3600))
        show(results[-1])

    complaints = never_reached(results)
    for line in complaints:
        print(line)
    unexpected = [r for r in results if not r.expected]
    caught = [r for r in results if r.run.mutant and r.expected]
    print(
        f"{len(results)} runs, {sum(r.states for r in results):,} states; mutants caught: {len(caught)} of "
        f"{sum(bool(r.run.mutant) for r in results)}; not as expected: {len(unexpected) + len(complaints)}"
    )
    return 1 if unexpected or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
