"""Request and reply in one slot: call() sends, waits until every stage has passed the message, and gives it back."""

import gc
import os
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

import psyne
from psyne import Stage

from .helpers.answering import address_of, is_answer, jobs, worker
from .helpers.layouts import Number, Record
from .helpers.process import PATIENCE, Child, sleeping, until


def test_a_call_gives_back_what_the_stage_wrote():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        for n in range(100):
            with tx.call(Record(n=n)) as done:
                assert type(done) is Record
                assert is_answer(done, n)


def test_one_s_own_loan_comes_back_in_the_same_memory():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        loan = tx.loan()
        loan.n = 5
        place = address_of(loan)
        copied = tx.statistics().copied_bytes
        with tx.call(loan) as done:
            assert address_of(done) == place
            assert is_answer(done, 5)
            with pytest.raises(psyne.MessageReleased, match="was sent"):
                loan.n = 6
        assert tx.statistics().copied_bytes == copied
        assert tx.statistics().sent == 1


def test_a_batch_of_one_s_own_is_called_as_a_whole():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        batch = tx.loan_many(4)
        batch["n"] = [1, 2, 3, 4]
        batch.truncate(3)
        with tx.call(batch) as done:
            assert done["seen"].tolist() == [4, 7, 10]
            assert [is_answer(m, n) for m, n in zip(done, (1, 2, 3), strict=True)] == [True] * 3
        empty = tx.loan_many(2)
        empty.truncate(0)
        with pytest.raises(ValueError, match="0 messages"):
            tx.call(empty)
        empty.discard()
        tx.call(Record(n=1)).release()


def test_the_answer_is_read_only():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        with tx.call(Record(n=1)) as done:
            with pytest.raises(psyne.ReadOnly):
                done.seen = 1
            for view in (done.body, done.array):
                assert not view.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    view[...] = 0
            with pytest.raises(psyne.NotALoan):
                done.discard()
            own = done.copy()
            own.seen = 7
            private = done.private()
            private.seen = 8
            assert (done.seen, own.seen, private.seen) == (4, 7, 8)
            del view
        with pytest.raises(psyne.MessageReleased):
            print(done.seen)
        assert own.seen == 7


def test_the_answer_knows_what_it_is():
    with ExitStack() as stack:
        tx = jobs(stack, timestamps=True)
        worker(stack)
        tx.send(Record(n=0))
        before = time.monotonic_ns()
        with tx.call(Record(n=1)) as done, tx.call(Record(n=2)) as other:
            assert done.info.sequence == 1
            assert other.info.sequence == 2
            assert (done.info.missed, done.info.redelivered) == (0, False)
            assert before < done.info.timestamp < other.info.timestamp
            loan = tx.loan()
            assert done.info.sender == other.info.sender == loan.info.sender
            loan.discard()


def test_the_slot_is_not_lent_again_before_the_answer_has_ended():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        with tx.call(Record(n=1)) as done:
            assert tx.try_loan() is None
            with pytest.raises(psyne.LeaseLimit, match=r"call\(\)"):
                tx.loan()
            with pytest.raises(psyne.LeaseLimit):
                tx.call(Record(n=2), timeout=PATIENCE)
            assert is_answer(done, 1)
        tx.call(Record(n=2)).release()
        done = tx.call(Record(n=3))
        assert tx.try_loan() is None
        del done  # the last reference
        tx.loan(timeout=0).discard()


def test_views_that_are_kept_keep_the_slot():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        done = tx.call(Record(n=7))
        body = done.body
        with pytest.raises(psyne.ViewsAlive):
            done.release()
        with done:
            pass
        assert tx.statistics().held == 1
        with pytest.raises(psyne.LeaseLimit, match="arrays that you kept"):
            tx.loan()
        assert (body == 7).all()
        del body
        assert tx.statistics().held == 0
        with tx.call(Record(n=8)) as done:
            part = done.body[2:5]
        del done
        assert tx.try_loan() is None
        assert part.tolist() == [8, 8, 8]
        del part
        tx.loan(timeout=0).discard()


def test_a_call_waits_for_every_stage_of_a_chain_and_of_a_diamond():
    diamond = [
        Stage("work", mutate=True),
        Stage("left", after=["work"]),
        Stage("right", after=["work"]),
        Stage("last", mutate=True, after=["left", "right"]),
    ]
    for stages in ([Stage("work", mutate=True), Stage("last", mutate=True)], diamond):
        with ExitStack() as stack:
            tx = jobs(stack, stages=stages, pattern="spsc")
            names = [stage.name for stage in stages]
            first = worker(stack, stage="work")
            ends = {name: stack.enter_context(Child()) for name in names[1:]}
            for name, child in ends.items():
                child.run(f"rx = psyne.receiver('ipc://jobs', stage={name!r})")
            with pytest.raises(psyne.Empty, match=r"stage '(left|last)' has not taken it"):
                tx.call(Record(n=1), timeout=0.05)
            ends["last"].begin("for m in rx: m.seen = m.seen + 1000")
            for name in names[1:-1]:
                ends[name].begin("sum(m.seen == 3 * m.n + 1 for m in rx)")
            for n in range(2, 50):
                with tx.call(Record(n=n)) as done:
                    assert (done.n, done.seen) == (n, 3 * n + 1001)
            tx.close()
            assert [ends[name].result() for name in names[1:-1]] == [49] * (len(names) - 2)
            first.result()


