"""Channels of a host, offered to others: remote ends of ``ipc://`` channels, in processes of their own."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
import psyne.cli
from psyne import Array, Stage
from psyne.network.hosted import Lane
from psyne.network.serve import Serving
from psyne.types.schema import schema_of

from .helpers.certificates import HOST, write_files
from .helpers.process import Child, until
from .helpers.raw_peer import RawPeer

NUMBER = Array("u8", (4,))
TOKEN = "a token of more than sixteen bytes"
SENDER = "tx = psyne.sender(address, psyne.Array('u8', (4,)), **options)"
RECEIVER = "rx = psyne.receiver(address, psyne.Array('u8', (4,)), **options)"
SEND = "for n in range(first, first + count): tx.send(np.full(4, n, 'u8'))"
RECEIVE = """
got = []
while len(got) < count:
    with rx.receive(timeout=30) as m:
        got.append(int(m.array[0]))
"""
SERVE = """
import psyne.cli, sys
sys.argv[0] = "psyne"
raise SystemExit(psyne.cli.main(["serve", *sys.argv[1:]]))
"""


def client(stack: ExitStack, code: str, address: str, **options: Any) -> Child:
    """A process with a remote end."""
    child = stack.enter_context(Child())
    child.run(code, address=address, options=options)
    return child


def sends(tx: psyne.Sender[Any], first: int, count: int) -> None:
    for n in range(first, first + count):
        tx.send(np.full(4, n, "u8"))


def receives(rx: psyne.Receiver[Any] | psyne.Tap[Any], count: int) -> list[int]:
    got = []
    for _ in range(count):
        m = rx.receive(timeout=30)
        got.append(int(m.array[0]))
        del m
    return got


@pytest.fixture
def serving() -> Iterator[Serving]:
    with psyne.serve("tcp://127.0.0.1:0", session_timeout=0.5) as serving:
        yield serving


class Command:
    """The program `psyne serve`."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        stack.callback(self._gone)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("psyne serve: tcp://"), said or self.process.communicate()[1]
        self.address = said.split()[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, number: signal.Signals) -> str:
        """What it says last."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out

    def _gone(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


# ---- one channel, many kinds of ends -------------------------------------------------------------------------------


@pytest.mark.leaves_nothing
def test_local_and_remote_ends_share_one_channel() -> None:
    """A local and a remote sender; a local stage, a remote one behind it, and a remote tap."""
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0"))
        address = f"{serving.address}/numbers"
        tx = stack.enter_context(
            psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", stages=["first", "second"], capacity=256)
        )
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER, stage="first"))
        second = client(stack, RECEIVER, address, stage="second")
        tap = client(stack, "tap = psyne.tap(address, psyne.Array('u8', (4,)))", address)
        other = client(stack, SENDER, address)
        until(lambda: serving.statistics().connected == 3, "all to be connected")
        second.begin(RECEIVE, count=400)
        tap.begin(RECEIVE.replace("rx", "tap"), count=400)
        other.begin(SEND, first=1000, count=200)
        sends(tx, 0, 200)
        got = receives(rx, 400)
        other.result()
        second.result()
        tap.result()
        expected = [*range(200), *range(1000, 1200)]
        assert sorted(got) == sorted(second.run("got")) == sorted(tap.run("got")) == expected
        for numbers in (got, second.run("got"), tap.run("got")):
            assert [n for n in numbers if n < 1000] == list(range(200))
            assert [n for n in numbers if n >= 1000] == list(range(1000, 1200))
        other.run("tx.drain(30); tx.close()")
        tap.run("tap.close()")
        second.run("rx.close()")
        until(lambda: serving.statistics().connected == 0, "all to be gone")


def test_a_message_of_a_remote_sender_is_the_servers_own_to_local_ends(serving: Serving) -> None:
    """It has the time of the local commit, and that of its sender beside it."""
    with ExitStack() as stack:
        other = client(stack, SENDER, f"{serving.address}/numbers", timestamps=True)
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER, follow=True))
        other.run(SEND, first=7, count=1)
        with rx.receive(timeout=30) as m:
            assert m.array.tolist() == [7] * 4
            assert m.info.sequence == 0
        other.run("tx.close()")


def test_a_remote_sender_makes_the_channel_unless_that_is_forbidden() -> None:
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", create=False))
        other = client(stack, SENDER, f"{serving.address}/numbers")
        until(lambda: serving.statistics().refused > 0, "it to be refused")
        assert psyne.inspect("ipc://numbers") is None
        with psyne.sender("ipc://numbers", NUMBER, pattern="mpmc"), psyne.receiver("ipc://numbers", NUMBER) as rx:
            other.run(SEND, first=0, count=10)  # it has waited for a local sender to make it
            assert receives(rx, 10) == list(range(10))
            other.run("tx.close()")


def test_types_that_differ_are_told_field_by_field(serving: Serving) -> None:
    with ExitStack() as stack:
        stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc"))
        for code in ("tx.send(np.zeros(4, 'f4'))", "rx.receive(timeout=30)"):
            end = "psyne.sender" if code.startswith("tx") else "psyne.receiver"
            child = client(stack, f"{code[:2]} = {end}(address, psyne.Array('f4', (4,)))", f"{serving.address}/numbers")
            with pytest.raises(psyne.LayoutMismatch, match=r"u8|uint64"):
                child.run(f"import time\nwhile True: {code}; time.sleep(.01)")


# ---- the rules of the channel --------------------------------------------------------------------------------------


def test_where_the_pattern_has_no_place_a_remote_end_is_busy(serving: Serving) -> None:
    with ExitStack() as stack:
        stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="spsc"))
        stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        remote = psyne.receiver(f"{serving.address}/numbers", NUMBER)
        stack.callback(remote.close)
        with pytest.raises(psyne.ChannelBusy, match="pid"):
            remote.receive(timeout=30)
        tx = psyne.sender(f"{serving.address}/numbers", NUMBER)
        stack.callback(tx.close)
        with pytest.raises(psyne.ChannelBusy, match="pid"):
            until(lambda: tx.send(np.zeros(4, "u8")) and False, "it to raise")


def test_a_sender_that_vanished_without_a_word_leaves_its_place_to_the_next() -> None:
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", heartbeat=0.5, session_timeout=0.1))
        address = f"{serving.address}/numbers"
        first = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="spsc"))
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER, follow=True))
        vanished = stack.enter_context(RawPeer(serving.address))
        first.close()
        vanished.greet("numbers", schema=schema_of([NUMBER]))
        until(lambda: serving.statistics().connected == 1, "it to be there")
        tx = stack.enter_context(psyne.sender(address, NUMBER))
        until(lambda: serving.statistics().refused > 0, "it to hear that the place is taken")
        sends(tx, 0, 3)
        got = []
        while len(got) < 3:
            with suppress(psyne.SenderLost):
                got += receives(rx, 1)
        assert got == [0, 1, 2]


def test_a_place_that_may_come_free_is_one_of_the_same_channel() -> None:
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", session_timeout=1e6, linger=0))
        for name in ("here", "elsewhere"):
            stack.enter_context(psyne.sender(f"ipc://{name}", NUMBER, pattern="spsc"))
        stack.enter_context(psyne.receiver("ipc://here", NUMBER))
        with RawPeer(serving.address) as lost:
            lost.greet("elsewhere", "receiver")
            until(lambda: serving.statistics().connected == 1, "it to be there")
        until(lambda: serving.statistics().waiting == 1, "it to be gone")
        remote = stack.enter_context(psyne.receiver(f"{serving.address}/here", NUMBER))
        with pytest.raises(psyne.ChannelBusy):
            remote.receive(timeout=30)


def test_an_unknown_stage_is_answered_with_those_that_there_are(serving: Serving) -> None:
    with (
        psyne.sender("ipc://numbers", NUMBER, stages=["red", "blue"]),
        psyne.receiver(f"{serving.address}/numbers", NUMBER, stage="green") as rx,
        pytest.raises(psyne.InvalidArgument, match=r"red.*blue"),
    ):
        rx.receive(timeout=30)


def test_a_stage_that_mutates_has_no_remote_members(serving: Serving) -> None:
    with (
        psyne.sender("ipc://numbers", NUMBER, stages=[Stage("paint", mutate=True)]),
        psyne.receiver(f"{serving.address}/numbers", NUMBER, stage="paint") as rx,
        pytest.raises(psyne.InvalidArgument, match="in place"),
    ):
        rx.receive(timeout=30)


def test_a_remote_end_adds_a_stage_to_a_running_channel(serving: Serving) -> None:
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER))
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        sends(tx, 0, 5)
        assert receives(rx, 5) == list(range(5))
        log = client(stack, RECEIVER, f"{serving.address}/numbers", stage="log", new_stage=True)
        until(lambda: serving.statistics().connected == 1, "it to be there")
        log.begin(RECEIVE + "got", count=20)
        sends(tx, 5, 20)
        assert receives(rx, 20) == list(range(5, 25))
        assert log.result() == list(range(5, 25))
        seen = psyne.inspect("ipc://numbers")
        assert seen is not None
        assert [stage.name for stage in seen.stages] == ["main", "log"]


def test_only_channels_that_match_are_offered() -> None:
    with (
        psyne.serve("tcp://127.0.0.1:0", ["camera", "imu.*"]) as serving,
        psyne.sender("ipc://imu.left", NUMBER) as tx,
        psyne.sender("ipc://secret", NUMBER),
    ):
        with psyne.receiver(f"{serving.address}/imu.left", NUMBER) as rx:
            until(lambda: serving.statistics().connected == 1, "it to be there")
            sends(tx, 0, 1)
            assert receives(rx, 1) == [0]
        for name in ("/secret", "/imu", "/Camera"):
            with (
                psyne.receiver(f"{serving.address}{name}", NUMBER) as rx,
                pytest.raises(psyne.InvalidArgument, match=r"not offered.*camera, imu"),
            ):
                rx.receive(timeout=30)
        with (
            psyne.receiver(serving.address, NUMBER) as rx,
            pytest.raises(psyne.InvalidArgument, match="name a channel"),
        ):
            rx.receive(timeout=30)


def test_one_name_is_a_list_of_one() -> None:
    with (
        psyne.serve("tcp://127.0.0.1:0", "camera") as serving,
        psyne.sender("ipc://c", NUMBER),
        psyne.receiver(f"{serving.address}/c", NUMBER) as rx,
        pytest.raises(psyne.InvalidArgument, match=r"not offered.*; camera are"),
    ):
        rx.receive(timeout=30)


@pytest.mark.parametrize(
    ("address", "options", "error"),
    [
        ("tcp://127.0.0.1:0/camera", {}, psyne.InvalidArgument),
        ("ipc://camera", {}, psyne.InvalidArgument),
        ("tcp://0.0.0.0:0", {}, psyne.InsecureBind),
        ("tcp://127.0.0.1:0", {"channels": [1]}, psyne.InvalidArgument),
        ("tcp://127.0.0.1:0", {"max_connections": 0}, psyne.InvalidArgument),
        ("tcp://127.0.0.1:0", {"create": 1}, psyne.InvalidArgument),
        ("tcp://127.0.0.1:0", {"token": "short"}, psyne.InvalidArgument),
    ],
)
def test_what_cannot_work_is_said_at_once(address: str, options: dict[str, Any], error: type[Exception]) -> None:
    threads = threading.active_count()
    with pytest.raises(error):
        psyne.serve(address, **options)
    assert threading.active_count() == threads


def test_a_port_that_is_taken_is_said_at_once(serving: Serving) -> None:
    with pytest.raises(psyne.SystemFailure, match="cannot bind"):
        psyne.serve(serving.address)


# ---- ends that come and go -----------------------------------------------------------------------------------------


def test_what_a_killed_remote_member_had_not_passed_others_get(serving: Serving) -> None:
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", capacity=64))
        victim = client(stack, RECEIVER, f"{serving.address}/numbers")
        until(lambda: serving.statistics().connected == 1, "it to be there")
        sends(tx, 0, 40)
        victim.run(RECEIVE + "m = rx.receive(30)", count=10)
        victim.run("del m")
        until(lambda: _passed() >= 10, "its acknowledgements")
        passed = _passed()
        victim.kill()
        with psyne.receiver("ipc://numbers", NUMBER) as rx:
            got = receives(rx, 40 - passed)
            assert got == list(range(passed, 40))
            assert rx.try_receive() is None


def test_a_killed_remote_sender_is_a_lost_sender(serving: Serving) -> None:
    with ExitStack() as stack:
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        victim = client(stack, SENDER, f"{serving.address}/numbers")
        victim.run(SEND, first=0, count=20)
        assert receives(rx, 20) == list(range(20))
        victim.kill()
        with pytest.raises(psyne.SenderLost):
            rx.receive(timeout=30)


def test_a_remote_sender_that_closes_ends_the_channel(serving: Serving) -> None:
    with ExitStack() as stack:
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        other = client(stack, SENDER, f"{serving.address}/numbers")
        other.begin(SEND + "\ntx.drain(30); tx.close()", first=0, count=20)
        assert receives(rx, 20) == list(range(20))
        with pytest.raises(psyne.EndOfChannel):
            rx.receive(timeout=30)
        other.result()


def test_remote_receivers_hear_that_serve_has_closed_and_lose_nothing() -> None:
    with ExitStack() as stack:
        serving = psyne.serve("tcp://127.0.0.1:0")
        stack.callback(serving.close)
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", capacity=64))
        remote = client(stack, RECEIVER, f"{serving.address}/numbers")
        until(lambda: serving.statistics().connected == 1, "it to be there")
        sends(tx, 0, 30)
        remote.run("m = rx.receive(30)")
        remote.begin("got = [int(m.array[0])]; del m\nfor m in rx: got.append(int(m.array[0]))\ngot")
        serving.close()
        got = remote.result()
        assert got == list(range(len(got)))
        with psyne.receiver("ipc://numbers", NUMBER) as rx:  # what was not taken any more is here
            assert got + receives(rx, 30 - len(got)) == list(range(30))
            assert rx.try_receive() is None


def test_serve_waits_for_what_is_with_a_remote_receiver_when_it_closes() -> None:
    with ExitStack() as stack:
        serving = psyne.serve("tcp://127.0.0.1:0", linger=1e6)
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", capacity=64))
        remote = stack.enter_context(psyne.receiver(f"{serving.address}/numbers", NUMBER))
        sends(tx, 0, 1)
        held = remote.receive(timeout=30)
        closing = threading.Thread(target=serving.close)
        closing.start()
        with pytest.raises(psyne.EndOfChannel):
            remote.receive(timeout=30)
        until(lambda: all(peer.ended for peer in list(serving._bound.peers)), "the end to be understood")
        looked = threading.Event()
        serving._driver.soon(looked.set)
        assert looked.wait(60)
        assert not serving._bound.quiet.is_set()
        del held
        closing.join(60)
        assert not closing.is_alive()
        with psyne.receiver("ipc://numbers", NUMBER) as rx:
            assert rx.try_receive() is None


def test_what_a_remote_sender_had_sent_when_serve_closed_comes_once() -> None:
    with ExitStack() as stack:
        first = psyne.serve("tcp://127.0.0.1:0")
        stack.callback(first.close)
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER, follow=True))
        keep = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc"))
        remote = client(stack, SENDER, f"{first.address}/numbers", capacity=64)
        remote.run(SEND, first=0, count=30)
        assert receives(rx, 10) == list(range(10))
        first.close()
        with psyne.serve(first.address):
            remote.run(SEND, first=30, count=10)
            assert receives(rx, 30) == list(range(10, 40))
            assert rx.try_receive() is None
            remote.run("tx.drain(30); tx.close()")
        del keep


def test_a_forked_child_does_not_close_what_its_parent_serves() -> None:
    with Child() as child:
        address = child.run("serving = psyne.serve('tcp://127.0.0.1:0')\nserving.address")
        assert child.run("forked(serving.close)") is None
        with psyne.sender("ipc://numbers", NUMBER) as tx, psyne.receiver(f"{address}/numbers", NUMBER) as rx:
            sends(tx, 0, 1)
            assert receives(rx, 1) == [0]


def test_a_program_that_ends_without_a_word_tells_its_peers() -> None:
    with Child() as child, psyne.sender("ipc://numbers", NUMBER) as tx:
        address = child.run("serving = psyne.serve('tcp://127.0.0.1:0', linger=1e6)\nserving.address")
        with psyne.receiver(f"{address}/numbers", NUMBER) as rx:
            sends(tx, 0, 1)
            assert receives(rx, 1) == [0]
            child.finish()  # it has heard that all was taken in
            with pytest.raises(psyne.EndOfChannel):
                rx.receive(timeout=30)


@pytest.mark.leaves_nothing
def test_whatever_serve_had_is_closed_with_it() -> None:
    def open_files() -> int:
        gc.collect()
        files = []
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # that of the directory itself
                files.append(os.readlink(f"/proc/self/fd/{fd}"))
        return sum("deleted" not in file for file in files)

    def serves() -> None:
        with (
            psyne.serve("tcp://127.0.0.1:0") as serving,
            psyne.sender("ipc://numbers", NUMBER) as tx,
            psyne.receiver(f"{serving.address}/numbers", NUMBER) as rx,
        ):
            until(lambda: serving.statistics().connected == 1, "it to be there")
            sends(tx, 0, 3)
            assert receives(rx, 3) == [0, 1, 2]
        assert serving.closed
        serving.close()

    serves()  # the first one starts the threads that all share
    before = open_files(), threading.active_count()
    serves()
    until(lambda: (open_files(), threading.active_count()) <= before, "all to be closed")


def test_the_memory_of_a_remote_sender_goes_with_it() -> None:
    gc.collect()
    gc.disable()  # no cycle holds it
    try:
        with psyne.serve("tcp://127.0.0.1:0") as serving, psyne.receiver("ipc://numbers", NUMBER, follow=True) as rx:

            def comes_and_goes() -> None:
                with Child() as child:
                    child.run(SENDER, address=f"{serving.address}/numbers", options={})
                    child.run(SEND, first=0, count=10)
                    assert receives(rx, 10) == list(range(10))
                    child.run("tx.close()")
                until(lambda: not serving._bound.peers, "it to be gone")

            comes_and_goes()
            until(lambda: not [one for one in gc.get_objects() if type(one) is Lane], "its memory to be given back")
    finally:
        gc.enable()


@pytest.mark.parametrize("asks", [True, False])
def test_checksums_are_made_where_either_side_wants_them(asks: bool) -> None:
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", checksum=not asks))
        address = f"{serving.address}/numbers"
        there = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", stages=["here", "there"]))
        here = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER, stage="here"))
        tx = stack.enter_context(psyne.sender(address, NUMBER, checksum=asks))
        rx = stack.enter_context(psyne.receiver(address, NUMBER, stage="there", checksum=asks))
        sends(tx, 0, 50)
        assert receives(here, 50) == receives(rx, 50) == list(range(50))
        assert serving.statistics().refused == 0
        del there


def test_certificates_a_token_and_checksums_work_together(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    tls = psyne.Tls(files.cert, files.key, files.ca, server_name=HOST)
    options: dict[str, Any] = {"tls": tls, "token": TOKEN, "checksum": True}
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", **options))
        address = f"{serving.address}/numbers"
        there = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", stages=["here", "there"]))
        here = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER, stage="here"))
        tap = stack.enter_context(psyne.tap(address, NUMBER, **options))
        tx = stack.enter_context(psyne.sender(address, NUMBER, **options))
        rx = stack.enter_context(psyne.receiver(address, NUMBER, stage="there", **options))
        until(lambda: serving.statistics().connected == 3, "all to be there")
        for first in range(0, 500, 50):
            sends(tx, first, 50)
            assert receives(here, 50) == receives(rx, 50) == receives(tap, 50) == list(range(first, first + 50))
        for wrong in ({"token": TOKEN[::-1]}, {"tls": psyne.Tls(files.other_cert, files.other_key, files.ca)}):
            with (
                psyne.receiver(address, NUMBER, **options | wrong) as stranger,
                pytest.raises(psyne.AuthenticationFailed),
            ):
                stranger.receive(timeout=30)
        sends(tx, 500, 1)
        assert receives(here, 1) == receives(rx, 1) == receives(tap, 1) == [500]
        del there


# ---- the program ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_ends_cleanly_by_a_signal(number: signal.Signals) -> None:
    with ExitStack() as stack:
        program = Command(stack, "tcp://127.0.0.1:0", "numbers")
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc"))
        with psyne.receiver(f"{program.address}/numbers", NUMBER) as rx:
            sends(tx, 0, 5)
            assert receives(rx, 5) == list(range(5))
            assert program.end(number).startswith("psyne serve: stopped; accepted 1, refused 0")
            with pytest.raises(psyne.EndOfChannel):
                rx.receive(timeout=30)


def test_clients_of_a_killed_program_go_on_with_the_next_one(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = Command(stack, "tcp://127.0.0.1:0")
        address = f"{first.address}/numbers"
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", capacity=64))
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        remote = client(stack, SENDER, address)
        remote.run(SEND + "\ntx.drain(30)", first=0, count=0)
        remote.run(SEND, first=0, count=10)
        assert receives(rx, 10) == list(range(10))
        remote.run("tx.drain(30)")
        first.kill()
        Command(stack, first.address)
        remote.run(
            "for n in range(10, 20):\n"
            "    while True:\n"
            "        try: tx.send(np.full(4, n, 'u8'))\n"
            "        except psyne.SessionReset: continue\n"
            "        break"
        )
        got: list[int] = []
        while len(got) < 10:
            try:
                got += receives(rx, 1)
            except psyne.SenderLost:  # the lane that the killed program had
                continue
        assert got == list(range(10, 20))
        assert tx.statistics() is not None
        remote.run("tx.close()")


def test_the_program_takes_a_token_and_certificates(tmp_path: Path) -> None:
    files, secret = write_files(tmp_path), tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    with ExitStack() as stack:
        program = Command(
            stack, "tcp://127.0.0.1:0", "--token-file", str(secret), "--cert", str(files.cert), "--key", str(files.key),
            "--ca", str(files.ca), "--checksum", "--max-connections", "16", "--linger", "1",
        )  # fmt: skip
        tls = psyne.Tls(files.cert, files.key, files.ca, server_name=HOST)
        tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc"))
        with psyne.receiver(f"{program.address}/numbers", NUMBER, tls=tls, token=TOKEN) as rx:
            sends(tx, 0, 5)
            assert receives(rx, 5) == list(range(5))
        with (
            psyne.receiver(f"{program.address}/numbers", NUMBER, tls=tls, token=TOKEN[::-1]) as rx,
            pytest.raises(psyne.AuthenticationFailed),
        ):
            rx.receive(timeout=30)
        assert "refused 1" in program.end(signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tcp://0.0.0.0:0",), "token"),
        (("tcp://127.0.0.1:0", "--token-file", "/nowhere"), "/nowhere"),
        (("camera",), "tcp://host:port"),
    ],
)
def test_the_program_says_what_cannot_work(arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run([sys.executable, "-c", SERVE, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("psyne serve: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--max-connections", "4", "camera", "imu.*"), ("camera", "--checksum", "imu.*")]
)
def test_the_names_of_channels_may_stand_anywhere(arguments: tuple[str, ...]) -> None:
    with ExitStack() as stack:
        program = Command(stack, "tcp://127.0.0.1:0", *arguments)
        with (
            psyne.receiver(f"{program.address}/secret", NUMBER) as rx,
            pytest.raises(psyne.InvalidArgument, match=r"not offered.*camera, imu"),
        ):
            rx.receive(timeout=30)


def test_an_option_that_the_program_does_not_know_ends_it() -> None:
    with pytest.raises(SystemExit):
        psyne.cli.main(["serve", "tcp://127.0.0.1:0", "camera", "--chekcsum"])
    with pytest.raises(SystemExit):
        psyne.cli.main(["ls", "camera"])


def _passed() -> int:
    seen = psyne.inspect("ipc://numbers")
    return 0 if seen is None else seen.stages[0].passed
