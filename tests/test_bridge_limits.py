"""What a bridge keeps, how it ends, and that nothing goes in circles."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, bridge
from psyne.bridges import Bridge, Bridged
from psyne.bridges.envelope import description
from psyne.bridges.horizon import BridgeSender
from psyne.bridges.inward import QUIET
from psyne.bridges.network import QUEUE
from psyne.types.schema import schema_of

from .helpers.bridging import COMMAND, KEY, Imu, Program, Source, both_ways, free_endpoint, imu, stamps
from .helpers.process import PATIENCE, run_program, sleeping, until

zenoh = pytest.importorskip("zenoh")

MIB = 1 << 20
Block = Array("u8", (MIB // 8,))
ZENOHS = 24 * MIB  # what Zenoh itself may take: its batches, what it puts together again, its threads
ROUTER = """
import sys, zenoh
config = zenoh.Config.from_json5(sys.argv[1])
session = zenoh.open(config)
print("there", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def endpoint() -> str:
    return free_endpoint()


@pytest.fixture
def far(tmp_path: Path) -> str:
    """A configuration of Zenoh as between two machines: no shared memory."""
    path = tmp_path / "zenoh.json5"
    path.write_text("{transport: {shared_memory: {enabled: false}}}", encoding="utf-8")
    return str(path)


def private(program: Program) -> int:
    """Bytes of memory that a process shares with nobody."""
    text = Path(f"/proc/{program.process.pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", text, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def most(program: Program, while_: Callable[[], object]) -> int:
    """The most private memory that it had at any time in a call."""
    done = threading.Event()
    seen = [private(program)]

    def look() -> None:
        while not done.wait(0.01):
            seen.append(private(program))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        while_()
    finally:
        done.set()
        looking.join()
    return max(seen)


def fill_up(out: Any, n: int = 1000) -> int:
    """Send blocks until there has been no room for a second; how many."""
    for k in range(n):
        try:
            out.send(np.full(MIB // 8, k, np.uint64), timeout=1)
        except psyne.Full:
            return k
    return n


def to_the_end(there: Any) -> list[int]:
    """The first number of each message."""
    got = []
    with suppress(psyne.EndOfChannel):
        while True:
            with there.receive(timeout=PATIENCE) as m:
                got.append(int(m.array[0]))
    return got


# ---- memory ---------------------------------------------------------------------------------------------


def test_while_a_receiver_stands_still_both_bridges_keep_a_few_messages_and_then_all_arrive(
    endpoint: str, far: str
) -> None:
    with (
        psyne.sender("ipc://here", Block, stages=["net"], capacity=4) as out,
        psyne.receiver("ipc://there", Block) as there,
        Program("ipc://here", f"zenoh://{KEY}", "--stage", "net", "--listen", endpoint, "--config", far) as source,
        Program(f"zenoh://{KEY}", "ipc://there", "--connect", endpoint, "--config", far) as target,
    ):
        out.send(np.zeros(MIB // 8, np.uint64))
        there.receive(timeout=PATIENCE).release()
        before = private(source), private(target)
        sent = 0

        def send() -> None:
            nonlocal sent
            sent = fill_up(out)

        after = most(source, send), private(target)
        assert sent < 1000
        assert after[0] - before[0] < ZENOHS
        assert QUEUE * MIB < after[1] - before[1] < (QUEUE + 1) * MIB + ZENOHS
        for k in range(sent):
            with there.receive(timeout=PATIENCE) as m:
                assert int(m.array[0]) == k


def test_a_tap_keeps_nothing_for_a_subscriber_that_stands_still(endpoint: str, far: str) -> None:
    with (
        psyne.sender("ipc://here", Block, stages=[], capacity=8) as out,
        Program("ipc://here", f"zenoh://{KEY}", "--listen", endpoint, "--config", far) as source,
        Source(endpoint, b"", "nobody") as other,
    ):
        slow = other.session.declare_subscriber(KEY, zenoh.handlers.FifoChannel(1))
        out.send(np.zeros(MIB // 8, np.uint64))

        def arrived() -> Any:
            out.send(np.zeros(MIB // 8, np.uint64))
            return slow.handler.try_recv()

        until(arrived, "a message")
        before = private(source)

        def send() -> None:
            for k in range(500):
                out.send(np.full(MIB // 8, k, np.uint64), timeout=PATIENCE)

        assert most(source, send) - before < ZENOHS
        slow.undeclare()


@pytest.mark.parametrize("size", [8, MIB // 8])
def test_what_comes_while_a_source_says_nothing_is_bounded_and_what_is_lost_is_counted(
    size: int, endpoint: str
) -> None:
    cls = Array("u8", (size,))
    n = 2000 if size == 8 else 64
    with (
        psyne.receiver("ipc://there", cls) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", max_bytes=MIB, listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([cls]), ""), answers=False) as source,
    ):
        carrier: Any = target._carrier
        for k in range(n):
            source.put(k, np.full(size, k, np.uint64).tobytes(), cls)
        until(lambda: carrier._kept_bytes > 2 * MIB - 8 * size - 2048, "as much as is kept")
        assert carrier._kept_bytes <= 2 * MIB  # max_bytes and one more
        source.answer()
        with there.receive(timeout=PATIENCE) as m:
            got = [int(m.array[0])]
        source.end(n)
        got += to_the_end(there)
        assert target.join(PATIENCE)
        seen = target.statistics()
        assert got == sorted(set(got))
        assert 0 < len(got) < n
        assert seen == Bridged(carried=len(got), missed=n - len(got), sources=1)


def test_the_end_of_a_source_is_kept_even_where_there_is_no_room(endpoint: str) -> None:
    n = 3000
    with (
        bridge(f"zenoh://{KEY}", "ipc://there", full="drop", max_bytes=MIB, listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), ""), answers=False) as source,
    ):
        for k in range(n):
            source.put(k, imu(k))
        source.end(n)
        carrier: Any = target._carrier
        until(lambda: carrier._kept and carrier._kept[-1][0].kind == zenoh.SampleKind.DELETE, "the end")
        source.answer()
        assert target.join(PATIENCE)
        seen = target.statistics()
        assert (seen.carried + seen.missed, seen.carried < n) == (n, True)


def test_only_so_many_sources_are_remembered(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psyne.bridges.inward.SOURCES", 2)
    said = description(schema_of([Imu]), "")
    with bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target:
        carrier: Any = target._carrier
        for number in (1, 2, 3):
            with Source(endpoint, said, number=number) as source:
                source.put(0, imu(0))
                until(lambda n=number: target.statistics().sources == n, "the source")
        assert list(carrier._sources) == [2, 3]


# ---- ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outward", [True, False])
@pytest.mark.leaves_nothing
def test_a_program_that_forgets_its_bridge_ends_as_if_it_had_closed_it(outward: bool, endpoint: str) -> None:
    source, target = ("ipc://here", f"zenoh://{KEY}") if outward else (f"zenoh://{KEY}", "ipc://there")
    done = run_program(f"import psyne; it = psyne.bridge({source!r}, {target!r}, listen=[{endpoint!r}]); print(it)")
    assert done.stdout == f"<psyne.Bridge {source} → {target}>\n"
    assert done.stderr == ""


def test_a_program_that_forgets_its_bridge_says_the_end_of_what_it_carried(endpoint: str) -> None:
    code = f"""
import psyne, time
out = psyne.sender("ipc://here", psyne.Array("u8", (3,)), stages=["net"])
running = psyne.bridge("ipc://here", "zenoh://{KEY}", stage="net", connect=[{endpoint!r}])
with out.loan() as m:
    m.array[:] = 7
while running.statistics().carried == 0:
    time.sleep(0.01)
"""
    with bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target:
        run_program(code)
        assert target.join(PATIENCE)  # SenderLost if it had not
        assert target.statistics() == Bridged(carried=1, sources=1)


def test_close_ends_a_bridge_in_both_directions_and_again_does_nothing(endpoint: str) -> None:
    target = bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint])
    source = bridge("ipc://here", f"zenoh://{KEY}", connect=[endpoint])
    for running in (source, target):
        assert not running.closed
        assert running.join(0.01) is False
        running.close()
        running.close()
        assert running.closed
        assert running.join()
        assert repr(running).endswith(", closed>")
        assert running.statistics() == Bridged()


def test_a_forked_child_leaves_the_bridge_of_its_parent_alone(endpoint: str) -> None:
    with bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target:
        pid = os.fork()
        if pid == 0:
            target.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert not target.closed
        with psyne.receiver("ipc://there", Imu) as there, Source(endpoint, description(schema_of([Imu]), "")) as source:
            source.put(0, imu(7))
            assert stamps(there, 1) == [7]


def test_an_exception_in_the_block_is_the_one_that_is_raised(endpoint: str) -> None:
    with pytest.raises(ZeroDivisionError), bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]):
        raise ZeroDivisionError


def test_without_the_extra_a_program_is_told_what_to_install() -> None:
    done = run_program(
        "import sys; sys.modules['zenoh'] = None; import psyne; psyne.bridge('ipc://a', 'zenoh://a')", check=False
    )
    assert "ImportError: a bridge to zenoh:// needs eclipse-zenoh: pip install 'psyne[zenoh]'" in done.stderr


@pytest.mark.parametrize("direction", ["stage", "there"])
def test_a_signal_ends_a_bridge_that_waits_for_room(direction: str, endpoint: str) -> None:
    with (
        psyne.sender("ipc://here", Block, stages=["net"], capacity=2) as out,
        psyne.receiver("ipc://there", Block),
    ):
        source, target = both_ways(endpoint, "--stage", "net")
        with source, target:
            fill_up(out)
            program = source if direction == "stage" else target
            code, said = program.end(signal.SIGTERM)
            assert (code, "stopped" in said) == (0, True), said


def test_a_signal_that_another_thread_got_ends_a_join(endpoint: str) -> None:
    code = f"""
import psyne, signal, threading
running = psyne.bridge("zenoh://{KEY}", "ipc://there", listen=[{endpoint!r}])
try:
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
    running.join()
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run_program(code).stdout == "interrupted\n"


def test_a_bridge_that_cannot_be_had_leaves_its_endpoint(endpoint: str) -> None:
    with pytest.raises(psyne.InvalidArgument):
        bridge("ipc://here", f"zenoh://{KEY}", stage="net", new_stage=7, listen=[endpoint])  # type: ignore[arg-type]
    bridge("ipc://here", f"zenoh://{KEY}", listen=[endpoint]).close()


def test_what_a_tap_missed_is_counted(endpoint: str) -> None:
    with (
        psyne.sender("ipc://here", Imu, stages=[], capacity=8) as out,
        Program("ipc://here", f"zenoh://{KEY}", "--listen", endpoint) as source,
    ):
        out.send(Imu(stamp=0))
        until(lambda: sleeping(source.process.pid), "the bridge")
        source.process.send_signal(signal.SIGSTOP)
        for k in range(1, 1000):
            out.send(Imu(stamp=k))
        source.process.send_signal(signal.SIGCONT)
        out.close()
        code, said = source.end()
        counts = re.search(r"carried (\d+), missed (\d+), refused 0", said)
        assert code == 0
        assert counts
        assert int(counts[2]) > 0


def test_a_signal_ends_a_bridge_at_once_that_finds_no_router(endpoint: str) -> None:
    with subprocess.Popen([COMMAND, "bridge", "ipc://here", f"zenoh://{KEY}", "--connect", endpoint]) as waiting:
        threads = Path(f"/proc/{waiting.pid}/task")
        until(lambda: any((it / "comm").read_text() == "net-0\n" for it in threads.iterdir()), "a thread of Zenoh's")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(PATIENCE) == -signal.SIGINT


def test_a_source_that_comes_back_at_once_is_not_lost(endpoint: str) -> None:
    with (
        psyne.receiver("ipc://there", Imu) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), "")) as source,
    ):
        carrier: Any = target._carrier
        source.put(0, imu(0))
        assert stamps(there, 1) == [0]
        source.appear(False)
        until(lambda: carrier._sources[1].left is not None, "its token being gone")
        source.appear(True)
        until(lambda: carrier._sources[1].left is None, "its token")
        time.sleep(QUIET * 1.5)  # as long as it would need to be lost
        source.put(1, imu(1))
        assert stamps(there, 1) == [1]
        until(lambda: target.statistics() == Bridged(carried=2, sources=1), "the counts")


def test_a_source_that_comes_back_after_it_was_lost_is_met_again_and_what_was_lost_meanwhile_is_counted(
    endpoint: str,
) -> None:
    with (
        psyne.receiver("ipc://there", Imu, follow=True) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", follow=True, listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), "")) as source,
    ):
        carrier: Any = target._carrier
        source.put(0, imu(0))
        assert stamps(there, 1) == [0]
        source.appear(False)
        until(lambda: carrier._sources[1].gone, "the loss of the source")
        source.put(3, imu(3))
        assert stamps(there, 1) == [3]
        until(lambda: target.statistics() == Bridged(carried=2, missed=2, sources=2), "the counts")


def test_a_source_that_is_lost_is_known_to_be_while_others_go_on(endpoint: str) -> None:
    said = description(schema_of([Imu]), "")
    stop = threading.Event()

    def go_on(source: Source) -> None:
        for k in range(1 << 30):
            if stop.wait(0.01):
                return source.end(k)
            source.put(k, imu(2))

    with (  # noqa: PT012
        pytest.raises(psyne.SenderLost, match="1 of 2 sources"),
        bridge("zenoh://*/camera", "ipc://there", full="drop", listen=[endpoint]) as target,
        Source(endpoint, said, "robot1/camera", 1) as one,
        Source(endpoint, said, "robot2/camera", 2) as two,
    ):
        one.put(0, imu(1))
        going_on = threading.Thread(target=go_on, args=[two])
        going_on.start()
        until(lambda: target.statistics().sources == 2, "both sources")
        carrier: Any = target._carrier
        until(lambda: carrier._live.keys() == {1, 2}, "both tokens")
        one.appear(False)
        try:
            until(lambda: carrier._sources[1].lost, "the loss of the one")
        finally:
            stop.set()
            going_on.join()
        target.join(PATIENCE)


def test_what_a_source_had_sent_before_it_was_lost_arrives(endpoint: str) -> None:
    with (  # noqa: PT012
        pytest.raises(psyne.SenderLost, match="1 of 1 sources"),
        psyne.receiver("ipc://there", Imu) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), "")) as source,
    ):
        carrier: Any = target._carrier
        source.put(0, imu(0))
        seen = until(lambda: psyne.inspect("ipc://there"), "the channel")
        n = seen.lanes[0].capacity + QUEUE // 2  # more than the ring has room for
        for k in range(1, n):
            source.put(k, imu(k))
        source.appear(False)
        until(lambda: carrier._sources[1].left is not None, "its token being gone")
        time.sleep(QUIET * 1.5)
        assert stamps(there, n) == list(range(n))
        with pytest.raises(psyne.SenderLost, match="a sender of"):
            there.receive(timeout=PATIENCE)


@pytest.fixture
def router() -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    running: list[subprocess.Popen[str]] = []

    def start(endpoint: str) -> "subprocess.Popen[str]":
        config = {"mode": "router", "listen": {"endpoints": [endpoint]}, "scouting": {"multicast": {"enabled": False}}}
        process = subprocess.Popen(
            [sys.executable, "-c", ROUTER, json.dumps(config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_router_that_is_killed_and_starts_again_loses_what_was_under_way_and_nothing_else(
    router: Any, endpoint: str
) -> None:
    first = router(endpoint)
    with (
        psyne.sender("ipc://here", Imu, stages=["net"]) as out,
        psyne.receiver("ipc://there", Imu, follow=True) as there,
        Program("ipc://here", f"zenoh://{KEY}", "--stage", "net", "--connect", endpoint) as source,
        Program(f"zenoh://{KEY}", "ipc://there", "--follow", "--connect", endpoint) as target,
    ):
        out.send(Imu(stamp=1))
        assert stamps(there, 1) == [1]
        first.kill()
        first.wait()
        router(endpoint)
        number = 2

        def arrived() -> Any:
            nonlocal number
            out.send(Imu(stamp=number))
            number += 1
            try:
                return there.receive(timeout=0.1)
            except (psyne.Empty, psyne.SenderLost):
                return None

        with until(arrived, "a message by the other router") as m:
            assert m.stamp >= 2
        out.close()
        assert source.end()[0] == 0
        assert target.end(signal.SIGTERM)[0] == 0


# ---- circles --------------------------------------------------------------------------------------------


def test_two_bridges_in_both_directions_join_two_channels_and_nothing_goes_in_circles(
    router: Any, endpoint: str
) -> None:
    """Both machines are this one; the key is the same in all four bridges."""
    router(endpoint)
    key, n, stages = f"zenoh://{KEY}", 20, ["net", "main"]
    with (
        psyne.sender("ipc://a", Imu, stages=stages) as a,
        psyne.sender("ipc://b", Imu, stages=stages) as b,
        psyne.receiver("ipc://a", Imu, stage="main") as at_a,
        psyne.receiver("ipc://b", Imu, stage="main") as at_b,
        bridge(key, "ipc://a", connect=[endpoint]) as to_a,
        bridge(key, "ipc://b", connect=[endpoint]) as to_b,
        bridge("ipc://a", key, stage="net", connect=[endpoint]) as from_a,
        bridge("ipc://b", key, stage="net", connect=[endpoint]) as from_b,
    ):
        for k in range(n):
            a.send(Imu(stamp=k))
            b.send(Imu(stamp=n + k))
        for there in (at_a, at_b):
            assert sorted(stamps(there, 2 * n)) == list(range(2 * n))
        for running in (from_a, from_b, to_a, to_b):
            until(lambda r=running: r.statistics() == Bridged(carried=n, skipped=n, sources=1), f"all of {running}")
        assert at_a.try_receive() is None
        assert at_b.try_receive() is None
        with psyne.sender("ipc://a", Imu) as late:  # beside a bridge that brings
            late.send(Imu(stamp=2 * n))
            for there in (at_a, at_b):
                assert stamps(there, 1) == [2 * n]


def test_a_source_that_follows_looks_anew_who_the_senders_are(endpoint: str) -> None:
    with (
        bridge("ipc://here", f"zenoh://{KEY}", stage="main", follow=True, listen=[endpoint]) as source,
        Source(endpoint, b"", "nobody") as other,
        other.session.declare_subscriber(KEY, zenoh.handlers.RingChannel(1)),
    ):
        with BridgeSender("ipc://here", [Imu]) as out:  # number 1 of its channel
            out.send(Imu(stamp=1))
            until(lambda: source.statistics().skipped == 1, "the first message")
        with psyne.sender("ipc://here", Array("u8", (3,))) as other_types:  # number 1 of another channel
            other_types.send(np.zeros(3, np.uint64))
            until(lambda: source.statistics().carried == 1, "the second message")
        assert source.statistics().skipped == 1


def test_a_page_names_all_of_it() -> None:
    text = (Path(__file__).parents[1] / "docs" / "using.md").read_text(encoding="utf-8")
    section = text[text.index("### Many machines") :]
    words = set(re.findall(r"\w+", section[: section.index("\n## ")]))
    names = {"bridge", *inspect.signature(bridge).parameters, *Bridged.__annotations__}
    assert names | {name for name in dir(Bridge) if name[0] != "_"} <= words | {"source", "target"}
