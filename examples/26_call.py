"""A small embedding service: an asyncio front-end calls, worker processes answer by writing into the very slot."""

import asyncio
import multiprocessing

import numpy as np

import psyne
from psyne import Stage, Struct, f32, u32

TEXTS = 400
TOKENS, WIDTH = 16, 8


class Request(Struct):
    count = u32()
    tokens = u32(TOKENS)
    embedding = f32(WIDTH)  # the answer has its place beside the question


TABLE = np.random.default_rng(1).normal(size=(1000, WIDTH)).astype("f4")  # the "model"


def embed(tokens: np.ndarray) -> np.ndarray:
    return np.asarray(TABLE[tokens].mean(axis=-2))


def work() -> None:
    """A member of the stage. Several requests at once are one array: the model runs once for them."""
    with psyne.receiver("ipc://embed", Request, stage="embed") as requests:
        for batch in requests.batches(32):
            batch["embedding"] = embed(batch["tokens"])


def tokenise(text: str) -> list[int]:
    return [sum(map(ord, word)) % 1000 for word in text.split()]


async def handle(out: psyne.aio.Sender[Request], text: str) -> np.ndarray:
    """One request of a web server; any number of them run at once."""
    tokens = tokenise(text)
    request = Request(count=len(tokens))
    request.tokens[: len(tokens)] = tokens
    with await out.call(request) as done:  # the same slot, with what the worker wrote
        return done.embedding.copy()


async def serve(out: psyne.aio.Sender[Request]) -> None:
    texts = [f"text number {n} of many" for n in range(TEXTS)]
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(handle(out, text) for text in texts))
    for text, answer in zip(texts, answers, strict=True):
        tokens = np.zeros(TOKENS, "u4")
        tokens[:5] = tokenise(text)
        assert np.allclose(answer, embed(tokens))
    print(f"{TEXTS} requests at once, each got its own embedding of {WIDTH} numbers")


async def main() -> None:
    stages = [Stage("embed", mutate=True, on_crash="redeliver")]
    spawn = multiprocessing.get_context("spawn")
    async with psyne.aio.sender("ipc://embed", Request, stages=stages, pattern="spmc", capacity=64) as out:
        workers = [spawn.Process(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        await serve(out)
    for worker in workers:  # the sender has closed: their loops are over
        worker.join()


if __name__ == "__main__":
    asyncio.run(main())
