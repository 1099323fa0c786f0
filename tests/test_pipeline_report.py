"""What a report says, how it is printed and drawn: from given numbers."""

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from psyne.inspect import Channel, Lane, Member, Oldest, StageState
from psyne.pipeline import Report, SourceReport, StageReport
from psyne.pipeline.drawing import draw
from psyne.pipeline.gather import quantile
from psyne.pipeline.report import rate, seconds
from psyne.pipeline.stuck import stuck_at

WORKERS: dict[str, Any] = {
    "members": 1, "restarts": 0, "messages": 1200, "per_second": 31.4, "overall": 30.0, "copied_bytes": 0,
}  # fmt: skip


def stage(name: str, *after: str, backlog: int = 0, pid: int = 7, **changes: Any) -> StageReport:
    it = StageReport(
        **WORKERS, name=name, pids=(pid,), after=after, mutate=False, batch=None, busy=0.5, latency_p50=0.0021,
        latency_p99=0.0093, backlog=backlog, held=0,
    )  # fmt: skip
    return replace(it, **changes)


def source(*stages: StageReport, capacity: int = 16) -> SourceReport:
    return SourceReport(
        **WORKERS, name="camera", pids=(6,), address="ipc://camera", used=4, capacity=capacity, blocked=0, missed=0,
        late_wakes=0, redelivered=0, poisoned=0, dropped=0, stages=stages,
    )  # fmt: skip


DIAMOND = (
    stage("a"),
    stage("b", "a"),
    stage("c", "a", mutate=True),
    stage("d", "b", "c", members=3, restarts=2, batch=8),
)


def report(*stages: StageReport, bottleneck: tuple[str, str] | None = None) -> Report:
    return Report(12.0, True, "", (source(*stages),), bottleneck, "stuck at b")


def channel(name: str, oldest: Oldest | None) -> Channel:
    state = StageState(name, False, (), (), 0, 1, 8, oldest)
    return Channel("ipc://camera", "Frame", "spsc", (Lane(1, None, "open", 9, 16, 9, 1, 65536),), (state,), 0, 0, 0, 0)


def test_the_stage_with_the_backlog_is_the_bottleneck_and_who_holds_the_oldest_is_named() -> None:
    holder = Member(3, 812, "infer.py", True, 1)
    sources = [source(stage("a"), stage("b", "a", backlog=9))]
    place, sentence = stuck_at(sources, {"camera": channel("b", Oldest(17, 0, holder))}, {})
    assert place == ("camera", "b")
    assert sentence == "stuck at b: 9 messages wait for it in a ring of 16; pid 812 holds the oldest, number 17"


def test_a_bottleneck_without_workers_is_told_as_such() -> None:
    sources = [source(stage("b", backlog=9, pids=()))]
    assert stuck_at(sources, {"camera": None}, {})[1].endswith("nobody is there to take them")


def test_without_a_backlog_a_call_that_lasts_is_told() -> None:
    place, sentence = stuck_at([source(stage("a", backlog=7))], {"camera": None}, {("camera", "a", 7): 3.21})
    assert (place, sentence) == (("camera", "a"), "a (pid 7) has been working on one call for 3.2 s")


def test_a_pipeline_that_keeps_up_is_not_stuck() -> None:
    place, sentence = stuck_at([source(stage("a", backlog=7))], {"camera": None}, {("camera", "a", 7): 0.9})
    assert (place, sentence) == (None, "nothing is stuck: the sources set the pace")


def test_a_quantile_is_interpolated_within_its_power_of_two() -> None:
    assert quantile([0] * 48, 0.5) == 0.0
    assert quantile([0, 0, 0, 0, 4], 0.5) == 12.0  # half way from 8 to 16
    assert quantile([0, 0, 0, 0, 4], 1.0) == 16.0
    assert quantile([5, 0, 0, 0, 5], 0.25) == 0.0
    assert quantile([0, 9, 0, 0, 0, 1], 0.99) == pytest.approx(30.4)


@pytest.mark.parametrize(
    ("number", "text"), [(0.0, "0"), (0.521, "0.521"), (31.44, "31.4"), (1204.0, "1 204"), (1.25e6, "1.25 M")]
)
def test_a_rate_has_three_digits(number: float, text: str) -> None:
    assert rate(number) == text


@pytest.mark.parametrize(
    ("time", "text"), [(0.0, "–"), (2.5e-8, "25 ns"), (3.2e-5, "32 µs"), (0.0123, "12.3 ms"), (4.0, "4 s")]
)
def test_a_time_has_its_unit(time: float, text: str) -> None:
    assert seconds(time) == text


def test_the_table_has_a_line_for_each_source_and_stage_and_says_where_it_is_stuck() -> None:
    lines = str(report(*DIAMOND)).splitlines()
    assert [line.split()[0] for line in lines] == ["members", "camera", "a", "b", "c", "d", "stuck"]
    assert lines[5].split() == ["d", "1", "of", "3", "1200", "31.4", "30", "50%", "2.1", "ms", "9.3", "ms", "0", "2"]
    assert lines[1].endswith("4 of 16         0")


def test_rich_prints_the_same_table() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=160)
    with console.capture() as printed:
        console.print(report(*DIAMOND))
    assert all(word in printed.get() for word in ("camera", "31.4", "2.1 ms", "stuck at b"))


def test_a_source_or_stage_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        report().source("lidar")
    with pytest.raises(KeyError):
        report().stage("a")
    assert report(*DIAMOND).stage("d").members == 3


def drawn(picture: str) -> tuple[list[str], list[str]]:
    """The texts of a picture, and the ways of its arrows."""
    svg = ElementTree.fromstring(picture)
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text or "" for element in svg.iter(f"{name}text")]
    return texts, [path.attrib["d"] for path in svg.iter(f"{name}path") if path.attrib["fill"] == "none"]


def test_the_picture_has_a_box_for_each_stage_and_an_arrow_for_each_after() -> None:
    texts, arrows = drawn(draw(report(*DIAMOND)))
    assert [text for text in texts if text in ("camera", "a", "b", "c", "d")] == ["camera", "a", "b", "c", "d"]
    assert len(set(arrows)) == 5  # camera-a, a-b, a-c, b-d, c-d
    assert "mutates" in texts
    assert "1 of 3 · batch 8" in texts
    assert "busy 50% · backlog 0 · restarts 2" in texts


def test_the_bottleneck_is_drawn_in_red() -> None:
    assert "#dc2626" not in draw(report(*DIAMOND))
    assert "#dc2626" in draw(report(*DIAMOND, bottleneck=("camera", "b")))


def test_names_are_escaped_and_shortened() -> None:
    texts, _ = drawn(draw(report(stage("<&>" * 12))))
    assert any(text.startswith("<&><&>") and text.endswith("…") for text in texts)
