"""Bad input is a clear exception with the numbers and the next step; nothing hangs, nothing crashes."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array

from .helpers.layouts import Line, Number, Picture
from .helpers.process import Child

CHANNEL_BYTES = 90112  # a channel file with a short schema

# ---- addresses and arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["udp://host:1/camera", "camera", "ipc:camera", "ipc:/camera", "IPC://camera", "", "://camera", "shm://a"],
)
def test_an_unknown_scheme_names_the_known_one(address: str):
    for open_end in (lambda: psyne.sender(address, Number), lambda: psyne.receiver(address)):
        with pytest.raises(psyne.InvalidArgument, match=r"unknown address.*ipc://name") as refused:
            open_end()
        assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("name", ["", "a/b", "/a", "../a", "a\0b", ".", "..", ".hidden", "x" * 129, "ä" * 65])
def test_a_bad_name_says_what_a_name_may_be(name: str):
    for open_end in (lambda: psyne.sender(f"ipc://{name}", Number), lambda: psyne.receiver(f"ipc://{name}")):
        with pytest.raises(psyne.InvalidArgument, match="1 to 128 bytes, no '/', no NUL"):
            open_end()


def test_a_name_that_is_no_text_of_this_world_is_refused():
    with pytest.raises(ValueError, match=r"surrogates|name"):
        psyne.sender("ipc://\udcff", Number)


@pytest.mark.parametrize("address", [None, 5, b"ipc://camera", Path("camera")])
def test_an_address_is_a_string(address: Any):
    with pytest.raises(psyne.InvalidArgument, match="string"):
        psyne.sender(address, Number)
    with pytest.raises(psyne.InvalidArgument, match="string"):
        psyne.receiver(address)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"pattern": "spmp"}, "'spsc', 'spmc', 'mpsc', 'mpmc'"),
        ({"wait": "busy"}, "'adaptive', 'spin', 'block'"),
        ({"full": "wait"}, "'block', 'drop', 'grow'"),
        ({"capacity": 0}, "1 or more; got 0"),
        ({"capacity": -3}, "1 or more; got -3"),
        ({"capacity": 2.5}, "got 2.5"),
        ({"align": 3}, "power of two.*3"),
        ({"align": 0}, "power of two.*0"),
        ({"align": 1 << 22}, "2 MiB"),
    ],
)
def test_an_argument_that_can_never_work_is_refused_with_what_would(arguments: dict, text: str):
    with pytest.raises(psyne.InvalidArgument, match=text):
        psyne.sender("ipc://camera", Number, **arguments)


def test_misspelt_arguments_are_type_errors():
    with pytest.raises(TypeError, match="capacty"):
        psyne.sender("ipc://camera", Number, capacty=5)  # type: ignore[call-overload]
    with psyne.sender("ipc://camera", Number, capacity=8) as tx, psyne.receiver("ipc://camera") as rx:
        for call in (
            lambda: tx.loan(timeuot=1),
            lambda: tx.loan(1, 2),
            lambda: tx.send(),
            lambda: tx.send(Number(), message=Number()),
            lambda: tx.loan_many(),
            lambda: rx.receive(None, 3),
            lambda: rx.receive_many(),
            lambda: rx.receive_many(5, linger=None),
            lambda: rx.batches(),
        ):
            with pytest.raises(TypeError):
                call()
        assert tx.send(Number(n=1), timeout=None)
        assert rx.receive(timeout=None).n == 1


@pytest.mark.parametrize("thing", [Array("u1", 10)(), np.zeros(10, "u1"), bytes(10), bytearray(10), bytes(10**6)])
def test_a_message_larger_than_a_slot_is_refused(thing: Any):
    with psyne.sender("ipc://small", Array("u1", 8), capacity=8) as tx, psyne.receiver("ipc://small") as rx:
        with pytest.raises(psyne.LayoutMismatch, match=r"uint8\[8\].*10"):
            tx.send(thing)
        assert rx.try_receive() is None


@pytest.mark.parametrize("shape", [0, -1, (3, 0), (2.5,), "3"])
def test_an_array_type_has_a_positive_shape(shape: Any):
    with pytest.raises((TypeError, ValueError)):
        Array("u1", shape)


def test_a_class_of_a_psyne_type_cannot_be_made_up_without_fields():
    with pytest.raises(TypeError):
        psyne.Struct()
    with pytest.raises(TypeError):
        psyne.Message()


# ---- files that are not channels -----------------------------------------------------------------------------------


def lay(directory: Path, what: str) -> Path:
    """Puts something under a name that the channel `camera` would have."""
    path = directory / "camera.0123456789abcdef.channel"
    if what == "empty":
        path.touch(0o600)
    elif what == "text":
        path.write_text("hello " * 100_000)
    elif what == "zeros":
        path.write_bytes(bytes(CHANNEL_BYTES))
    elif what == "noise":
        path.write_bytes(os.urandom(CHANNEL_BYTES))
    elif what == "directory":
        path.mkdir()
    elif what == "link":
        (directory / "target").write_bytes(bytes(CHANNEL_BYTES))
        path.symlink_to(directory / "target")
    elif what == "dangling link":
        path.symlink_to(directory / "nowhere")
    elif what == "pipe":
        os.mkfifo(path, 0o600)
    if what in ("text", "zeros", "noise"):
        path.chmod(0o600)
    return path


@pytest.mark.parametrize("what", ["empty", "text", "zeros", "noise", "directory", "link", "dangling link", "pipe"])
def test_a_foreign_file_under_the_channels_name_is_named_and_left_alone(psyne_directory: Path, what: str):
    path = lay(psyne_directory, what)
    before = (path.lstat().st_ino, path.read_bytes() if path.is_file() else None)
    for open_end in (lambda: psyne.sender("ipc://camera", Number), lambda: psyne.receiver("ipc://camera", Number)):
        with pytest.raises(psyne.IncompatibleChannel, match=r"camera\.0123456789abcdef\.channel") as refused:
            open_end()
        assert "remove" in str(refused.value)
    assert (path.lstat().st_ino, path.read_bytes() if path.is_file() else None) == before
    with psyne.sender("ipc://other", Number) as tx:
        tx.send(Number(n=1))


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_channel_file_that_others_may_open_is_refused(psyne_directory: Path, mode: int):
    path = lay(psyne_directory, "zeros")
    path.chmod(mode)
    with pytest.raises(psyne.IncompatibleChannel, match="not a private regular file"):
        psyne.sender("ipc://camera", Number)


OTHER_NAMES = [
    "camera",
    "camera.channel",
    "camera.0123.channel",
    "camera.0123456789abcdeg.channel",
    "camera.0123456789ABCDEF.channel",
    "camera.0123456789abcdef.channel~",
    "notes.txt",
]


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_files_with_other_names_do_not_disturb(psyne_directory: Path, name: str):
    (psyne_directory / name).write_text("not of psyne")
    with psyne.sender("ipc://camera", Number) as tx, psyne.receiver("ipc://camera") as rx:
        tx.send(Number(n=1))
        assert rx.receive().n == 1
    assert [path.name for path in psyne_directory.iterdir()] == [name]


# ---- files of other versions, and damaged ones ---------------------------------------------------------------------


@pytest.fixture
def channel_file(psyne_directory: Path) -> Path:
    """The file of a channel that nobody has open, as a crash may leave it."""
    tx = psyne.sender("ipc://camera", Number, capacity=8)
    (path,) = psyne_directory.glob("*.channel")
    shutil.copy2(path, psyne_directory / "kept")
    tx.close()
    return (psyne_directory / "kept").rename(path)


def refusal() -> str:
    """What a sender and a receiver of the channel `camera` are told; the same."""
    told = []
    for open_end in (lambda: psyne.sender("ipc://camera", Number), lambda: psyne.receiver("ipc://camera", Number)):
        with pytest.raises(psyne.IncompatibleChannel) as refused:
            open_end()
        told.append(str(refused.value))
    assert told[0] == told[1]
    return told[0]


def patch(path: Path, offset: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)


def test_another_layout_version_names_both(psyne_directory: Path, channel_file: Path):
    (version,) = struct.unpack_from("<I", channel_file.read_bytes(), 8)
    patch(channel_file, 8, struct.pack("<I", version + 1))
    text = refusal()
    assert f"layout version {version + 1}" in text
    assert f"this psyne has {version}" in text
    assert channel_file.exists()


HEADER_DAMAGE = [(0, b"NOPE"), (12, b"\1\2\3\4"), (16, b"\7" * 8), (24, b"\7" * 8), (40, b"\1" * 8)]
HEADER_DAMAGE += [(48, b"\xff" * 8), (56, b"\xff" * 4), (60, b"\xff" * 4)]


@pytest.mark.parametrize(("offset", "value"), HEADER_DAMAGE)
def test_a_damaged_header_is_refused(channel_file: Path, offset: int, value: bytes):
    patch(channel_file, offset, value)
    assert str(channel_file) in refusal()


@pytest.mark.parametrize("left", [0, 1, 4096, 118783, 118784])
def test_a_truncated_file_is_refused(channel_file: Path, left: int):
    os.truncate(channel_file, left)
    assert str(channel_file) in refusal()


def test_a_leftover_that_is_whole_is_no_hindrance(psyne_directory: Path, channel_file: Path):
    with psyne.sender("ipc://camera", Picture) as tx:
        tx.send(np.zeros((4, 6), "u1"))
    assert not channel_file.exists()


DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda old: bytes(len(old)),
    lambda old: b"\1" + bytes(len(old) - 1),
    lambda old: b"\xff" * len(old),
    lambda old: bytes(len(old) - 1) + b"\x80",
    lambda old: (int.from_bytes(old, "little") * 2).to_bytes(len(old) + 1, "little")[: len(old)],
    lambda old: (int.from_bytes(old, "little") + 1).to_bytes(len(old) + 1, "little")[: len(old)],
]


LOOK_AT_ALL = """
with psyne.receiver('ipc://camera') as rx:
    while m := rx.try_receive():
        m.array.sum()
        m.release()
"""


@pytest.mark.parametrize("suffix", ["slab", "acks"])
def test_a_corrupted_slab_header_is_refused_and_never_a_crash(psyne_directory: Path, suffix: str):
    """Each field of the header, damaged in several ways, under a sender that lives."""
    with Child() as writer, Child() as reader:
        writer.run("from layouts import lines_of; tx = psyne.sender('ipc://camera', Line, capacity=16, full='drop')")
        writer.run("tx.send_many(lines_of(1, 0, 5))")
        (path,) = psyne_directory.glob(f"*.{suffix}")
        whole = path.read_bytes()[:128]
        refused = 0
        for offset in range(0, 128 if suffix == "slab" else 56, 8):
            for damage in DAMAGE:
                patch(path, offset, damage(whole[offset : offset + 8]))
                try:
                    reader.run(LOOK_AT_ALL)
                except psyne.IncompatibleChannel as error:
                    refused += path.name.rsplit(".", 1)[0] in str(error)
                finally:
                    patch(path, 0, whole)
        assert refused > 20
        with psyne.receiver("ipc://camera", Line) as rx:  # whole again
            writer.run("tx.send_many(lines_of(1, 5, 5))")
            assert rx.receive(timeout=0).array[0] == 1
