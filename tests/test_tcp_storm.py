"""Sessions over TCP between hosts whose links lose, delay and break: nothing is lost, and nothing comes twice."""

import random
import time
from typing import Any

import pytest

from .helpers.hosts import Host, network

PACKET = 256  # messages of one send_many

BOUND = """
rx = psyne.receiver("tcp://0.0.0.0:5000", psyne.Array("u8", ()), bind=True, token=token, session_timeout=600.0)
"""
CONNECTED = """
rx = psyne.receiver(f"tcp://{peer}:5000", psyne.Array("u8", ()), token=token, session_timeout=600.0)
"""
# Numbers in order: how many came, and the first that was not due, if there was one.
TAKE = """
came, wrong, begin = 0, None, None
for batch in rx.batches(4096):
    begin = begin or time.monotonic()
    numbers = batch.array
    if wrong is None and not (numbers == np.arange(came, came + len(numbers), dtype="u8")).all():
        wrong = came, numbers.tolist()[:4]
    came += len(numbers)
    del numbers
came, wrong, time.monotonic() - begin
"""
SEND = """
tx = psyne.sender(address, psyne.Array("u8", ()), token=token, session_timeout=600.0, linger=600.0, **options)
for begin in range(0, count, packet):
    tx.send_many(np.arange(begin, min(begin + packet, count), dtype="u8"))
tx.close()
"""
TOKEN = "between the hosts of a test"
PATIENCE = 3000.0


def storm(net: Any, sends: str, count: int, breaks: list[tuple[float, str, str]] | None = None) -> float:
    """Host a sends to host b: the side `sends` of the connection. Messages per second."""
    with Host(net, "a") as a, Host(net, "b") as b:
        values: dict[str, Any] = {"token": TOKEN, "count": count, "packet": PACKET}
        if sends == "C":
            b.run(BOUND, token=TOKEN)
            address, options = f"tcp://{b.address}:5000", {}
        else:
            b.run(CONNECTED, token=TOKEN, peer=a.address)
            address, options = "tcp://0.0.0.0:5000", {"bind": True}
        a.begin(SEND, address=address, options=options, **values)
        if breaks:
            net.schedule(breaks)
        b.begin("import time\n" + TAKE)
        came, wrong, seconds = b.result(PATIENCE)
        a.result(PATIENCE)
    assert wrong is None
    assert came == count
    print(f"{count} messages from {sends} in {seconds:.1f} s, {count / seconds:.0f}/s")
    return float(count / seconds)


def link_failures(chance: random.Random, seconds: float, host: str = "b") -> list[tuple[float, str, str]]:
    """A link that is down for a while, again and again."""
    steps, at = [], 0.2
    while at < seconds:
        down = chance.uniform(0.1, 0.6)
        steps += [(at, "down", host), (at + down, "up", host)]
        at += down + chance.uniform(0.2, 0.6)
    return steps


both_ways = pytest.mark.parametrize("sends", ["C", "S"])


@both_ways
def test_links_that_lose_packets_lose_no_messages(sends: str) -> None:
    with network("a", "b", seed=7) as net:
        net.link(loss=0.01, delay=0.001)
        storm(net, sends, 50_000)
        assert net.counts("a")["out"]["lost"] + net.counts("b")["out"]["lost"] > 0


@both_ways
def test_links_that_go_down_and_up_lose_no_messages(sends: str) -> None:
    with network("a", "b", seed=7) as net:
        net.link(delay=0.002, jitter=0.001, loss=0.002, duplicate=0.002, reorder=0.002)
        storm(net, sends, 100_000, link_failures(random.Random(7), 3.0))


def test_three_hosts_through_one_in_the_middle_lose_no_messages() -> None:
    middle = """
import threading
kind = psyne.Array("u8", ())
rx = psyne.receiver("tcp://0.0.0.0:5000", kind, bind=True, token=token, session_timeout=600.0)
tx = psyne.sender(f"tcp://{peer}:5000", kind, token=token, session_timeout=600.0, linger=600.0)
"""
    forward = """
for batch in rx.batches(256):
    tx.send_many(batch.array)
tx.close()
"""
    with network("a", "b", "c", seed=7) as net, Host(net, "a") as a, Host(net, "b") as b, Host(net, "c") as c:
        net.link(delay=0.001, loss=0.01)
        c.run(BOUND, token=TOKEN)
        b.run(middle, token=TOKEN, peer=c.address)
        b.begin(forward)
        a.begin(SEND, address=f"tcp://{b.address}:5000", options={}, token=TOKEN, count=50_000, packet=PACKET)
        net.schedule([(0.3, "down", "b"), (0.6, "up", "b"), (0.9, "down", "c"), (1.2, "up", "c")])
        came, wrong, _ = c.run("import time\n" + TAKE)
        assert (came, wrong) == (50_000, None)
        a.result()
        b.result()


@both_ways
def test_a_link_that_is_down_for_longer_than_the_heartbeat_allows_is_a_new_connection(sends: str) -> None:
    with network("a", "b", seed=7) as net, Host(net, "a") as a, Host(net, "b") as b:
        options = {"heartbeat": 0.1, "token": TOKEN, "session_timeout": 600.0, "linger": 0.2}
        bound = f"psyne.{'receiver' if sends == 'C' else 'sender'}('tcp://0.0.0.0:5000', Number, bind=True, **options)"
        joins = f"psyne.{'sender' if sends == 'C' else 'receiver'}(f'tcp://{{peer}}:5000', Number, **options)"
        a.run(f"end = {bound}", options=options)
        b.run(f"end = {joins}", options=options, peer=a.address)
        tx, rx = (b, a) if sends == "C" else (a, b)
        tx.run("for n in range(10): end.send(Number(n=n))")
        take = "[next(got) for _ in range(10)]"
        rx.run("got = (int(m.n) for m in end)")
        assert rx.run(take) == list(range(10))
        net.down("b")
        tx.run("for n in range(10, 20): end.send(Number(n=n))")
        time.sleep(1.0)  # three heartbeats and more
        net.up("b")
        assert rx.run(take) == list(range(10, 20))
        rx.run("end.close()")
        tx.run("end.close()")


@both_ways
@pytest.mark.long
@pytest.mark.watchdog(PATIENCE)
def test_a_million_messages_over_links_that_lose_a_hundredth(sends: str) -> None:
    with network("a", "b", seed=7) as net:
        net.link(loss=0.01)
        storm(net, sends, 1_000_000)


@both_ways
@pytest.mark.long
@pytest.mark.watchdog(PATIENCE)
def test_ten_million_messages_over_links_that_delay_and_go_down(sends: str) -> None:
    with network("a", "b", seed=7) as net:
        net.link(delay=0.002, jitter=0.002)
        storm(net, sends, 10_000_000, link_failures(random.Random(7), 60.0))
