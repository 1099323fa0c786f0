"""What docs/wire.md says, for tests: its tables and its dumps."""

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCUMENT", "Dumped", "dumps", "table"]

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")


class Dumped(NamedTuple):
    side: str  # "C" or "S": who sends it
    name: str
    data: bytes


def dumps() -> list[list[Dumped]]:
    """The frames of each block of the document that has dumps. Checks that offsets and letters fit the bytes."""
    blocks = []
    for block in re.findall(r"^```\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL):
        frames: list[Dumped] = []
        for text in block.splitlines():
            if head := re.fullmatch(r"([CS])→[CS] ([A-Z]+)", text):
                frames.append(Dumped(head[1], head[2], b""))
            elif re.fullmatch(r"[0-9a-f]{4}  [0-9a-f ]{48}  .+", text):  # offset, bytes, letters
                frame, data = frames[-1], bytes.fromhex(text[6:54])
                assert int(text[:4], 16) == len(frame.data), f"{frame.name}: {text} is not at its offset"
                letters = "".join(chr(b) if 32 <= b < 127 else "." for b in data)
                assert text[56:] == letters, f"{frame.name}: {text} has other letters than {letters}"
                frames[-1] = frame._replace(data=frame.data + data)
            elif frames:
                assert not text, f"{text!r} is no row of a dump"
        if frames:
            blocks.append(frames)
    return blocks


def table(first: str) -> list[list[str]]:
    """The rows of the table whose head begins with this cell."""
    lines = DOCUMENT.splitlines()
    at = next(n for n, text in enumerate(lines) if text.startswith(f"| {first} |"))
    rows = []
    for text in lines[at + 2 :]:
        if not text.startswith("|"):
            break
        rows.append([cell.strip() for cell in text.strip("|").split("|")])
    return rows
