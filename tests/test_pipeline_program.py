"""What a pipeline refuses before any process starts, and the same pipelines in threads."""

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import psyne
from psyne import InvalidArgument, Struct, u64
from psyne.pipeline import Restart, never, on_crash

from .helpers.process import PATIENCE, run_program, until

pytestmark = pytest.mark.leaves_nothing
COUNT = 100


class Number(Struct):
    n = u64()


def capture(out: Any) -> None:
    for n in range(COUNT):
        out.send(Number(n=n))


def endless(out: Any) -> None:
    while True:
        with out.loan() as m:
            m.n = 1


def work(m: Any) -> None:
    pass


async def coroutine(m: Any) -> None:
    pass


def generator(m: Any) -> Any:
    yield m


def two_arguments(m: Any, more: Any) -> None:
    pass


class Model:
    def __init__(self, factor: int = 1) -> None:
        self.factor, self.made_in = factor, threading.get_ident()

    def __call__(self, m: Any) -> None:
        pass


class Mute:
    pass


class Demanding(Model):
    def __init__(self, weights: str) -> None:
        pass


def source(**options: Any) -> Any:
    return psyne.Pipeline(workers="threads").source(capture, Number, **options)


@pytest.mark.parametrize(
    ("stage", "complaint"),
    [
        (lambda s: s.stage(3), "cannot be called"),
        (lambda s: s.stage(two_arguments), "missing a required argument: 'more'"),
        (lambda s: s.stage(coroutine), "coroutine or generator"),
        (lambda s: s.stage(generator), "coroutine or generator"),
        (lambda s: s.stage(Mute), "give it a __call__"),
        (lambda s: s.stage(Demanding), "missing a required argument: 'weights'"),
        (lambda s: s.stage(work, members=0), "members is a number, 1 or more; got 0"),
        (lambda s: s.stage(work, members=65), "at most 64 receivers"),
        (lambda s: s.stage(work, batch=0), "batch is a number, 1 or more; got 0"),
        (lambda s: s.stage(work, batch=17), "more than the ring of 'capture' holds: 16 messages"),
        (lambda s: s.stage(work, linger=-1.0, batch=2), "linger is a number of seconds"),
        (lambda s: s.stage(work, linger=1.0), "say batch= as well"),
        (lambda s: s.stage(work).stage(work), "each stage needs a name of its own"),
        (lambda s: s.stage(work, after="nobody"), "none of the stages"),
        (lambda s: s.stage(work).stage(Model, mutate=True, after=[]), "mutates while"),
        (lambda s: s.stage(work, on_crash="explode"), "on_crash is"),
        (lambda s: s.stage(work, restart="always"), "restart is"),
        (lambda s: s.stage(partial(two_arguments, more=1)), "give it a name="),
        (lambda s: s.stage(work, name=""), "give it a name="),
    ],
)
def test_a_stage_that_can_never_work_is_refused_when_it_is_added(stage: Any, complaint: str) -> None:
    it = source(capacity=16)
    with pytest.raises(InvalidArgument) as error:
        stage(it)
    assert complaint in str(error.value)
    assert len(it.stages) <= 1  # the one that was refused is not there


def test_what_another_process_cannot_import_is_refused_with_the_way_out() -> None:
    def local(m: Any) -> None:
        pass

    cam = psyne.Pipeline().source(capture, Number)
    for function in (local, lambda m: None):
        with pytest.raises(InvalidArgument, match=r'top of a module.*workers="threads"'):
            cam.stage(function)


def test_what_was_typed_into_an_interpreter_is_refused_with_the_way_out() -> None:
    code = "import psyne\ndef capture(out): pass\n"
    code += "try: psyne.Pipeline().source(capture, 'u1')\nexcept psyne.InvalidArgument as e: print(e)"
    assert "was typed into this interpreter" in run_program(code).stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"pattern": "spsc"}, "pattern= follows from the stages"),
        ({"stages": ["a"]}, "stages= follows from the stages"),
        ({"members": 0}, "members is a number"),
        ({"capacity": 0}, "capacity is a number of messages"),
        ({"address": "camera"}, "unknown address"),
        ({"restart": 3}, "restart is"),
    ],
)
def test_a_source_that_can_never_work_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        source(**arguments)


def test_a_pipeline_needs_sources_with_stages_of_different_names() -> None:
    pipe = psyne.Pipeline()
    with pytest.raises(InvalidArgument, match="has no source"):
        pipe.run()
    pipe.source(capture, Number, address="ipc://numbers")
    with pytest.raises(InvalidArgument, match="has no stage"):
        pipe.run()
    with pytest.raises(InvalidArgument, match="a source 'capture' already"):
        pipe.source(capture, Number)
    with pytest.raises(InvalidArgument, match="has the address"):
        pipe.source(capture, Number, name="other", address="ipc://numbers")
    with pytest.raises(InvalidArgument, match="inside one process"):
        pipe.source(capture, Number, name="other", address="memory://numbers")
    with pytest.raises(TypeError, match="no option 'colour'"):
        pipe.source(capture, Number, name="other", colour="red")  # type: ignore[call-arg]
    with pytest.raises(InvalidArgument, match="workers is"):
        psyne.Pipeline(workers="fibres")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("members", "stage_members", "pattern"), [(1, 1, "spsc"), (1, 2, "spmc"), (2, 1, "mpsc"), (2, 2, "mpmc")]
)
def test_the_pattern_is_the_narrowest_that_the_members_allow(members: int, stage_members: int, pattern: str) -> None:
    assert source(members=members).stage(work, members=stage_members).pattern == pattern


