"""Sessions: what outlives a connection, and for how long."""

import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

import psyne
from psyne.network.sessions import Backoff, Session, Sessions


class Clock:
    """A driver whose time passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: dict[int, tuple[float, Callable[[], object]]] = {}
        self.made = 0

    def later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], object]:
        number = self.made
        self.made += 1
        self.timers[number] = (self.now + seconds, callback)
        return lambda: self.timers.pop(number, None)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        for number, (when, callback) in sorted(self.timers.items(), key=lambda item: item[1][0]):
            if when <= self.now and self.timers.pop(number, None):
                callback()


# ---- pauses --------------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_the_most_and_begin_anew_after_a_connection():
    backoff = Backoff(chance=lambda: 1.0)
    assert [backoff.pause() for _ in range(9)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    backoff.reset()
    assert backoff.pause() == 0.1


def test_a_pause_is_anything_between_nothing_and_its_limit():
    chances = iter([0.0, 0.5, 0.25])
    backoff = Backoff(chance=lambda: next(chances))
    assert [backoff.pause() for _ in range(3)] == [0.0, 0.1, 0.1]
    pauses = [Backoff(first=1.0).pause() for _ in range(100)]
    assert len(set(pauses)) > 90
    assert all(0.0 <= pause < 1.0 for pause in pauses)


# ---- one session ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, over: list[bool], timeout: float = 30.0) -> Session:
    return Session("ab" * 16, clock, timeout, over.append)


def test_a_session_waits_for_the_next_connection_and_no_longer_than_its_time(clock: Clock):
    over: list[bool] = []
    session = make(clock, over)
    assert session.connected("first") is None
    clock.pass_by(1000.0)
    session.lost("first")
    clock.pass_by(29.0)
    assert (session.state, over) == ("waiting", [])
    assert session.connected("second") is None
    clock.pass_by(1000.0)
    assert (session.state, session.connection) == ("connected", "second")
    session.lost("second")
    clock.pass_by(30.0)
    assert (session.state, session.connection, over) == ("over", None, [False])


def test_a_session_that_nobody_ever_connects_is_over_too(clock: Clock):
    over: list[bool] = []
    make(clock, over)
    clock.pass_by(30.0)
    assert over == [False]


def test_a_new_connection_takes_the_place_of_one_that_is_dead_and_does_not_know_it(clock: Clock):
    session = make(clock, [])
    session.connected("half open")
    assert session.connected("next") == "half open"
    session.lost("half open")  # it notices in the end
    assert (session.state, session.connection) == ("connected", "next")


def test_a_session_that_was_ended_is_over_once_and_leaves_no_timer(clock: Clock):
    over: list[bool] = []
    session = make(clock, over)
    session.connected("one")
    session.lost("one")
    session.end()
    session.end()
    session.lost("one")
    clock.pass_by(1000.0)
    assert over == [True]
    assert clock.timers == {}


def test_a_session_that_is_over_holds_no_connection_and_takes_none(clock: Clock):
    session = make(clock, [])
    session.connected("one")
    session.end()
    assert session.connection is None
    with pytest.raises(AssertionError):
        session.connected("two")
    gc.disable()  # no cycle holds it
    try:
        gone = weakref.ref(session)
        del session
        assert gone() is None
    finally:
        gc.enable()


# ---- the table -----------------------------------------------------------------------------------------------------


def test_a_session_is_found_by_its_id_until_it_is_over(clock: Clock):
    over: list[bool] = []
    table = Sessions(clock, timeout=5.0)
    session = table.open(over.append)
    assert len(session.id) == 32
    assert table.find(session.id) is session
    assert table.find("0" * 32) is None
    clock.pass_by(5.0)
    assert (table.find(session.id), len(table), over) == (None, 0, [False])


def test_a_table_that_is_full_takes_no_more_until_a_session_is_over(clock: Clock):
    table = Sessions(clock, most=2)
    first, _ = table.open(bool), table.open(bool)
    with pytest.raises(psyne.ChannelBusy, match="2 sessions, those that wait included, and may be 2"):
        table.open(bool)
    first.end()
    table.open(bool)


def test_the_end_of_a_table_is_that_of_all_its_sessions(clock: Clock):
    over: list[bool] = []
    table = Sessions(clock)
    for _ in range(3):
        table.open(over.append)
    table.end()
    assert (len(table), over, clock.timers) == (0, [True, True, True], {})


# ---- any order of events, against a list of facts ------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = Sessions(self.clock, timeout=10.0, most=4)
        self.deadline: dict[str, float | None] = {}  # of the living: when they are over; None: connected
        self.over: dict[str, list[bool]] = {}
        self.connections: dict[str, list[int]] = {}
        self.made = 0

    @rule(target=sessions)
    def open(self):
        if len(self.deadline) == 4:
            with pytest.raises(psyne.ChannelBusy):
                self.table.open(bool)
            return multiple()
        ended: list[bool] = []
        session = self.table.open(ended.append)
        self.over[session.id] = ended
        self.deadline[session.id] = self.clock.now + 10.0
        self.connections[session.id] = []
        return session

    @rule(session=sessions)
    def connect(self, session: Session):
        if session.id not in self.deadline:
            return
        self.made += 1
        before = self.connections[session.id][-1] if self.deadline[session.id] is None else None
        assert session.connected(self.made) == before
        self.connections[session.id].append(self.made)
        self.deadline[session.id] = None

    @rule(session=sessions, back=st.integers(1, 3))
    def lose(self, session: Session, back: int):
        connections = self.connections[session.id]
        if len(connections) < back:
            return
        session.lost(connections[-back])
        if back == 1 and self.deadline.get(session.id, 0.0) is None:
            self.deadline[session.id] = self.clock.now + 10.0

    @rule(session=consumes(sessions))
    def end(self, session: Session):
        before = list(self.over[session.id])
        session.end()
        assert self.over[session.id] == before or (before, self.over[session.id]) == ([], [True])
        self.deadline.pop(session.id, None)

    @rule(seconds=st.sampled_from([0.5, 5.0, 9.9, 10.0]))
    def wait(self, seconds: float):
        self.clock.pass_by(seconds)
        for id, deadline in list(self.deadline.items()):
            if deadline is not None and deadline <= self.clock.now:
                del self.deadline[id]
                assert self.over[id] == [False]

    @invariant()
    def agrees(self):
        assert len(self.table) == len(self.deadline)
        for id, deadline in self.deadline.items():
            session = self.table.find(id)
            assert session is not None
            assert session.state == ("connected" if deadline is None else "waiting")
            assert self.over[id] == []
        assert len(self.clock.timers) == sum(deadline is not None for deadline in self.deadline.values())
        assert all(len(ended) <= 1 for ended in self.over.values())


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
