"""One stage, several members: they share its messages out. The answers come back on a second channel."""

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
    all_here.wait()  # who comes after the end would wait for the next channel of that name
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
        jobs.drain()  # every job was done; leaving the block ends the workers' loops
    results, shares = {}, dict.fromkeys([process.pid for process in workers], 0)
    with psyne.receiver("ipc://answers", Answer) as answers:
        for m in answers:
            assert m.number not in results, "a job was done twice"
            results[m.number] = m.result
            shares[m.worker] += 1
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0] * WORKERS
    assert results == {number: compute(number) for number in range(JOBS)}
    print(f"{JOBS} jobs, each done once; done by the workers: {list(shares.values())}")


if __name__ == "__main__":
    main()
