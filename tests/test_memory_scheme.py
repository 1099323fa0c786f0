"""memory://name: channels inside one process, with all that ipc:// does and no file."""

import os
import threading

import pytest

import psyne
from psyne import Stage

from .helpers.layouts import Number, Picture, Sample
from .helpers.process import Child, run_program, until


@pytest.mark.leaves_nothing
def test_a_channel_inside_a_process_needs_no_file():
    with psyne.sender("memory://a", Number) as tx, psyne.receiver("memory://a") as rx:
        tx.send(Number(n=1))
        assert rx.receive().n == 1
        assert rx.address == tx.address == "memory://a"
        assert os.listdir(os.environ["PSYNE_DIR"]) == []


def test_ipc_and_memory_are_different_channels():
    with psyne.sender("memory://a", Number) as tx, psyne.sender("ipc://a", Picture) as other:
        assert (tx.address, other.address) == ("memory://a", "ipc://a")
        assert psyne.receiver("ipc://a", Picture).try_receive() is None


def test_another_process_does_not_see_it():
    with psyne.sender("memory://a", Number) as tx, Child() as child:
        with pytest.raises(psyne.ChannelNotFound, match="memory://a"):
            child.run("psyne.sender('memory://a')")
        child.run("other = psyne.sender('memory://a', Sample); mine = psyne.receiver('memory://a')")
        tx.send(Number(n=1))
        assert child.run("mine.try_receive()") is None


def test_a_forked_child_begins_without_channels():
    done = run_program(
        "import os, psyne, layouts\n"
        "tx = psyne.sender('memory://a', layouts.Number)\n"
        "rx = psyne.receiver('memory://b')\n"
        "if os.fork() == 0:\n"
        "    try: tx.send(layouts.Number(n=1))\n"
        "    except psyne.ForkedError: pass\n"
        "    else: os._exit(2)\n"
        "    try: psyne.sender('memory://a')\n"
        "    except psyne.ChannelNotFound: pass\n"
        "    else: os._exit(3)\n"
        "    with psyne.sender('memory://a', layouts.Sample) as own, psyne.receiver('memory://a') as mine:\n"
        "        own.send(layouts.Sample(stamp=5))\n"
        "        os._exit(0 if mine.receive().stamp == 5 else 4)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "tx.send(layouts.Number(n=2))\n"
        "print(psyne.receiver('memory://a').receive().n)\n"
    )
    assert done.stdout.strip() == "2"


@pytest.mark.parametrize("scheme", ["ipc", "memory"])
class TestAsWithFiles:
    """The same for both schemes."""

    def test_a_receiver_waits_for_the_first_sender(self, scheme: str):
        rx = psyne.receiver(f"{scheme}://late")
        got = []
        thread = threading.Thread(target=lambda: got.append(rx.receive().n))
        thread.start()
        tx = psyne.sender(f"{scheme}://late", Number)
        until(lambda: rx.joined)
        tx.send(Number(n=8))
        thread.join()
        assert got == [8]
        tx.close()

    def test_a_receiver_without_a_channel_gives_up_in_time(self, scheme: str):
        with pytest.raises(psyne.Empty, match=f"no sender has made {scheme}://nobody"):
            psyne.receiver(f"{scheme}://nobody").receive(timeout=0.05)

    def test_another_layout_is_told_field_by_field(self, scheme: str):
        with (
            psyne.sender(f"{scheme}://a", Number),
            pytest.raises(psyne.LayoutMismatch, match=f"{scheme}://a exists and its senders live.*stamp"),
        ):
            psyne.sender(f"{scheme}://a", Sample)
        with psyne.sender(f"{scheme}://a", Number), pytest.raises(psyne.LayoutMismatch, match="stamp"):
            psyne.receiver(f"{scheme}://a", Sample)

    def test_another_pattern_or_graph_is_refused_while_a_sender_lives(self, scheme: str):
        with psyne.sender(f"{scheme}://a", Number):
            with pytest.raises(psyne.LayoutMismatch, match="pattern"):
                psyne.sender(f"{scheme}://a", Number, pattern="mpmc")
            with pytest.raises(psyne.LayoutMismatch, match="stages"):
                psyne.sender(f"{scheme}://a", Number, stages=[Stage("other")])

    def test_a_place_that_is_taken_names_its_holder(self, scheme: str):
        with psyne.sender(f"{scheme}://a", Number, pattern="spsc"), psyne.receiver(f"{scheme}://a"):
            with pytest.raises(psyne.ChannelBusy, match=rf"{scheme}://a allows one sender.*pid {os.getpid()}"):
                psyne.sender(f"{scheme}://a", Number, pattern="spsc")
            with pytest.raises(psyne.ChannelBusy, match=rf"stage 'main' of {scheme}://a has a member"):
                psyne.receiver(f"{scheme}://a")

    def test_with_no_sender_alive_other_types_replace_the_channel(self, scheme: str):
        with psyne.sender(f"{scheme}://a", Number) as tx:
            rx = psyne.receiver(f"{scheme}://a")
            follower = psyne.receiver(f"{scheme}://b", follow=True)
            tx.send(Number(n=1))
        with psyne.sender(f"{scheme}://a", Sample) as tx:
            assert rx.receive().n == 1
            with pytest.raises(psyne.EndOfChannel):
                rx.receive()
            tx.send(Sample(stamp=4))
            assert psyne.receiver(f"{scheme}://a").receive().stamp == 4
        follower.close()

    def test_a_follower_goes_on_with_the_next_channel(self, scheme: str):
        with psyne.sender(f"{scheme}://a", Number) as tx:
            rx = psyne.receiver(f"{scheme}://a", follow=True)
            tx.send(Number(n=1))
            assert rx.receive().n == 1
        with psyne.sender(f"{scheme}://a", Sample) as tx:
            got = []
            thread = threading.Thread(target=lambda: got.append(rx.receive().stamp))
            thread.start()
            until(thread.is_alive)
            tx.send(Sample(stamp=6))
            tx.drain()
            thread.join()
            assert got == [6]
        rx.close()

    def test_the_last_one_out_says_what_nobody_read(self, scheme: str, caplog: pytest.LogCaptureFixture):
        with psyne.sender(f"{scheme}://unread{scheme}", Number) as tx:
            tx.send(Number(n=1))
        assert f"1 message of {scheme}://unread{scheme} was never read" in caplog.text
        with pytest.raises(psyne.ChannelNotFound):
            psyne.sender(f"{scheme}://unread{scheme}")

    def test_names_that_cannot_be_names_are_refused(self, scheme: str):
        for name in ("", "a/b", ".hidden", "x" * 129, "a.0123456789abcdef", "a.0123456789abcdef.b"):
            with pytest.raises(psyne.InvalidArgument, match="bad channel name"):
                psyne.sender(f"{scheme}://{name}", Number)
        for name in ("a.0123456789abcde", "a.0123456789ABCDEF", "0123456789abcdef", "a.0123456789abcdef0", "a.b.c"):
            psyne.sender(f"{scheme}://{name}", Number).close()


def test_an_unknown_scheme_names_those_there_are():
    with pytest.raises(psyne.InvalidArgument, match=r"ipc://name.*memory://name"):
        psyne.sender("anonymous://12", Number)