def test_a_policy_counts_the_crashes_of_the_last_minute() -> None:
    policy, crashes = on_crash(2), list[float]()
    assert [policy.allows(crashes, at) for at in (0.0, 1.0, 2.0, 61.5, 62.5)] == [True, True, False, True, True]
    assert not never.allows([], 0.0)
    with pytest.raises(InvalidArgument):
        on_crash(0)
    assert on_crash() == Restart(5)


def test_threads_see_every_message_in_order() -> None:
    seen: dict[str, list[int]] = {"double": [], "half": [], "draw": []}

    def double(m: Any) -> None:
        m.n *= 2
        seen["double"].append(m.n)

    def half(batch: Any) -> None:
        seen["half"] += batch["n"].tolist()

    class Draw:
        def __call__(self, m: Any) -> None:
            seen["draw"].append(m.n)

    pipe = psyne.Pipeline(workers="threads")
    cam = pipe.source(capture, Number, capacity=16)
    cam.stage(double, mutate=True).stage(half, members=2, batch=4).stage(Draw, name="draw")
    report = pipe.run()
    expected = [2 * n for n in range(COUNT)]
    assert seen["double"] == seen["draw"] == sorted(seen["half"]) == expected
    assert [stage.messages for stage in report.source("capture").stages] == [COUNT] * 3
    assert report.source("capture").copied_bytes == COUNT * 8  # send() copies
    assert cam.address.startswith("memory://")


def test_threads_stop_in_order() -> None:
    seen: list[int] = []
    pipe = psyne.Pipeline(workers="threads")
    pipe.source(endless, Number, capacity=16).stage(lambda m: seen.append(m.n), name="draw")
    with pipe.start() as running:
        until(lambda: len(seen) > 100, "drawing")
    report = running.report()
    assert report.source("endless").messages == len(seen) == report.stage("draw").messages
    assert not running.alive


def test_a_thread_that_fails_stops_the_pipeline_and_names_it() -> None:
    def fail(m: Any) -> None:
        raise ValueError(f"bad {m.n}")

    pipe = psyne.Pipeline(workers="threads")
    pipe.source(endless, Number).stage(fail).stage(work)
    with pytest.raises(psyne.PipelineError, match=r"stage 'fail' .* crashed: ValueError: bad 1"):
        pipe.run()


def test_a_thread_that_fails_is_started_again() -> None:
    seen: list[int] = []

    def fail_at_seven(m: Any) -> None:
        if m.n == 7:
            raise ValueError("seven")

    pipe = psyne.Pipeline(workers="threads", restart=on_crash(1))
    pipe.source(capture, Number).stage(fail_at_seven).stage(lambda m: seen.append(m.n), name="draw")
    assert pipe.run().stage("fail_at_seven").restarts == 1
    assert seen == list(range(COUNT))  # in threads the message goes on as it is


def test_a_class_with_arguments_is_made_in_its_worker() -> None:
    made: list[Model] = []

    class Noted(Model):
        def __init__(self, factor: int) -> None:
            super().__init__(factor)
            made.append(self)

    pipe = psyne.Pipeline(workers="threads")
    pipe.source(capture, Number).stage(partial(Noted, 3), name="model", members=2)
    pipe.run()
    assert [model.factor for model in made] == [3, 3]
    assert threading.get_ident() not in {model.made_in for model in made}


def test_a_pipeline_may_run_twice_and_outside_the_main_thread() -> None:
    seen: list[int] = []
    pipe = psyne.Pipeline(workers="threads")
    pipe.source(capture, Number).stage(lambda m: seen.append(m.n), name="draw")
    pipe.run()
    other = threading.Thread(target=pipe.run)
    other.start()
    other.join(PATIENCE)
    assert seen == [*range(COUNT)] * 2


def test_kill_waits_for_no_thread() -> None:
    forever = threading.Event()
    inside = threading.Event()

    def stand_still(m: Any) -> None:
        inside.set()
        forever.wait()

    pipe = psyne.Pipeline(workers="threads")
    pipe.source(capture, Number).stage(stand_still)
    running = pipe.start()
    assert inside.wait(PATIENCE)
    running.kill()
    assert running.wait(PATIENCE).stopped_by == "kill()"
    forever.set()


def test_importing_psyne_does_not_import_pipelines(tmp_path: Path) -> None:
    code = "import sys, psyne; print([m for m in sys.modules if 'psyne.pipeline' in m]); print(psyne.Pipeline)"
    assert run_program(code).stdout == "[]\n<class 'psyne.pipeline.program.Pipeline'>\n"
