"""Channels over TCP on the loopback interface, next to bare sockets and pyzmq.

    python benchmarks/network.py [--json FILE] [--rounds N] [--cores A B] [--only WORD ...]

Two pinned processes. Messages of 1 MiB beside a sendall() and recv_into() loop, and with TLS 1.3 beside the same loop
on ssl sockets; messages of 64 bytes beside pyzmq; round trips of 64 bytes beside an echo of blocking sockets and of
asyncio streams. Targets: 1 MiB at least 0.95 times, 64 bytes at least 5 times, round trips at most 1.2 times.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl
import tempfile
import time
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import peers
from harness import (
    Figures,
    expect,
    installed,
    interleaved,
    machine,
    median_of,
    options,
    percentiles,
    play_role,
    private_channels,
    ratio,
    run_roles,
    write,
)
from workload import PERIOD, Words, payloads, receive_all, receive_and_compare, send_all

import psyne
from psyne import Array

MEGABYTE = 1 << 20
Large = Array("u8", MEGABYTE // 8)
WARM_UP = 64  # large messages
HOST = "127.0.0.1"
now = time.perf_counter_ns


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def address(port: int) -> str:
    return f"tcp://{HOST}:{port}"


def connected(port: int) -> socket.socket:
    """As a connecting end does, it waits for who is bound."""
    while True:
        try:
            one = socket.create_connection((HOST, port))
        except ConnectionRefusedError:
            time.sleep(0.001)
            continue
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return one


def accepted(port: int) -> socket.socket:
    with socket.create_server((HOST, port)) as listening:
        one, _ = listening.accept()
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


# ------------------------------------------------------------------------ large messages


def tls_of(certificates: str | None, side: str) -> Figures:
    if certificates is None:
        return {}
    where = Path(certificates)
    if side == "server":
        return {"tls": psyne.Tls(cert=where / "cert.pem", key=where / "key.pem")}
    return {"tls": psyne.Tls(ca=where / "ca.pem", server_name=HOST)}


def send_large(port: int, messages: int, checksum: bool, certificates: str | None) -> None:
    with psyne.sender(address(port), Large, checksum=checksum, **tls_of(certificates, "client")) as out:
        for number in range(WARM_UP + messages):
            with out.loan() as loan:
                loan.array[0] = loan.array[-1] = number
        out.drain()


def receive_large(port: int, messages: int, checksum: bool, certificates: str | None) -> Figures:
    with psyne.receiver(address(port), Large, bind=True, checksum=checksum, **tls_of(certificates, "server")) as source:
        for number in range(WARM_UP + messages):
            if number == WARM_UP:
                start = time.perf_counter()
            with source.receive() as message:
                check(message.array, number)
        return {"per_second": messages / (time.perf_counter() - start)}


def check(array: Any, number: int) -> None:
    if array[0] != number or array[-1] != number:
        expect([int(array[0]), int(array[-1])], [number] * 2, f"large message {number}")


def bare_send_large(port: int, messages: int, certificates: str | None) -> None:
    out = connected(port)
    if certificates is not None:
        context = ssl.create_default_context(cafile=f"{certificates}/ca.pem")
        out = context.wrap_socket(out, server_hostname=HOST)
    array = np.zeros(MEGABYTE // 8, "u8")
    view = memoryview(array).cast("B")
    for number in range(WARM_UP + messages):
        array[0] = array[-1] = number
        out.sendall(view)
    out.recv(1)
    out.close()


def bare_receive_large(port: int, messages: int, certificates: str | None) -> Figures:
    source = accepted(port)
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{certificates}/cert.pem", f"{certificates}/key.pem")
        source = context.wrap_socket(source, server_side=True)
    array = np.zeros(MEGABYTE // 8, "u8")
    view = memoryview(array).cast("B")
    for number in range(WARM_UP + messages):
        if number == WARM_UP:
            start = time.perf_counter()
        there = 0
        while there < MEGABYTE:
            there += source.recv_into(view[there:])
        check(array, number)
    seconds = time.perf_counter() - start
    source.sendall(b"!")
    source.close()
    return {"per_second": messages / seconds}


# ------------------------------------------------------------------------ small messages


def send_singles(port: int, messages: int) -> None:
    with psyne.sender(address(port), Words) as out:
        send_all(out, payloads(), PERIOD + messages)
        out.drain()


def receive_singles(port: int, messages: int) -> Figures:
    with psyne.receiver(address(port), Words, bind=True) as source:
        receive_and_compare(source, PERIOD)
        start = time.perf_counter()
        receive_all(source, messages)
        return {"per_second": messages / (time.perf_counter() - start)}


def send_batches(port: int, messages: int) -> None:
    batch = np.repeat(np.arange(PERIOD, dtype="u8"), 8).reshape(PERIOD, 8)
    with psyne.sender(address(port), Words) as out:
        for _ in repeat(None, messages // PERIOD + 1):
            out.send_many(batch)
        out.drain()


def receive_batches(port: int, messages: int) -> Figures:
    """All of every message is compared."""
    wanted = np.repeat(np.arange(PERIOD, dtype="u8"), 8).reshape(PERIOD, 8)
    received, counted, start = 0, 0, 0.0
    with psyne.receiver(address(port), Words, bind=True) as source:
        while received < messages + PERIOD:
            with source.receive_many(PERIOD) as taken:
                array, at = taken.array, received % PERIOD
                first = array[: PERIOD - at]
                same = (first == wanted[at : at + len(first)]).all() and (
                    array[PERIOD - at :] == wanted[: len(array) - len(first)]
                ).all()
                expect(bool(same), True, f"messages from {received} on")
                received += len(array)
                del array, first
            if not start and received >= PERIOD:
                start, counted = time.perf_counter(), received
        return {"per_second": (received - counted) / (time.perf_counter() - start)}


# ------------------------------------------------------------------------ there and back


def ping(there: int, back: int, trips: int, wait: str) -> Figures:
    times, words = np.zeros(trips + trips // 10, "i8"), np.zeros(8, "u8")
    view = memoryview(words)
    with (
        psyne.receiver(address(back), Words, bind=True, wait=wait) as source,
        psyne.sender(address(there), Words) as out,
    ):
        for number in range(len(times)):
            words[:] = number
            start = now()
            out.send(view)
            message = source.receive()
            times[number] = now() - start
            expect(int(message.array[7]), number, "the answer")
            message.release()
        out.drain()
    return percentiles(times[trips // 10 :])


def pong(there: int, back: int, trips: int, wait: str) -> None:
    with (
        psyne.receiver(address(there), Words, bind=True, wait=wait) as source,
        psyne.sender(address(back), Words) as out,
    ):
        for _ in repeat(None, trips + trips // 10):
            with source.receive() as message:
                out.send(message.array)
        out.drain()


def bare_ping(there: int, back: int, trips: int, wait: str) -> Figures:
    times, words, answer = np.zeros(trips + trips // 10, "i8"), np.zeros(8, "u8"), np.zeros(8, "u8")
    view, into = memoryview(words).cast("B"), memoryview(answer).cast("B")
    with connected(there) as both:
        for number in range(len(times)):
            words[:] = number
            start = now()
            both.sendall(view)
            n = both.recv_into(into)
            times[number] = now() - start
            expect((n, int(answer[7])), (64, number), "the answer")
    return percentiles(times[trips // 10 :])


def bare_pong(there: int, back: int, trips: int, wait: str) -> None:
    view = memoryview(bytearray(64))
    with accepted(there) as both:
        for _ in repeat(None, trips + trips // 10):
            both.recv_into(view)
            both.sendall(view)
        both.recv(1)


async def aio_ping_both(there: int, back: int, trips: int) -> Figures:
    times, words = np.zeros(trips + trips // 10, "i8"), np.zeros(8, "u8")
    view = memoryview(words)
    async with (
        psyne.aio.receiver(address(back), Words, bind=True) as source,
        psyne.aio.sender(address(there), Words) as out,
    ):
        for number in range(len(times)):
            words[:] = number
            start = now()
            await out.send(view)
            message = await source.receive()
            times[number] = now() - start
            expect(int(message.array[7]), number, "the answer")
            message.release()
        await out.drain()
    return percentiles(times[trips // 10 :])


async def aio_pong_both(there: int, back: int, trips: int) -> None:
    async with (
        psyne.aio.receiver(address(there), Words, bind=True) as source,
        psyne.aio.sender(address(back), Words) as out,
    ):
        for _ in repeat(None, trips + trips // 10):
            with await source.receive() as message:
                await out.send(message.array)
        await out.drain()


async def streams_ping(there: int, trips: int) -> Figures:
    times, words = np.zeros(trips + trips // 10, "i8"), np.zeros(8, "u8")
    reader, writer = await asyncio.open_connection(sock=connected(there))
    for number in range(len(times)):
        words[:] = number
        start = now()
        writer.write(memoryview(words).cast("B"))
        await writer.drain()
        answer = await reader.readexactly(64)
        times[number] = now() - start
        expect(answer, words.tobytes(), "the answer")
    writer.close()
    return percentiles(times[trips // 10 :])


async def streams_pong(there: int, trips: int) -> None:
    reader, writer = await asyncio.open_connection(sock=accepted(there))
    for _ in repeat(None, trips + trips // 10):
        writer.write(await reader.readexactly(64))
        await writer.drain()
    await reader.read(1)
    writer.close()


def aio_ping(there: int, back: int, trips: int, wait: str) -> Figures:
    return asyncio.run(aio_ping_both(there, back, trips))


def aio_pong(there: int, back: int, trips: int, wait: str) -> None:
    asyncio.run(aio_pong_both(there, back, trips))


def bare_aio_ping(there: int, back: int, trips: int, wait: str) -> Figures:
    return asyncio.run(streams_ping(there, trips))


def bare_aio_pong(there: int, back: int, trips: int, wait: str) -> None:
    asyncio.run(streams_pong(there, trips))


# ------------------------------------------------------------------------ the run

ROLES = (
    send_large, receive_large, bare_send_large, bare_receive_large, send_singles, receive_singles, send_batches,
    receive_batches, ping, pong, bare_ping, bare_pong, aio_ping, aio_pong, bare_aio_ping, bare_aio_pong,
)  # fmt: skip

# Figure of the first over that of the second, and what it is to be.
COMPARED = [
    ("1 MiB", "1 MiB, bare", "per_second", "at least 0.95"),
    ("1 MiB, checksum", "1 MiB, bare", "per_second", ""),
    ("1 MiB, TLS", "1 MiB, bare TLS", "per_second", ""),
    ("64 B", "64 B, pyzmq", "per_second", "at least 5"),
    ("64 B, send_many", "64 B, pyzmq", "per_second", "at least 5"),
    ("round trip", "round trip, bare", "p50", "at most 1.2"),
    ("round trip, block", "round trip, bare", "p50", "at most 1.2"),
    ("round trip, aio", "round trip, asyncio", "p50", "at most 1.2"),
]


def make_certificates(directory: str) -> None:
    import trustme

    ca = trustme.CA()
    mine = ca.issue_cert(HOST)
    mine.private_key_pem.write_to_path(f"{directory}/key.pem")
    mine.cert_chain_pems[0].write_to_path(f"{directory}/cert.pem")
    ca.cert_pem.write_to_path(f"{directory}/ca.pem")


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--large", type=int, default=4000, help="messages of 1 MiB per round")
        parser.add_argument("--small", type=int, default=2048 * PERIOD, help="messages of 64 bytes per round")
        parser.add_argument("--trips", type=int, default=20_000, help="round trips per round")
        parser.add_argument("--only", nargs="*", default=[""], help="cases whose names have one of these words")

    chosen = options(__doc__, more)
    first, second = chosen.cores
    small = chosen.small // PERIOD * PERIOD

    def one_way(prefix: str, suffix: str, messages: int, **arguments: Any) -> Figures:
        arguments.update(port=free_port(), messages=messages)
        return run_roles(
            __file__, (f"{prefix}send_{suffix}", first, arguments), (f"{prefix}receive_{suffix}", second, arguments)
        )[1]

    def both_ways(prefix: str, wait: str = "adaptive") -> Figures:
        arguments = {"there": free_port(), "back": free_port(), "trips": chosen.trips, "wait": wait}
        return run_roles(__file__, (f"{prefix}ping", first, arguments), (f"{prefix}pong", second, arguments))[0]

    def zmq() -> Figures:
        arguments = {"messages": max(small // 8 // PERIOD, 2) * PERIOD, "address": address(free_port())}
        return run_roles(peers.__file__, ("zmq_send", first, arguments), ("zmq_receive", second, arguments))[1]

    with private_channels(), tempfile.TemporaryDirectory() as directory:
        plain = {"certificates": None}
        cases: dict[str, Any] = {
            "1 MiB, bare": lambda: one_way("bare_", "large", chosen.large, **plain),
            "1 MiB": lambda: one_way("", "large", chosen.large, checksum=False, **plain),
            "1 MiB, checksum": lambda: one_way("", "large", chosen.large, checksum=True, **plain),
            "64 B": lambda: one_way("", "singles", small),
            "64 B, send_many": lambda: one_way("", "batches", 4 * small),
            "round trip, bare": lambda: both_ways("bare_"),
            "round trip": lambda: both_ways(""),
            "round trip, block": lambda: both_ways("", "block"),
            "round trip, asyncio": lambda: both_ways("bare_aio_"),
            "round trip, aio": lambda: both_ways("aio_"),
        }
        if installed("zmq"):
            cases["64 B, pyzmq"] = zmq
        if installed("trustme"):
            make_certificates(directory)
            tls = {"certificates": directory}
            few = max(chosen.large // 4, 1)
            cases["1 MiB, bare TLS"] = lambda: one_way("bare_", "large", few, **tls)
            cases["1 MiB, TLS"] = lambda: one_way("", "large", few, checksum=False, **tls)
        cases = {name: case for name, case in cases.items() if any(word in name for word in chosen.only)}
        rounds = interleaved(chosen.rounds, cases)

    medians = {name: median_of(one) for name, one in rounds.items()}
    print(f"medians of {chosen.rounds} interleaved rounds; ratios: medians of the rounds' own")
    for name, figures in medians.items():
        if "p50" in figures:
            print(f"{name:20} {figures['p50'] / 1e3:10.1f} us   (p99 {figures['p99'] / 1e3:.1f})")
        else:
            print(f"{name:20} {figures['per_second']:10,.0f} messages/s")
    ratios = {}
    for over, under, key, target in COMPARED:
        if over in rounds and under in rounds:
            ratios[f"{over} / {under}"] = ratio(rounds, over, under, key)
            print(f"{over + ' / ' + under:40} {ratios[f'{over} / {under}']:8.2f}x   {target}")
    write(chosen.json, {"machine": machine(chosen.cores), "figures": medians, "ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    play_role({role.__name__: role for role in ROLES})
    main()
