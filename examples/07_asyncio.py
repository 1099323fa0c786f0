"""Tasks and messages: one task sends, others wait for messages, for a time-out and for the end, without a thread."""

import asyncio

import psyne
from psyne import Struct, u64

REQUESTS = 1000


class Request(Struct):
    number = u64()
    answer = u64()


async def ask(requests: psyne.aio.Sender[Request]) -> None:
    for number in range(REQUESTS):
        async with requests.loan() as m:  # waits for room; other tasks run meanwhile
            m.number = number
    await requests.drain()


async def work(name: str) -> int:
    done = 0
    async with psyne.aio.receiver("ipc://requests", Request) as requests:
        async for m in requests:  # each step ends the message before; the end of the channel ends the loop
            assert m.number < REQUESTS
            done += 1
            if done % 100 == 0:
                await asyncio.sleep(0)  # the other worker's turn
    return done


async def main() -> None:
    async with psyne.aio.sender("ipc://requests", Request, pattern="spmc", capacity=16) as requests:
        workers = [asyncio.create_task(work(name)) for name in ("first", "second")]
        await ask(requests)
    shares = await asyncio.gather(*workers)
    assert sum(shares) == REQUESTS
    print(f"{REQUESTS} requests, done by two tasks: {sorted(shares)}")
    async with psyne.aio.receiver("ipc://quiet", Request) as quiet:
        try:
            async with asyncio.timeout(0.1):  # cancelling is the time-out; it loses no message
                await quiet.receive()
        except TimeoutError:
            print("nothing came in 0.1 s, and the task was cancelled")


if __name__ == "__main__":
    asyncio.run(main())
