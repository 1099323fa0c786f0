"""Runs PTX on the CPU, one instruction after the other: those that the kernels of this project have.

It follows NVIDIA's manual of PTX, and says nothing of a real GPU. A byte outside of the buffer is an error.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["run"]

LINE = re.compile(r"^\s*(?:@(%p\d+)\s+)?([a-z][\w.]*)\s*([^;]*);", re.MULTILINE)
LABEL = re.compile(r"^\s*(\$\w+):", re.MULTILINE)
ADDRESS = re.compile(r"\[(%?\w+)(?:\+(-?\d+))?\]")
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
COMPUTE: dict[str, Callable[..., int]] = {
    "mov": lambda a: a, "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c, "div": lambda a, b: a // b, "neg": lambda a: -a, "abs": lambda a: abs(a),
    "min": min, "or": lambda a, b: a | b, "and": lambda a, b: a & b,
}  # fmt: skip


def run(ptx: str, buffer: NDArray[np.uint8], numbers: list[int], threads: int, block: int = 128) -> None:
    """The only kernel of the text, whose first parameter is the buffer, at address 0."""
    body = ptx[ptx.index(")\n{") :]
    program, labels = _read(body)
    name = re.search(r"\.entry (\w+)", ptx)
    assert name is not None
    parameters = {f"{name[1]}_param_{i}": value for i, value in enumerate([0, *numbers])}
    for thread in range(-(-threads // block) * block):
        special = {"%ctaid.x": thread // block, "%ntid.x": block, "%tid.x": thread % block}
        _run_thread(program, labels, special | parameters, buffer)


def _read(body: str) -> tuple[list[tuple[str, list[str], list[str]]], dict[str, int]]:
    """Instructions (predicate, opcode, operands), and where labels lead."""
    found = sorted([*LINE.finditer(body), *LABEL.finditer(body)], key=lambda it: it.start())
    program: list[tuple[str, list[str], list[str]]] = []
    labels = {}
    for it in found:
        if it.re is LABEL:
            labels[it[1]] = len(program)
        else:
            program.append((it[1] or "", it[2].split("."), [word.strip() for word in it[3].split(",")]))
    return program, labels


def _run_thread(program: Any, labels: dict[str, int], known: dict[str, int], buffer: NDArray[np.uint8]) -> None:
    registers = dict(known)

    def value(word: str, kind: str = "u64") -> int:
        """As the instruction sees it: of its width, with or without a sign."""
        bits = 1 if kind == "pred" else int(kind[1:])
        got = (registers[word] if word in registers else int(word)) & (1 << bits) - 1
        return got - (1 << bits) if kind[0] == "s" and got >> bits - 1 else got

    at = 0
    while True:
        predicate, (name, *modifiers), operands = program[at]
        at += 1
        if predicate and not registers[predicate]:
            continue
        kind = modifiers[-1] if modifiers else ""
        if name == "ret":
            return
        if name == "bra":
            at = labels[operands[0]]
        elif name in ("ld", "st"):
            where = ADDRESS.match(operands[0 if name == "st" else 1])
            assert where is not None
            place = value(where[1]) + int(where[2] or 0)
            assert modifiers[0] == "param" or (kind == "u8" and 0 <= place < len(buffer)), "outside of the buffer"
            if name == "st":
                buffer[place] = value(operands[1], kind)
            else:
                registers[operands[0]] = place if modifiers[0] == "param" else int(buffer[place])
        elif name == "setp":
            registers[operands[0]] = COMPARE[modifiers[0]](*(value(word, kind) for word in operands[1:]))
        elif name == "cvt":
            registers[operands[0]] = value(operands[1], kind) & (1 << int(modifiers[0][1:])) - 1
        else:
            registers[operands[0]] = COMPUTE[name](*(value(word, kind) for word in operands[1:]))
