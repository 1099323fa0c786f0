"""Callbacks: a thread that receives and calls a function with every message."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar

from . import _native
from .errors import ChannelClosed, Empty, EndOfChannel, InvalidArgument
from .log import logger
from .types import Message

__all__ = ["Handlers", "Listener"]

M = TypeVar("M", bound=Message)
Handlers: TypeAlias = Callable[[M], object] | Mapping[type[Any], Callable[[Any], object]]
SLICE = 0.1  # seconds after which a receiver without a channel looks whether it shall stop


class _Source(Protocol):
    """A receiver, as a listener uses it."""

    @property
    def address(self) -> str: ...
    @property
    def joined(self) -> bool: ...
    def receive(self, timeout: float | None = None) -> Any: ...


class Listener:
    """A thread that calls functions with the messages of a receiver; `Receiver.listen` starts one.

    The end of its ``with`` block stops it and raises the error that a function had. While it runs the receiver is
    its own; afterwards it can be used again.
    """

    def __init__(self, receiver: _Source, handlers: Handlers[Any], on_error: Literal["stop", "log"]) -> None:
        if on_error not in ("stop", "log"):
            raise InvalidArgument(f"on_error={on_error!r}; it is one of 'stop', 'log'")
        self._receiver = receiver
        self._handlers = _checked(handlers)
        self._goes_on = on_error == "log"
        self._error: BaseException | None = None
        self._lock = threading.Lock()  # stopping against having ended
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"psyne listener of {receiver.address}", daemon=True)
        self._thread.start()

    @property
    def error(self) -> BaseException | None:
        """What stopped it, unless that was `stop`, `close` or the end of the channel; None while it runs well."""
        return self._error

    def stop(self) -> None:
        """End after the function that is running; from any thread, also from a function that it calls. Never waits."""
        with self._lock:
            self._stopping = True
            if not self._ended:
                _native.interrupt(self._receiver, True)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False after ``timeout`` seconds. Raises the `error` that stopped it."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None:
            self.join()
        else:  # the block's own exception is the one to see
            self._thread.join()

    def __repr__(self) -> str:
        state = "running" if self._thread.is_alive() else "ended"
        return f"<psyne.Listener of {self._receiver.address}, {state}>"

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    message = self._receiver.receive() if self._receiver.joined else self._receiver.receive(SLICE)
                except Empty:  # stopped, or no channel yet
                    continue
                self._handle(message)
                del message
        except (EndOfChannel, ChannelClosed):
            pass
        except BaseException as error:
            self._error = error
            logger.error("the listener of %s stopped: %r", self._receiver.address, error, exc_info=error)
        finally:
            with self._lock:
                self._ended = True
                _native.interrupt(self._receiver, False)

    def _handle(self, message: Any) -> None:
        try:
            with message:
                self._handler_of(type(message))(message)
        except Exception as error:
            if not self._goes_on:
                raise
            logger.error("a handler of %s failed: %r", self._receiver.address, error, exc_info=error)

    def _handler_of(self, cls: type[Any]) -> Callable[[Any], object]:
        for base in (*cls.__mro__, Message):  # what lies on a device is none, but one of the others
            if handler := self._handlers.get(base):
                return handler
        known = ", ".join(sorted(c.__name__ for c in self._handlers))
        raise InvalidArgument(
            f"a {cls.__name__} came on {self._receiver.address} and has no handler; there are handlers for {known}: "
            "add one, or one for psyne.Message, which takes all others"
        )


def _checked(handlers: Handlers[Any]) -> dict[type[Any], Callable[[Any], object]]:
    table = dict(handlers) if isinstance(handlers, Mapping) else {Message: handlers}
    if not table:
        raise InvalidArgument("listen() needs a function, or a dictionary with one per message class; it is empty")
    for cls, handler in table.items():
        if not (isinstance(cls, type) and issubclass(cls, Message)) or not callable(handler):
            raise InvalidArgument(f"listen() takes a function or {{message class: function}}; got {cls!r}: {handler!r}")
    return table
