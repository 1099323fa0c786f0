"""A process that does what its test tells it: statements come in, values or exceptions go out.

Run as ``child.py FD``; `process.Child` is the other side.
"""

import ast
import ctypes
import gc
import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import layouts
import numpy as np

import psyne

PR_SET_PDEATHSIG = 1


def forked(function: Any) -> Any:
    """What `function` returns, or the exception that it raises, in a forked child that then exits normally."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        try:
            outcome = function()
        except Exception as error:
            outcome = error
        os.write(theirs, pickle.dumps(outcome))
        os.close(theirs)
        raise SystemExit
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        written = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise RuntimeError(f"the forked child ended with {status}")
    return pickle.loads(written)


def execute(code: str, space: dict[str, Any]) -> Any:
    """Runs statements; the value of the last one, if it is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<test>", "exec"), space)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<test>", "eval"), space)


def main() -> None:
    # A test that is killed must not leave children that wait for ever.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    link = Connection(int(sys.argv[1]))
    space: dict[str, Any] = {name: getattr(layouts, name) for name in layouts.__all__}
    space |= {"psyne": psyne, "np": np, "os": os, "gc": gc, "ctypes": ctypes, "threading": threading, "forked": forked}
    while True:
        try:
            code, values = link.recv()
        except EOFError:
            return
        space.update(values)
        link.send(("begun", None))
        try:
            answer = ("value", execute(code, space))
        except SystemExit:
            raise
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            error.__traceback__ = None  # its frames would keep messages
            answer = ("error", error)
        try:
            link.send(answer)
        except Exception as error:  # what cannot be pickled
            link.send(("error", RuntimeError(f"{answer!r} cannot be sent: {error}")))
        del answer


if __name__ == "__main__":
    main()