def test_a_reading_stage_that_keeps_views_does_not_hold_the_answer_up():
    with ExitStack() as stack:
        tx = jobs(stack, stages=["work"])
        worker(stack, "m = rx.receive(); body = m.body; m.__exit__(None, None, None); rest = [m.n for m in rx]")
        tx.call(Record(n=1), timeout=PATIENCE).release()
        tx.call(Record(n=2), timeout=PATIENCE).release()


def test_without_room_in_time_a_call_is_full_and_without_an_answer_in_time_empty():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        with pytest.raises(psyne.Empty, match="no answer on ipc://jobs in time: stage 'work' has no member"):
            tx.call(Record(n=1), timeout=0)
        with pytest.raises(psyne.Full, match="is full"):
            tx.call(Record(n=2), timeout=0.01)
        child = stack.enter_context(Child())
        child.run("rx = psyne.receiver('ipc://jobs', stage='work'); m = rx.receive(); m.n")
        with pytest.raises(psyne.Full, match=f"holds the oldest message .pid {child.pid}"):
            tx.call(Record(n=2), timeout=0.01)
        child.begin("m.release(); m = rx.receive()")
        with pytest.raises(psyne.Empty, match=rf"stage 'work' holds it \(pid {child.pid}, child.py\)"):
            tx.call(Record(n=3), timeout=1)
        child.result()
        assert tx.statistics().held == 0  # given up, but sent
        assert child.run("m.n") == 3


def test_a_sender_that_drops_drops_no_calls():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1, full="drop")
        assert tx.send(Record(n=1))
        for _ in range(2):
            with pytest.raises(psyne.Full, match="drops no calls"):
                tx.call(Record(n=2), timeout=PATIENCE)
        with pytest.raises(psyne.Full), tx.loan() as scratch:
            tx.call(scratch)
        assert tx.statistics().missed == 0
        worker(stack)
        tx.drain()
        with tx.call(Record(n=3)) as done:
            assert is_answer(done, 3)
            assert done.info.missed == 0


def test_a_channel_without_stages_answers_no_calls():
    with ExitStack() as stack:
        tx = jobs(stack, stages=[])
        with pytest.raises(psyne.InvalidArgument, match=r"made with stages=\[\]"):
            tx.call(Record(n=1))
        assert tx.send(Record(n=1))


def test_bad_messages_are_refused_and_hold_no_slot():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        for bad in (Number(n=1), np.zeros(3), "text", None):
            with pytest.raises(psyne.LayoutMismatch):
                tx.call(bad)
        for bad_time in (-1, "soon"):
            with pytest.raises((ValueError, TypeError)):
                tx.call(Record(n=1), timeout=bad_time)
        with pytest.raises(TypeError):
            tx.call()
        released = tx.loan()
        released.discard()
        with pytest.raises(psyne.MessageReleased):
            tx.call(released)
        tx.call(Record(n=1)).release()


def test_an_answer_of_several_types_is_of_the_type_that_was_sent():
    with ExitStack() as stack:
        tx = jobs(stack, Record, psyne.Text, psyne.Array("f4", ndim=2, max_bytes=1 << 12))
        worker(stack, "for m in rx:\n if m.array.dtype == 'f4': m.array[:] *= 2\n elif m.array.dtype.names: m.seen = 2")
        with tx.call("a question") as text:
            assert isinstance(text, psyne.Text)
            assert text.text == "a question"
        with tx.call(np.ones((2, 3), "f4")) as doubled:
            assert doubled.array.tolist() == [[2.0] * 3] * 2
        with tx.call(Record(n=1)) as done:
            assert done.seen == 2


def test_an_answer_in_columns():
    class Columns(psyne.Struct, layout="columns"):
        n = psyne.u64()
        seen = psyne.u64()

    with ExitStack() as stack:
        tx = jobs(stack, Columns)
        worker(stack, "for m in rx: m.seen = 3 * m.n + 1")
        for n in range(20):
            with tx.call(Columns(n=n)) as done:
                assert (done.n, done.seen) == (n, 3 * n + 1)


