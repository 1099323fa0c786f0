"""One stage, several members: they share its messages out. The answers come back on a second channel."""

import collections
import multiprocessing
import os
from threading import Barrier

import psyne
from psyne import Struct, u64

JOBS, WORKERS = 200, 3


class Job(Struct):
    number = u64()


class Answer(Struct):
    number = u64()
    result = u64()
    worker = u64()


def compute(number: int) -> int:
    return sum(i * i for i in range(number * 50))


def work(all_here: Barrier) -> None:
    jobs = psyne.receiver("ipc://jobs", Job)
    all_here.wait()  # a late one would wait for the next channel of that name
    with psyne.sender("ipc://answers", Answer) as answers:  # many senders, one receiver: the default pattern
        for job in jobs:
            answers.send(Answer(number=job.number, result=compute(job.number), worker=os.getpid()))
        answers.drain()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    all_here = context.Barrier(WORKERS + 1)
    workers = [context.Process(target=work, args=(all_here,)) for _ in range(WORKERS)]
    with psyne.sender("ipc://jobs", Job, pattern="spmc") as jobs:  # one sender, many members in a stage
        for process in workers:
            process.start()
        all_here.wait()
        for number in range(JOBS):
            jobs.send(Job(number=number))
        jobs.drain()  # all jobs are done; the end of the block ends the workers' loops
    with psyne.receiver("ipc://answers", Answer) as received:
        answers = [m.copy() for m in received]
    for process in workers:
        process.join()
        assert process.exitcode == 0
    assert sorted((a.number, a.result) for a in answers) == [(n, compute(n)) for n in range(JOBS)]
    shares = collections.Counter(a.worker for a in answers)
    print(f"{JOBS} jobs, each done once; done by the workers: {list(shares.values())}")


if __name__ == "__main__":
    main()
