"""Forked children: ends of the parent are not theirs, and nothing that they do or drop touches what is shared."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import psyne

from .helpers.certificates import HOST, write_files
from .helpers.layouts import Number
from .helpers.process import Child, until

OPEN = """
tx = psyne.sender('ipc://family', Number, capacity=1)
rx = psyne.receiver('ipc://family')
tx.send(Number(n=7))
"""


@pytest.mark.parametrize(
    "use",
    [
        "tx.loan()",
        "tx.try_loan()",
        "tx.loan_many(1)",
        "tx.send(Number(n=1))",
        "tx.drain()",
        "rx.receive()",
        "rx.try_receive()",
        "rx.receive_many(1)",
        "rx.try_receive_many(1)",
        "next(iter(rx))",
    ],
)
def test_every_use_of_the_parents_ends_is_an_error_in_a_forked_child(use: str):
    with Child() as parent:
        parent.run(OPEN)
        with pytest.raises(psyne.ForkedError, match=r"ipc://family belongs to the parent process.*of its own"):
            raise parent.run(f"forked(lambda: {use})")
        assert parent.run("rx.receive().n") == 7


def test_an_open_loan_of_the_parent_cannot_be_sent_by_the_child():
    with Child() as parent:
        parent.run("tx = psyne.sender('ipc://family', Number, capacity=1); m = tx.loan(); m.n = 5")
        outcome = parent.run("forked(lambda: tx.send(m))")
        assert isinstance(outcome, psyne.ForkedError)
        parent.run("rx = psyne.receiver('ipc://family')")
        assert parent.run("rx.try_receive()") is None
        parent.run("tx.send(m)")
        assert parent.run("rx.receive().n") == 5


@pytest.mark.parametrize(
    "does",
    [
        "pass",  # it exits: all of its objects die
        "del m",
        "del view, m",
        "m.release()",
        "m.__exit__(None, None, None)",
        "rx.close()",
        "tx.close()",
        "del m, view, rx, tx",
    ],
)
def test_what_a_forked_child_drops_or_ends_stays_with_the_parent(does: str):
    with Child() as parent:
        parent.run(OPEN + "m = rx.receive(); view = m.array")
        parent.run(
            f"""
def in_child():
    global m, view, rx, tx
    {does}
    gc.collect()
forked(in_child)"""
        )
        assert parent.run("tx.try_loan()") is None  # still taken
        assert parent.run("m.n, int(view['n'])") == (7, 7)
        parent.run("del view; m.release(); tx.send(Number(n=8), timeout=0)")
        assert parent.run("rx.receive().n") == 8


def test_a_batch_and_a_loan_of_the_parent_survive_their_copies_in_the_child():
    with Child() as parent:
        parent.run(
            """
tx = psyne.sender('ipc://family', Number, capacity=8)
rx = psyne.receiver('ipc://family')
tx.send_many(np.arange(4, dtype='u8').view(Number.__layout__.dtype))
batch = rx.receive_many(4)
loan = tx.loan()
loan.n = 4
def in_child():
    global batch, loan
    del batch, loan
forked(in_child)
"""
        )
        assert parent.run("rx.try_receive()") is None
        assert parent.run("batch['n'].tolist()") == [0, 1, 2, 3]
        parent.run("tx.send(loan); batch.release()")
        assert parent.run("rx.receive().n") == 4


def test_a_forked_child_opens_ends_of_its_own():
    with (
        Child() as parent,
        psyne.sender("ipc://family", Number, pattern="mpmc") as tx,
        psyne.receiver("ipc://family") as rx,
    ):
        parent.run("tx = psyne.sender('ipc://family')")
        assert parent.run(
            """
def alone():
    with psyne.sender('ipc://family', Number) as mine:
        return mine.send(Number(n=1))
