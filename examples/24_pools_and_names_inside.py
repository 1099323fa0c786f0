"""Ends as arguments of pools, and named channels inside one process. joblib is skipped if it is not installed."""

import importlib.util
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psyne
from psyne import Receiver, Sender, Struct, f64, u64

JOBS = 12


class Job(Struct):
    number = u64()


class Result(Struct):
    number = u64()
    root = f64()


def crunch(jobs: Receiver[Job], results: Sender[Result]) -> int:
    """The work of one member of a pool: it joins when it is here, and shares the jobs with the others."""
    done = 0
    with results:
        for job in jobs:
            results.send(Result(number=job.number, root=job.number**0.5))
            done += 1
    return done


def fill(jobs: Sender[Job]) -> None:
    with jobs:
        for n in range(JOBS):
            jobs.send(Job(number=n))


def executor() -> None:
    (out, jobs), (results, back) = psyne.channel(Job), psyne.channel(Result)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(crunch, jobs, results) for _ in range(2)]
        fill(out)
        assert sum(future.result() for future in futures) == JOBS
    assert sorted(m.number for m in back) == list(range(JOBS))


def jobs_of_joblib() -> None:
    from joblib import Parallel, delayed

    (out, jobs), (results, back) = psyne.channel(Job), psyne.channel(Result)
    fill(out)  # what was sent stays, although its sender has closed before anybody came
    done: Any = Parallel(n_jobs=2)(delayed(crunch)(jobs, results) for _ in range(2))
    assert sum(done) == JOBS
    assert sum(m.root**2 for m in back) > JOBS * (JOBS - 1) // 2 - 0.001


def names_inside_one_process() -> None:
    numbers: list[int] = []

    def read() -> None:
        with psyne.receiver("memory://jobs", Job) as jobs:  # as ipc://, but without a file and for nobody else
            numbers.extend(job.number for job in jobs)

    reader = threading.Thread(target=read)
    reader.start()
    with psyne.sender("memory://jobs", Job) as out:
        for n in range(JOBS):
            out.send(Job(number=n))
        out.drain()  # a channel with a name goes with its last end
    reader.join()
    assert numbers == list(range(JOBS))


if __name__ == "__main__":
    executor()
    if importlib.util.find_spec("joblib"):
        jobs_of_joblib()
    names_inside_one_process()
    print(f"{JOBS} jobs through a pool of concurrent.futures, one of joblib, and a channel of one process")
