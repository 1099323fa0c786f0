"""Pipelines as programs: real processes, real signals, and every message accounted for."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import psyne
from psyne.pipeline import Report, Running, on_crash

from .helpers.process import HELPERS, PATIENCE, until

sys.path.insert(0, str(HELPERS))
import pipelines  # type: ignore[import-not-found]
from pipelines import BAD, COUNT, Frame

pytestmark = [pytest.mark.leaves_nothing, pytest.mark.watchdog(300)]
Notes = Callable[..., list[list[str]]]


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """What the workers wrote: the words behind `kind` in each line that begins with it."""
    file = tmp_path / "notes"
    file.touch()
    monkeypatch.setenv("PSYNE_TEST_NOTES", str(file))
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(HELPERS) + (os.pathsep + path if path else ""))

    def read(kind: str) -> list[list[str]]:
        lines = [line.split() for line in file.read_text().splitlines()]
        return [words[1:] for words in lines if words[0] == kind]

    return read


def numbers(lines: list[list[str]]) -> list[int]:
    return [int(words[1]) for words in lines]


def gone(pid: int) -> bool:
    """No such process, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_four_stages_see_every_message_in_order_in_the_same_memory(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    cam = pipe.source(pipelines.capture, Frame)
    cam.stage(pipelines.double, mutate=True)
    cam.stage(pipelines.Left, members=3, batch=8, linger=0.005)
    cam.stage(pipelines.right, after="double").stage(pipelines.draw, after=["Left", "right"])
    report = pipe.run()
    everything = list(range(COUNT))
    for name in ("double", "right", "draw"):
        assert numbers(notes(name)) == everything
    left = notes("left")
    assert sorted(numbers(left)) == everything
    for pid in {words[0] for words in left}:
        mine = [int(words[1]) for words in left if words[0] == pid]
        assert mine == sorted(mine)
    pids = [{words[0] for words in notes(name)} for name in ("double", "made", "right", "draw")]
    assert [len(it) for it in pids] == [1, 3, 1, 1]
    assert len(set().union(*pids)) == 6  # a process each
    assert str(os.getpid()) not in set().union(*pids)
    assert sorted(notes("made")) == sorted(notes("closed"))
    places = [{words[1]: words[2] for words in notes(name)} for name in ("double", "left", "right", "draw")]
    assert places[0] == places[1] == places[2] == places[3]  # device, inode and offset
    assert {report.source("capture").messages, *(stage.messages for stage in report.sources[0].stages)} == {COUNT}
    assert {report.source("capture").copied_bytes, *(s.copied_bytes for s in report.sources[0].stages)} == {0}
    assert all(0 < stage.latency_p50 <= stage.latency_p99 < PATIENCE for stage in report.sources[0].stages)
    assert report.stopped_by == ""
    assert not report.running


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Runs a program of `pipelines` in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(name: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, str(HELPERS / "pipelines.py"), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(program)
        return program

    yield run
    for program in started:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate()


@pytest.mark.parametrize(
    ("number", "everybody"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_a_signal_stops_the_source_and_all_that_it_sent_is_drawn(
    start: Callable[[str], subprocess.Popen[str]], notes: Notes, number: signal.Signals, everybody: bool
) -> None:
    program = start("endless")
    until(lambda: len(notes("draw")) > 50, "drawing")
    (os.killpg if everybody else os.kill)(program.pid, number)  # a terminal and systemd tell the whole group
    printed, errors = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, errors
    if not everybody:
        assert printed == f"stopped by {number.name}\n"
    assert errors == ""
    assert numbers(notes("draw")) == list(range(int(notes("sent")[0][1])))


def children(pid: int) -> int:
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_ctrl_c_while_the_workers_still_start_ends_all_without_a_word(
    start: Callable[[str], subprocess.Popen[str]], notes: Notes
) -> None:
    program = start("endless")
    until(lambda: children(program.pid) >= 4, "the workers")  # and the resource tracker of multiprocessing
    os.killpg(program.pid, signal.SIGINT)
    printed, errors = program.communicate(timeout=PATIENCE)
    assert (program.returncode, printed, errors) == (0, "stopped by SIGINT\n", "")
    assert notes("draw") == []


def test_a_second_signal_ends_everything_at_once(start: Callable[[str], subprocess.Popen[str]], notes: Notes) -> None:
    program = start("standing")
    until(lambda: notes("stands"), "the stage")
    os.kill(program.pid, signal.SIGINT)
    until(lambda: notes("sent"), "the source's end")
    assert program.poll() is None  # the stage has not passed its message
    os.kill(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=PATIENCE)
    assert program.returncode == -signal.SIGINT, errors
    assert all(gone(int(words[0])) for words in notes("stands") + notes("sent"))


def test_when_its_parent_is_killed_a_pipeline_works_off_what_was_sent_and_ends(
    start: Callable[[str], subprocess.Popen[str]], notes: Notes
) -> None:
    program = start("endless")
    until(lambda: len(notes("draw")) > 50, "drawing")
    os.kill(program.pid, signal.SIGKILL)
    program.wait(PATIENCE)
    pids = {int(words[0]) for kind in ("double", "draw") for words in notes(kind)}
    until(lambda: notes("sent") and all(gone(pid) for pid in pids | {int(notes("sent")[0][0])}), "the workers' end")
    assert numbers(notes("draw")) == list(range(int(notes("sent")[0][1])))
    program.communicate()


def running_with(stage: Any, notes: Notes, **options: Any) -> Running:
    pipe = psyne.Pipeline(restart="on_crash")
    pipe.source(pipelines.endless, Frame, capacity=16).stage(stage, **options).stage(pipelines.draw)
    running = pipe.start()
    until(lambda: notes("draw"), "drawing")
    return running


def test_a_member_that_is_killed_is_started_again_and_no_message_is_lost(notes: Notes) -> None:
    running = running_with(pipelines.look, notes, members=2)
    with running:
        victim = running.report().stage("look").pids[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: running.report().stage("look").restarts == 1, "the new worker")
        until(lambda: len(set(running.report().stage("look").pids) - {victim}) == 2, "its pid")
        drawn = len(notes("draw"))
        until(lambda: len(notes("draw")) > drawn + 50, "drawing")
    assert numbers(notes("draw")) == list(range(int(notes("sent")[0][1])))
    report = running.report()
    assert report.stage("look").restarts == 1
    assert report.source("endless").messages == int(notes("sent")[0][1])


def test_the_only_member_of_a_stage_may_die_while_the_rest_is_worked_off(notes: Notes) -> None:
    pipe = psyne.Pipeline(restart="on_crash")
    pipe.source(pipelines.capture, Frame).stage(pipelines.die_once).stage(pipelines.draw)
    report = pipe.run()  # the source has sent all long before, and waits for the stages
    assert numbers(notes("draw")) == list(range(COUNT))
    assert report.stage("die_once").restarts == 1
    assert report.sources[0].redelivered == 1


def failure_of(pipe: psyne.Pipeline) -> psyne.PipelineError:
    with pytest.raises(psyne.PipelineError) as caught:
        pipe.run()
    return caught.value


def test_too_many_crashes_within_a_minute_stop_the_pipeline(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    cam = pipe.source(pipelines.capture, Frame)
    cam.stage(pipelines.die_of_bad, restart=on_crash(1)).stage(pipelines.draw)
    error = failure_of(pipe)
    assert error.stage == "die_of_bad"
    assert "killed by SIGKILL" in str(error)
    assert "2. crash" in str(error)
    assert len(notes("dies")) == 2
    assert numbers(notes("draw")) == list(range(BAD))  # what it had passed is drawn


def test_an_exception_in_a_stage_is_told_with_its_traceback_and_what_was_passed_is_drawn(
    notes: Notes, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = psyne.Pipeline()
    pipe.source(pipelines.capture, Frame).stage(pipelines.fail_of_bad).stage(pipelines.draw)
    error = failure_of(pipe)
    assert str(error) == f"stage 'fail_of_bad' (pid {error.pid}) crashed: ValueError: frame {BAD} is bad"
    assert error.stage == "fail_of_bad"
    assert error.pid not in (0, os.getpid())
    assert "in fail_of_bad" in error.reason
    assert "in fail_of_bad" in "".join(error.__notes__)
    assert "Traceback" in capfd.readouterr().err  # logged there as well
    assert numbers(notes("draw")) == list(range(BAD))
    assert pipe.report().stopped_by == "a crash"


def test_an_exception_in_a_source_is_told_and_what_it_sent_is_drawn(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    pipe.source(pipelines.failing_capture, Frame).stage(pipelines.draw)
    error = failure_of(pipe)
    assert str(error) == f"source 'failing_capture' (pid {error.pid}) crashed: ValueError: the camera is unplugged"
    assert numbers(notes("draw")) == list(range(COUNT))


def test_when_one_branch_fails_the_other_is_worked_off_to_its_end(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    cam = pipe.source(pipelines.endless, Frame, capacity=16)
    cam.stage(pipelines.fail_of_bad).stage(pipelines.sluggish, after=[]).stage(pipelines.draw)
    assert failure_of(pipe).stage == "fail_of_bad"
    assert numbers(notes("draw")) == list(range(int(notes("sent")[0][1])))


def test_a_source_that_fails_is_started_again_and_its_stages_stay(notes: Notes) -> None:
    pipe = psyne.Pipeline(restart=on_crash(1))
    pipe.source(pipelines.flaky_capture, Frame).stage(pipelines.draw)
    report = pipe.run()
    assert numbers(notes("draw")) == [*range(5), *range(COUNT)]
    assert len({words[0] for words in notes("draw")}) == 1
    assert (report.sources[0].restarts, report.sources[0].messages) == (1, 5 + COUNT)


def test_a_class_that_cannot_be_made_stops_the_pipeline_before_anything_is_sent(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    pipe.source(pipelines.endless, Frame).stage(pipelines.Broken).stage(pipelines.draw)
    assert "OSError: no weights" in str(failure_of(pipe))
    assert notes("sent") == notes("draw") == []


def test_a_message_that_three_workers_do_not_survive_is_taken_out_and_the_pipeline_goes_on(notes: Notes) -> None:
    pipe = psyne.Pipeline(restart=on_crash(5))
    pipe.source(pipelines.capture, Frame).stage(pipelines.fail_of_bad).stage(pipelines.draw)
    report = pipe.run()
    assert numbers(notes("draw")) == [n for n in range(COUNT) if n != BAD]
    assert report.stage("fail_of_bad").restarts == 3
    assert report.sources[0].poisoned == 1
    assert report.stage("draw").messages == COUNT - 1


def test_a_message_that_a_failing_stage_had_half_changed_is_taken_out(notes: Notes) -> None:
    pipe = psyne.Pipeline(restart="on_crash")
    pipe.source(pipelines.capture, Frame).stage(pipelines.spoil, mutate=True).stage(pipelines.right)
    report = pipe.run()
    assert numbers(notes("right")) == [n for n in range(COUNT) if n != BAD]
    assert (report.sources[0].dropped, report.stage("spoil").restarts) == (1, 1)


def test_kill_ends_everything_at_once_and_leaves_nothing(
    notes: Notes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psyne.pipeline.supervisor.PATIENCE", 0.0)
    pipe = psyne.Pipeline()
    pipe.source(pipelines.deaf, Frame).stage(pipelines.draw)
    running = pipe.start()
    until(lambda: notes("deaf"), "the beginning")  # who is told before that does not begin
    running.stop()
    until(lambda: notes("told"), "the source")
    until(lambda: "has not ended" in caplog.text, "the warning")
    assert running.alive
    pids = [*pipe.report().sources[0].pids, *pipe.report().stage("draw").pids]
    running.kill()
    assert not running.wait(PATIENCE).running
    assert all(gone(pid) for pid in pids)


def test_a_running_pipeline_reports_draws_and_is_seen_from_outside(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    cam = pipe.source(pipelines.endless, Frame, address="ipc://camera", capacity=16, name="a <camera> & more")
    cam.stage(pipelines.slow, members=2).stage(pipelines.draw)
    before = pipe.draw()
    with pipe.start() as running:
        until(lambda: notes("draw"), "drawing")
        report: Report = until(lambda: r if (r := running.report()).bottleneck else None, "the bottleneck")
        assert report.running
        assert report.bottleneck == ("a <camera> & more", "slow")
        assert report.stuck.startswith("stuck at slow: ")
        assert any(f"pid {pid}" in report.stuck for pid in report.stage("slow").pids)
        until(lambda: running.report().sources[0].used == 16 == running.report().sources[0].capacity, "a full ring")
        until(lambda: running.report().stage("slow").per_second > 0, "a rate")
        seen = psyne.inspect("ipc://camera")
        assert seen is not None
        assert {member.pid for member in seen.stage("slow").members} == set(report.stage("slow").pids)
        with pytest.raises(psyne.InvalidArgument, match="runs already"):
            pipe.start()
        with pytest.raises(TimeoutError, match="still runs"):
            running.wait(0)
        while_it_runs = running.draw()
    after = pipe.draw()
    for picture in (before, while_it_runs, after):
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
        assert "a &lt;camera&gt; &amp; more" in picture
    assert "p50" not in before
    assert "stuck at slow" in while_it_runs
    assert "the pipeline has ended" in after
    assert pipe.report().stopped_by == "the end of its block"
    assert pipe.report().stage("draw").messages == int(notes("sent")[0][1])


def test_two_sources_run_side_by_side_and_one_may_have_several_members(notes: Notes) -> None:
    pipe = psyne.Pipeline()
    pipe.source(pipelines.capture, Frame, members=2).stage(pipelines.look)
    pipe.source(pipelines.capture, Frame, name="other").stage(pipelines.draw)
    report = pipe.run()
    assert sorted(numbers(notes("look"))) == sorted([*range(COUNT)] * 2)
    assert numbers(notes("draw")) == list(range(COUNT))
    assert (report.source("capture").messages, report.source("other").messages) == (2 * COUNT, COUNT)


def test_handlers_of_signals_are_put_back(notes: Notes) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    pipe = psyne.Pipeline(workers="threads")
    pipe.source(pipelines.capture, Frame).stage(pipelines.draw)
    pipe.run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