def test_an_answer_can_be_sent_on():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        with tx.call(Record(n=4)) as done, tx.call(done) as again:
            assert is_answer(again, 4)
            assert again.info.sequence == done.info.sequence + 1


def test_several_senders_call_at_the_same_time():
    code = """
    tx = psyne.sender('ipc://jobs', Record, capacity=4)
    right = 0
    for n in range(start, start + 300):
        with tx.call(Record(n=n)) as done:
            right += done.n == n and done.seen == 3 * n + 1
    right
    """
    with ExitStack() as stack:
        jobs(stack)
        for _ in range(2):
            worker(stack)
        callers = [stack.enter_context(Child()) for _ in range(3)]
        for i, child in enumerate(callers):
            child.begin("\n".join(line[4:] for line in code.splitlines()), start=1000 * i)
        assert [child.result() for child in callers] == [300] * 3


def test_close_of_another_thread_ends_a_call():
    with ExitStack() as stack:
        tx = jobs(stack)
        task = threading.current_thread().native_id

        def close() -> None:
            until(lambda: sleeping(os.getpid(), task), "sleeping")
            tx.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(psyne.ChannelClosed):
            tx.call(Record(n=1))
        thread.join()
        with pytest.raises(psyne.ChannelClosed):
            tx.call(Record(n=1))


def test_an_answer_outlives_its_sender():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        done = tx.call(Record(n=3))
        body = tx.call(Record(n=4)).body
        tx.close()
        assert is_answer(done, 3)
        assert (body == 4).all()
        done.release()
        del tx, done
        gc.collect()
        assert (body == 4).all()


def test_ctrl_c_ends_a_call_and_gives_its_slot_up():
    with Child() as child, ExitStack() as stack:
        child.run("tx = psyne.sender('ipc://jobs', Record, stages=[psyne.Stage('work', mutate=True)], capacity=1)")
        child.begin_waiting("tx.call(Record(n=1))")
        child.interrupt()
        with pytest.raises(KeyboardInterrupt):
            child.result()
        assert child.run("tx.statistics().held") == 0
        worker(stack)
        assert child.run("with tx.call(Record(n=2)) as done: seen = done.seen\nseen") == 7


def test_a_message_that_a_stage_took_out_is_no_answer():
    with ExitStack() as stack:
        tx = jobs(stack, stages=[Stage("work", mutate=True, on_crash="skip"), "log"])
        worker(stack, "for m in rx: pass", stage="log")
        worker(stack, "m = rx.receive(); m.seen = 99; os._exit(9)")
        with pytest.raises(psyne.TakenOut, match="message 0 of ipc://jobs was not answered: stage 'work' took it out"):
            tx.call(Record(n=1), timeout=PATIENCE)
        assert tx.statistics().held == 0
        worker(stack)
        with tx.call(Record(n=2)) as done:
            assert is_answer(done, 2)


def test_a_message_that_kills_three_members_is_no_answer():
    with ExitStack() as stack:
        tx = jobs(stack)
        for _ in range(3):
            worker(stack, "m = rx.receive(); os._exit(9)")
        with pytest.raises(psyne.TakenOut, match="three of its members died"):
            tx.call(Record(n=1), timeout=PATIENCE)


def test_what_a_killed_member_held_is_answered_by_another():
    with ExitStack() as stack:
        tx = jobs(stack)
        victim = worker(stack, "m = rx.receive(); m.seen = 99")

        def kill_who_holds_it() -> None:
            victim.result()
            victim.kill()
            worker(stack)

        thread = threading.Thread(target=kill_who_holds_it)
        thread.start()
        with tx.call(Record(n=1), timeout=PATIENCE) as done:
            assert is_answer(done, 1)
        thread.join()
        assert tx.statistics().redelivered == 1


def test_the_ends_of_an_anonymous_channel_call():
    tx, rx = psyne.channel(Record, stages=[Stage("work", mutate=True)])

    def answer() -> None:
        with rx.clone("work") as mine:
            for m in mine:
                m.seen = m.n + 1

    thread = threading.Thread(target=answer)
    thread.start()
    with tx, tx.call(Record(n=5)) as done:
        assert done.seen == 6
    thread.join()
    rx.close()


def test_a_stopped_worker_holds_up_only_what_it_took():
    with ExitStack() as stack:
        tx = jobs(stack)
        stopped = worker(stack, "m = rx.receive(); m.seen = 99; os.kill(os.getpid(), 19); m.release()")
        with pytest.raises(psyne.Empty, match=f"holds it .pid {stopped.pid}"):
            tx.call(Record(n=1), timeout=1)
        worker(stack)
        for n in range(2, 5):
            tx.call(Record(n=n), timeout=PATIENCE).release()
        stopped.go_on()
        stopped.result()
        tx.drain(timeout=PATIENCE)
