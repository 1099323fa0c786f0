"""`psyne demo`, run as its users run it, and the parts that its proof rests on."""

import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import psyne
from psyne import Struct, demo, u8
from psyne.demo.analyse import Analysis
from psyne.demo.capture import ALIGN, frame_type
from psyne.demo.colour import YuvToRgb
from psyne.demo.edges import STARTS, DeviceEdges
from psyne.demo.options import Options, check_extras
from psyne.demo.place import Place, place_of
from psyne.demo.program import DemoError
from psyne.demo.result import PROGRAMS, Result
from psyne.demo.sheet import TILES, Sheet
from psyne.devices import info_of, spirv

from .helpers import fakecuda, ptx

COMMAND = Path(sysconfig.get_path("scripts")) / "psyne"
KERNELS = Path(demo.__file__).parent / "kernels"
PIDS = re.compile(r"(\w+): pid (\d+)")


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "demo", *arguments], cwd=cwd, capture_output=True, text=True, timeout=90)


@pytest.fixture(params=[*STARTS, "a stand-in for cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Each kind of device that the demo has a kernel for."""
    kind: str = request.param
    if kind == "a stand-in for cuda":
        kind = "cuda"
        monkeypatch.setenv("PSYNE_LIBCUDA", fakecuda.library())
        monkeypatch.setenv("FAKECUDA_DIR", str(tmp_path))
    try:
        info_of(kind)
    except psyne.DeviceUnavailable as error:
        pytest.skip(f"no {kind}: {error}")
    return kind


def write_video(path: Path, *, size: tuple[int, int], frames: int, pixel_format: str, grey: int) -> Path:
    """A lossless video of one colour."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        picture = np.full((size[1], size[0], 3), grey, np.uint8)
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return path


# --- the whole ---------------------------------------------------------------


@pytest.mark.leaves_nothing
def test_every_process_finds_every_frame_in_the_memory_that_capture_wrote(tmp_path: Path) -> None:
    done = run("--frames", "40", "--json", "demo.json", "--output", "sheet.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "demo.json").read_text())

    places = {name: program["places"] for name, program in result["programs"].items()}
    assert list(places) == ["capture", "analyse", "show"]
    assert len({program["pid"] for program in result["programs"].values()}) == 3
    for name in ("analyse", "show"):
        for key in ("device", "inode", "offset"):
            assert [place[key] for place in places[name]] == [place[key] for place in places["capture"]]
    assert {place["inode"] > 0 for place in places["capture"]} == {True}
    assert result["page_frames"]["same"] == result["page_frames"]["readable"]
    if os.geteuid() == 0:
        assert result["page_frames"]["readable"] == 40

    assert result["frames"] == len(places["show"]) == 40
    assert result["same_memory"] is True
    assert result["bytes_copied"] == 0
    assert result["megabytes_per_second"] > 0
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]

    assert "same in 40 of 40" in done.stdout or os.geteuid() != 0
    assert "contact sheet: sheet.png" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 1000
        assert np.asarray(sheet).std() > 20


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "bgr0"])
def test_a_video_of_odd_size_and_any_pixel_format_keeps_its_colours(tmp_path: Path, pixel_format: str) -> None:
    video = write_video(tmp_path / "odd.mkv", size=(133, 75), frames=3, pixel_format=pixel_format, grey=150)
    done = run("--video", video, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3, 133 × 75, none lost" in done.stdout
    with Image.open(tmp_path / "psyne-demo.png") as sheet:
        pixels = np.asarray(sheet).astype(int).reshape(-1, 3)
    assert np.sum(np.abs(pixels - 150).max(axis=1) <= 2) > 3 * 100 * 100, "three grey pictures"


@pytest.mark.leaves_nothing
def test_a_device_finds_the_same_edges_and_every_frame_in_the_same_memory(tmp_path: Path, device: str) -> None:
    by_numpy = tmp_path.parent / "by_numpy.png"
    if not by_numpy.exists():  # for all devices
        done = run("--frames", "12", "--output", by_numpy, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run("--frames", "12", "--output", "kernel.png", "--json", "demo.json", "--device", device, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert by_numpy.read_bytes() == (tmp_path / "kernel.png").read_bytes()

    result = json.loads((tmp_path / "demo.json").read_text())
    places = result["device"]["places"]
    assert result["device"]["name"].partition(":")[0] == device
    for key in ("device", "inode", "offset"):
        assert [place[key] for place in places] == [place[key] for place in result["programs"]["capture"]["places"]], (
            key
        )
    assert result["bytes_copied"] == 0
    assert result["page_frames"]["same"] == result["page_frames"]["readable"]
    if os.geteuid() == 0:
        assert result["page_frames"]["readable"] == 12, "the page table of the device's mapping, too"
    assert re.search(rf"{result['device']['name']} .* same", done.stdout.replace("\n", " "))


# --- what goes wrong ---------------------------------------------------------


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return tmp_path / "sound.wav"


def test_what_cannot_work_is_said_in_one_line(tmp_path: Path, sound: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for arguments, complaint in {
        ("--video", tmp_path / "gone.mp4"): "there is no file",
        ("--video", tmp_path): "there is no file",
        ("--video", text): "text.mp4 cannot be opened as a video: Invalid data",
        ("--video", sound): "sound.wav has no video in it",
        ("--frames", "0"): "1 or more; got 0",
        ("--frames", "-3"): "1 or more; got -3",
        ("--output", tmp_path): "cannot be written",
        ("--output", tmp_path / "gone" / "sheet.png"): "cannot be written",
        ("--json", tmp_path / "gone" / "demo.json"): "cannot be written",
        ("--video", text, "--output", text): "is the video itself",
        ("--device", "abacus"): "--device abacus: there is no kind of device for 'abacus'; there are cpu, ",
        ("--device", "vulkan:99"): "--device vulkan:99: ",
    }.items():
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 1, arguments
        assert done.stderr.startswith("psyne demo: "), arguments
        assert complaint in done.stderr
        assert done.stderr.count("\n") == 1, "a traceback?"


def test_a_device_whose_driver_is_missing_is_said_with_what_to_install(tmp_path: Path) -> None:
    environment = os.environ | {"PSYNE_LIBCUDA": "/nowhere/libcuda.so.1"}
    done = subprocess.run(
        [COMMAND, "demo", "--device", "cuda"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 1
    assert re.fullmatch(
        r"psyne demo: --device cuda: there is no NVIDIA driver here .*; install the driver, .*\n", done.stderr
    )


def test_missing_extras_are_named_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("psyne.demo.options.find_spec", lambda name: None if name in ("av", "skvideo") else find(name))
    with pytest.raises(DemoError, match=r"needs av: pip install 'psyne\[demo\]'"):
        check_extras()
    with pytest.raises(DemoError, match=r"pip install 'psyne\[demo\]', or give --video"):
        Options().clip()


class Running:
    """A demo that was started and has put `until` on its standard output."""

    def __init__(self, cwd: Path, until: str) -> None:
        command = [COMMAND, "demo", "--output", cwd / "sheet.png"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=cwd)
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if until in line:
                break
        self.pids = {name: int(pid) for name, pid in PIDS.findall(seen)}

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def left(self) -> list[str]:
        """The programs that still run."""
        return [name for name, pid in self.pids.items() if Path(f"/proc/{pid}").exists()]


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("moment", ["show: pid", " of 132 frames"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_killed_program_ends_the_demo_with_its_name(tmp_path: Path, name: str, moment: str) -> None:
    demo = Running(tmp_path, until=moment)
    os.kill(demo.pids[name], signal.SIGKILL)
    status, errors = demo.end()
    assert status == 1
    *warnings, last = errors.splitlines()
    assert last == f"psyne demo: {name} (pid {demo.pids[name]}) failed: killed by SIGKILL"
    assert [line for line in warnings if "died" not in line] == [], "a traceback?"
    assert demo.left() == []


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("moment", ["show: pid", " of 132 frames"])
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_ends_its_programs(tmp_path: Path, number: int, expected: int, moment: str) -> None:
    demo = Running(tmp_path, until=moment)
    demo.process.send_signal(number)
    assert demo.end() == (expected, "")
    assert demo.left() == []


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("moment", ["show: pid", " of 132 frames"])
def test_programs_end_by_themselves_when_their_supervisor_is_killed(tmp_path: Path, moment: str) -> None:
    demo = Running(tmp_path, until=moment)
    handles = [os.pidfd_open(pid) for pid in demo.pids.values()]
    demo.process.kill()
    for handle in handles:
        assert select.select([handle], [], [], 60)[0], "a program goes on without its supervisor"
        os.close(handle)
    _, errors = demo.end()
    assert "Traceback" not in errors


@pytest.mark.leaves_nothing
def test_a_program_that_already_ends_is_not_stopped_again() -> None:
    late = "atexit.register(os.kill, os.getpid(), signal.SIGTERM)"
    code = f"import atexit, os, signal; from psyne.demo.program import run; {late}; run(lambda: None)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stderr=pipe, text=True) as program:
        assert program.stderr is not None
        assert program.stderr.read() == ""
    assert program.returncode == 0


# --- the proof ---------------------------------------------------------------


class Picture(Struct):
    image = u8(300, 400, 3)


@pytest.mark.leaves_nothing
def test_two_mappings_of_one_message_are_one_place() -> None:
    with psyne.sender("ipc://x", Picture) as out, psyne.receiver("ipc://x", Picture) as into:
        with out.loan() as m:
            m.image[...] = 7
            written, at = place_of(m.image), m.image.__array_interface__["data"][0]
        with into.receive() as m:
            read, also = place_of(m.image), m.image.__array_interface__["data"][0]
    assert at != also
    assert written == read


def test_two_messages_are_two_places() -> None:
    with psyne.sender("ipc://x", Picture) as out, psyne.receiver("ipc://x", Picture):
        with out.loan() as m:
            first = place_of(m.image)
        with out.loan() as m:
            second = place_of(m.image)
    assert first[:2] == second[:2]
    assert second.offset - first.offset >= 300 * 400 * 3


def test_a_copy_in_private_memory_is_no_shared_place() -> None:
    with psyne.sender("ipc://x", Picture) as out, out.loan() as m:
        copy = m.image.copy()
    with pytest.raises(DemoError, match="not one shared file"):
        place_of(copy)


HERE = Place("00:1b", 77, 4096, 5)


def result_of(*places: Place, on_device: Place | None = None) -> Result:
    """What comes out when capture, analyse and show report these places for the only frame; and a device, if any."""
    result = Result("clip.mp4", dict.fromkeys(PROGRAMS, 1))
    result.take("capture", {"size": [640, 480], "expected": 1, "pixel_format": "yuv420p", "bytes": 1000})
    if on_device is not None:
        result.take("analyse", {"device": "vulkan:0", "product": "llvmpipe"})
    for name, place in zip(PROGRAMS, places, strict=True):
        found = {"on_device": list(on_device)} if on_device is not None and name == "analyse" else {}
        result.take(name, {"index": 0, "place": list(place), "stamp": 1000, "seen": 3000} | found)
    return result


def test_one_memory_passes() -> None:
    result = result_of(HERE, HERE, HERE)
    result.check()
    assert result.as_dict()["bytes_copied"] == 0


@pytest.mark.parametrize("change", [{"device": "00:1c"}, {"inode": 78}, {"offset": 8192}])
def test_a_device_that_has_the_message_elsewhere_fails(change: dict[str, Any]) -> None:
    result = result_of(HERE, HERE, HERE, on_device=HERE._replace(**change))
    assert result.as_dict()["bytes_copied"] == 1000
    with pytest.raises(DemoError, match="1 of 3 looks found another device, inode or offset"):
        result.check()


def test_a_device_that_missed_a_message_fails() -> None:
    result = result_of(HERE, HERE, HERE, on_device=HERE)
    result.check()
    for name in PROGRAMS:
        result.take(name, {"index": 1, "place": list(HERE), "stamp": 1000, "seen": 3000})
    with pytest.raises(DemoError, match="lost"):
        result.check()


@pytest.mark.parametrize("change", [{"device": "00:1c"}, {"inode": 78}, {"offset": 8192}])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_message_in_another_place_counts_as_copied_and_fails(change: dict[str, Any], stage: int) -> None:
    places = [HERE, HERE, HERE]
    places[stage] = HERE._replace(**change)
    result = result_of(*places)
    assert result.as_dict()["bytes_copied"] == 1000
    assert result.as_dict()["same_memory"] is False
    with pytest.raises(DemoError, match="1 of 2 looks found another device, inode or offset"):
        result.check()


def test_another_page_frame_fails() -> None:
    with pytest.raises(DemoError, match="page frames"):
        result_of(HERE, HERE, HERE._replace(page_frame=6)).check()


def test_page_frames_that_cannot_be_read_prove_nothing_and_do_not_fail() -> None:
    result = result_of(*[HERE._replace(page_frame=None)] * 3)
    result.check()
    assert result.page_frames() == (0, 0)


def test_a_frame_that_is_missed_fails() -> None:
    result = result_of(HERE, HERE, HERE)
    with pytest.raises(DemoError, match="frame 2 when frame 1 was next"):
        result.take("show", {"index": 2, "place": list(HERE), "stamp": 1000, "seen": 3000})
    result.take("capture", {"index": 1, "place": list(HERE), "stamp": 1000})
    with pytest.raises(DemoError, match="lost"):
        result.check()


# --- the work ----------------------------------------------------------------


def rgb_by_the_book(y: Any, u: Any, v: Any, red: float, blue: float, full_range: bool) -> Any:
    """The standard's formula in floating point; every colour sample is for 2 x 2 pixels."""
    scale, black, colour = (1, 0, 1) if full_range else (255 / 219, 16, 255 / 224)
    height, width = y.shape
    u, v = (
        (plane.repeat(2, axis=0).repeat(2, axis=1)[:height, :width].astype(float) - 128) * colour for plane in (u, v)
    )
    bright = (y.astype(float) - black) * scale
    r, b = bright + 2 * (1 - red) * v, bright + 2 * (1 - blue) * u
    g = (bright - red * r - blue * b) / (1 - red - blue)
    return np.stack([r, g, b], axis=-1).clip(0, 255)


@pytest.mark.parametrize(("hd", "red", "blue"), [(False, 0.299, 0.114), (True, 0.2126, 0.0722)])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (51, 33)])
def test_colours_are_those_of_the_standard(
    hd: bool, red: float, blue: float, full_range: bool, height: int, width: int
) -> None:
    random = np.random.default_rng(1)
    y = random.integers(0, 256, (height, width), np.uint8)
    u, v = (random.integers(0, 256, ((height + 1) // 2, (width + 1) // 2), np.uint8) for _ in "uv")
    rgb = np.empty((height, width, 3), np.uint8)
    YuvToRgb(y.shape, u.shape, hd=hd, full_range=full_range)(y, u, v, rgb)
    error = rgb - rgb_by_the_book(y, u, v, red, blue, full_range)
    assert np.abs(error).max() < 1.2
    assert abs(error.mean()) < 0.1


@pytest.fixture
def frames() -> Any:
    """Makes frames of 40 x 30 pixels, their results full of what was there before."""
    frame = frame_type(40, 30)

    def make(image: Any) -> Any:
        m = frame(sharpness=9.0, motion=9.0)
        m.image[...], m.edges[...] = image, 99
        return m

    return make


def test_a_flat_picture_has_no_sharpness_no_motion_and_no_edges(frames: Any) -> None:
    m = frames(128)
    Analysis()(m)
    assert (m.sharpness, m.motion) == (0, 0)
    assert not m.edges.any()


def test_sharpness_is_the_variance_of_the_laplacian(frames: Any) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (30, 40, 1), np.uint8)
    m = frames(noise)
    Analysis()(m)
    g = noise[..., 0].astype(float)
    laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
    assert m.sharpness == pytest.approx(laplacian.var(), rel=1e-4)


def test_motion_is_the_mean_difference_to_the_picture_before(frames: Any) -> None:
    analysis = Analysis()
    for grey, moved in [(100, 0), (120, 20), (90, 30), (90, 0)]:
        m = frames(grey)
        analysis(m)
        assert m.motion == moved


def test_edges_are_where_the_brightness_changes(frames: Any) -> None:
    picture = np.zeros((30, 40, 1), np.uint8)
    picture[:, 20:] = 200
    m = frames(picture)
    Analysis()(m)
    assert np.flatnonzero(m.edges[15]).tolist() == [19, 20]


SIZES = [(64, 48), (33, 51), (7, 5), (3, 3), (2, 9), (9, 1), (1, 1)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_kernel_finds_what_numpy_finds_and_touches_nothing_else(device: str, width: int, height: int) -> None:
    frame = frame_type(width, height)
    random = np.random.default_rng(width)
    with (
        psyne.sender("ipc://x", frame, capacity=4, align=ALIGN) as out,
        psyne.device(device),
        out.loan_many(3) as batch,
    ):
        edges = DeviceEdges(device)
        for m in batch:
            m.image[:] = random.integers(0, 256, m.image.shape, np.uint8)
            m.edges[:], m.index = 99, 12
        before = [(m.image.copy(), m.copy()) for m in batch]
        analysis = Analysis(edges)
        analysis(batch[1])
        Analysis()(before[1][1])
        assert (batch[1].edges == before[1][1].edges).all()
        assert (batch[1].image == before[1][0]).all()
        assert batch[1].index == 12
        for i in (0, 2):
            assert bytes(batch[i]) == bytes(before[i][1])
        batch.discard()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_kernel_for_cuda_does_the_same_where_its_instructions_are_followed(width: int, height: int) -> None:
    m = frame_type(width, height)(index=12)
    m.image[:] = np.random.default_rng(width).integers(0, 256, m.image.shape, np.uint8)
    expected, message = m.copy(), np.frombuffer(bytes(m), np.uint8).copy()
    Analysis()(expected)
    expected.sharpness = expected.motion = 0
    fields = m.array.dtype.fields
    places = [width, height, fields["edges"][1], fields["image"][1]]
    ptx.run((KERNELS / "edges.ptx").read_text(), message, places, width * height)
    assert bytes(message) == bytes(expected)


def test_the_compiled_kernels_are_what_their_sources_say(tmp_path: Path) -> None:
    """Where the compilers are, and of the version that made them."""
    compared = []
    if shutil.which("glslangValidator"):
        kept, made = (KERNELS / "edges.spv").read_bytes(), spirv.compiled((KERNELS / "edges.comp").read_text())
        if kept[8:12] == made[8:12]:  # the compiler and its version
            assert kept == made
            compared.append("spv")
    command = (KERNELS / "edges.cl").read_text().splitlines()[0].removeprefix("// ").split()
    if shutil.which(command[0]):
        made_ptx = tmp_path / "edges.ptx"
        subprocess.run([made_ptx if it == "edges.ptx" else it for it in command], cwd=KERNELS, check=True)
        assert (KERNELS / "edges.ptx").read_text() == made_ptx.read_text()
        compared.append("ptx")
    if not compared:
        pytest.skip("neither glslangValidator nor clang-15 is installed")


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="no ptxas: it comes with the CUDA toolkit")
@pytest.mark.parametrize("gpu", ["sm_75", "sm_90"])
def test_the_assembler_of_nvidia_takes_the_kernel(tmp_path: Path, gpu: str) -> None:
    subprocess.run(["ptxas", f"-arch={gpu}", "-o", tmp_path / "cubin", KERNELS / "edges.ptx"], check=True)


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13, 36, 500])
def test_the_sheet_spreads_its_pictures_over_a_clip_of_any_length(tmp_path: Path, count: int) -> None:
    sheet = Sheet("clip")
    for i in range(count):
        if sheet.wants(i):
            sheet.add(i, np.full((30, 40, 3), 200, np.uint8), np.zeros((30, 40), np.uint8), 1.0, 1.0)
    chosen = [tile.frame for tile in sheet.chosen()]
    assert len(chosen) == min(count, TILES)
    assert chosen[0] == 0
    steps = np.diff([*chosen, count])
    assert steps.size < 2 or steps.max() <= 2 * max(1, count / TILES)
    sheet.save(str(tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.getextrema() != ((0, 0), (0, 0), (0, 0))