forked(alone)"""
        )
        parent.run("tx.send(Number(n=2))")
        tx.send(Number(n=3))
        assert sorted(rx.receive().n for _ in range(3)) == [1, 2, 3]


FORKED = "pid = os.fork()\nif pid == 0: os.read(os.pipe()[0], 1)\npid"  # a grandchild that waits for ever
STARTED = "import subprocess; subprocess.Popen(['sleep', 'infinity'], close_fds=False).pid"


@contextlib.contextmanager
def orphan(parent: Child, code: str) -> Iterator[None]:
    """A process that `parent` starts and that outlives it; killed in the end."""
    pid = parent.run(code)
    try:
        yield
        os.kill(pid, 0)  # it lives, and holds whatever it inherited
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("start", [FORKED, STARTED], ids=["forked", "started"])
def test_the_death_of_a_receiver_is_seen_although_its_child_lives(start: str):
    with (
        psyne.sender("ipc://family", Number, capacity=8, pattern="mpmc") as tx,
        psyne.receiver("ipc://family") as survivor,
        Child() as parent,
    ):
        parent.run("rx = psyne.receiver('ipc://family')")
        tx.send(Number(n=7))
        assert parent.run("m = rx.receive(); m.n") == 7
        with orphan(parent, start):
            parent.kill()
            with survivor.receive() as m:
                assert (m.n, m.info.redelivered) == (7, True)


@pytest.mark.parametrize("start", [FORKED, STARTED], ids=["forked", "started"])
def test_the_death_of_a_sender_is_seen_although_its_child_lives(start: str):
    with Child() as parent:
        parent.run("tx = psyne.sender('ipc://family', Number, capacity=8); tx.send(Number(n=7))")
        with psyne.receiver("ipc://family") as rx, orphan(parent, start):
            parent.kill()
            assert rx.receive().n == 7
            with pytest.raises(psyne.SenderLost):
                rx.receive()


LOOP = """
import asyncio
async def go():
    global tx
    tx = psyne.aio.sender(address, Number, tls=tls, heartbeat=3600)
    await tx.send(Number(n=7))
    await tx.drain()
loop = asyncio.new_event_loop()
loop.run_until_complete(go())
"""
THREAD = "tx = psyne.sender(address, Number, tls=tls, heartbeat=3600); tx.send(Number(n=7)); tx.drain()"


@pytest.mark.parametrize("send", [THREAD, LOOP], ids=["thread", "loop"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_death_of_a_sender_over_tcp_is_seen_although_its_child_lives(send: str, secure: bool, tmp_path: Path):
    files = write_files(tmp_path)
    tls = psyne.Tls(cert=files.cert, key=files.key) if secure else None
    far_tls = psyne.Tls(ca=files.ca, server_name=HOST) if secure else None
    far = psyne.receiver("tcp://127.0.0.1:0", Number, bind=True, tls=tls, heartbeat=3600, session_timeout=0.1)
    with far as rx, Child() as parent:
        parent.begin(send, address=rx.address, tls=far_tls)
        assert rx.receive().n == 7  # and let go, for which drain() waits
        parent.result()
        with orphan(parent, FORKED):
            parent.kill()
            with pytest.raises(psyne.SenderLost):
                rx.receive()


def can_bind(address: str) -> bool:
    try:
        psyne.receiver(address, Number, bind=True).close()
    except psyne.SystemFailure:
        return False
    return True


@pytest.mark.parametrize("bind", ["psyne.receiver(address, Number, bind=True)", "psyne.serve(address)"])
def test_the_port_of_a_dead_process_is_free_although_its_child_lives(bind: str):
    with Child() as parent:
        address = parent.run(f"rx = {bind}\nrx.address", address="tcp://127.0.0.1:0")
        with orphan(parent, FORKED):
            parent.kill()
            until(lambda: can_bind(address), "a free port")  # the child may have begun just now


def test_a_fork_of_a_process_with_many_open_ends_and_waiting_threads_is_harmless():
    with Child() as parent:
        parent.run(
            """
ends = [(psyne.sender(f'ipc://family{i}', Number, capacity=2), psyne.receiver(f'ipc://family{i}')) for i in range(10)]
seen = []
threads = [threading.Thread(target=lambda rx=rx: seen.extend(m.n for m in rx)) for _, rx in ends]
for thread in threads: thread.start()
for n in range(5):
    assert forked(lambda: 5) == 5
    for tx, _ in ends: tx.send(Number(n=n))
for tx, _ in ends: tx.close()
for thread in threads: thread.join()
"""
        )
        assert parent.run("sorted(seen)") == [n for n in range(5) for _ in range(10)]
