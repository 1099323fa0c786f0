"""Stages of a pipeline that go on to the next message while a device works on this one."""

import os
import sys
from typing import Any, Literal

import pytest

import psyne

from .helpers.process import HELPERS

sys.path.insert(0, str(HELPERS))
import device_stages  # type: ignore[import-not-found]
from device_stages import COUNT
from layouts import Line  # type: ignore[import-not-found]

pytestmark = [pytest.mark.leaves_nothing, pytest.mark.watchdog(300)]
Workers = Literal["processes", "threads"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(HELPERS) + (os.pathsep + path if path else ""))


def pipeline(change: Any, workers: Workers = "processes", **options: Any) -> psyne.Pipeline:
    pipe = psyne.Pipeline(workers=workers)
    camera = pipe.source(device_stages.capture, Line, name="camera", capacity=8)
    camera.stage(change, mutate=True, **options)
    camera.stage(device_stages.check)
    return pipe


@pytest.mark.parametrize("workers", ["processes", "threads"])
@pytest.mark.parametrize("members", [1, 3])
def test_the_next_stage_sees_what_the_device_has_finished(workers: Workers, members: int) -> None:
    report = pipeline(device_stages.Change, workers, members=members).run()
    assert [stage.messages for stage in report.source("camera").stages] == [COUNT] * 2


def test_a_stage_takes_batches_and_releases_them_after_an_event() -> None:
    report = pipeline(device_stages.ChangeBatch, batch=4).run()
    assert [stage.messages for stage in report.source("camera").stages] == [COUNT] * 2


@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_work_that_fails_ends_the_pipeline_with_its_reason(workers: Workers) -> None:
    with pytest.raises(psyne.PipelineError, match=r"EventFailed: the work that message 7 .*ValueError\('the kernel"):
        pipeline(device_stages.Failing, workers).run()


def test_a_stage_that_is_started_again_goes_on_without_the_message_whose_work_failed() -> None:
    report = pipeline(device_stages.Failing, restart="on_crash").run()
    camera = report.source("camera")
    change, check = camera.stages
    assert change.restarts == 1
    assert camera.messages == COUNT
    assert COUNT - 8 <= check.messages < COUNT  # it, and what the device worked on when its process ended
