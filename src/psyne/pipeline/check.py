"""What of a worker's function can be known before it runs."""

import inspect
import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import InvalidArgument
from .task import is_class

__all__ = ["check_count", "check_work", "name_of"]


def name_of(work: Callable[..., Any], name: str | None) -> str:
    """The name that was given, or that of the function or class."""
    given = name if name is not None else getattr(work, "__name__", None)
    if not isinstance(given, str) or not given:
        raise InvalidArgument(f"{work!r} has no name of its own; give it a name=")
    return given


def check_count(value: object, what: str) -> None:
    """Raise InvalidArgument unless it is a number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgument(f"{what} is a number, 1 or more; got {value!r}")


def check_work(work: Any, takes: str, workers: str) -> None:
    """Raise InvalidArgument for a function that could not be called, or not in another process."""
    if not callable(work):
        raise InvalidArgument(f"{takes}; {work!r} cannot be called")
    called: Any = work if inspect.isroutine(work) or isinstance(work, partial) else work.__call__
    if is_class(work):
        cls: Any = work.func if isinstance(work, partial) else work
        if "__call__" not in dir(cls):
            raise InvalidArgument(f"{takes}; instances of {cls.__name__} cannot be called: give it a __call__")
        _check_arguments(work, (), "a class is instantiated as cls(), or as functools.partial(cls, …)(); here")
        _check_arguments(cls.__call__, (None, None), f"{takes}; {cls.__name__}.__call__")
        called = cls.__call__
    else:
        _check_arguments(work, (None,), f"{takes}; {work!r}")
    if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise InvalidArgument(f"{takes} and works until it returns; {work!r} would only make a coroutine or generator")
    if workers == "processes":
        _check_travels(work)


def _check_arguments(work: Callable[..., Any], arguments: tuple[object, ...], what: str) -> None:
    try:
        signature = inspect.signature(work)
    except (TypeError, ValueError):  # of a class or function in C it is not known
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InvalidArgument(f"{what}: {error}") from None


def _check_travels(work: object) -> None:
    """A process that is spawned imports the function by its name."""
    out = 'move it to the top of a module, or run this pipeline in threads: psyne.Pipeline(workers="threads")'
    main = sys.modules["__main__"]
    if getattr(work, "__module__", None) == "__main__" and not hasattr(main, "__file__"):
        raise InvalidArgument(f"{work!r} was typed into this interpreter, so another process cannot import it; {out}")
    try:
        pickle.dumps(work)
    except Exception as error:
        raise InvalidArgument(f"another process cannot import {work!r} ({error}); {out}") from None
