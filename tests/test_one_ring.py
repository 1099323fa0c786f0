"""Channels are made of the very rings and allocators that are offered by themselves: nothing else writes slots."""

import re
from pathlib import Path
from typing import Any

import psyne
from psyne import Struct, u64

ROOT = Path(__file__).parents[1]
RINGS = {"RingBuffer", "DynamicRingBuffer", "SlabAllocator", "DynamicSlabAllocator"}
PUBLISHES = r"\bready(\w*)(\[|\.|->)[^;]*\.(store|exchange|fetch_\w+|compare_exchange_\w+)\([^;]*Ready::"
MAKES_SLABS = r"\bSlab::create\s*\("
CLASSES = r"^\s*class\s+(\w*(?:Ring|Allocator)\w*)(?=[^;]*\{)"


class Number(Struct):
    n = u64()


def places(pattern: str, root: Path = ROOT) -> dict[str, list[str]]:
    """What a pattern finds in the headers of the core and in the bindings, by file."""
    found = {}
    for folder in ("core/include", "bindings"):
        for path in sorted((root / folder).rglob("*.?pp")):
            text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
            if matches := [m.group() for m in re.finditer(pattern, text, re.MULTILINE)]:
                found[path.relative_to(root).as_posix()] = matches
    return found


def test_only_the_ring_publishes_slots() -> None:
    found = places(PUBLISHES)
    assert set(found) <= {"core/include/psyne/ring_buffer.hpp"}
    assert len(places(r"\bready\[[^\]]*\]\.store")["core/include/psyne/ring_buffer.hpp"]) == 4
    assert set(places(r"\bready\[[^\]]*\]\.store")) == {"core/include/psyne/ring_buffer.hpp"}


def test_only_the_allocators_make_slabs() -> None:
    assert set(places(MAKES_SLABS)) == {"core/include/psyne/slab_allocator.hpp"}


def test_the_core_has_these_classes_and_no_others_of_their_kind() -> None:
    names = {re.sub(r"\s+", " ", match).split(" ")[-1] for found in places(CLASSES).values() for match in found}
    assert names == RINGS
    assert RINGS.issubset(psyne.__all__)


def test_a_sender_is_built_from_them() -> None:
    text = (ROOT / "core/include/psyne/sender.hpp").read_text(encoding="utf-8")
    for name in ("RingBuffer", "DynamicRingBuffer", "SlabAllocator"):
        assert f"std::unique_ptr<{name}>" in text
    text = (ROOT / "core/include/psyne/dynamic_ring_buffer.hpp").read_text(encoding="utf-8")
    assert "std::unique_ptr<RingBuffer> current_" in text
    assert "DynamicSlabAllocator allocator_" in text


def test_a_ring_by_itself_is_both_ends_of_a_channel() -> None:
    with psyne.DynamicRingBuffer(Number, capacity=8) as ring:
        ends: list[Any] = [ring.send, ring.receive]
        assert [type(end.__self__) for end in ends] == [psyne.Sender, psyne.Receiver]


def test_a_second_ring_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "core/include/psyne").mkdir(parents=True)
    (tmp_path / "bindings").mkdir()
    (tmp_path / "bindings/show.cpp").write_text(
        "class ShowRing {\n    void send() { slab.ready[3].store(word(lap, Ready::ready), release); }\n"
        "    Slab slab = Slab::create(storage, place, spec);\n};\n"
    )
    for pattern in (PUBLISHES, MAKES_SLABS, CLASSES):
        assert list(places(pattern, tmp_path)) == ["bindings/show.cpp"]
