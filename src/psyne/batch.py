"""Several messages as one array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from . import _native
from .errors import MessageReleased
from .info import Info
from .types import MessageMeta

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import CapsuleType

    from .after import After

__all__ = ["Batch"]

T = TypeVar("T")


class Batch(_native.Batch, Generic[T], metaclass=MessageMeta):
    """Consecutive messages of one sender as one array: ``batch.array`` has the shape (k, \\*shape)."""

    def __repr__(self) -> str:
        try:
            return f"<psyne.Batch of {len(self)} {type(self[0]).__name__ if len(self) else 'messages'}>"
        except MessageReleased:
            return "<psyne.Batch, released>"

    if TYPE_CHECKING:

        @property
        def array(self) -> NDArray[Any]:
            """All messages as one array over the same memory.

            Raises TypeError for messages that lie in columns or bring their own shapes.
            """
            ...

        @property
        def info(self) -> Info:
            """Of the first message."""
            ...

        def __len__(self) -> int: ...
        def __iter__(self) -> Iterator[T]: ...
        @overload
        def __getitem__(self, field: str, /) -> NDArray[Any]: ...
        @overload
        def __getitem__(self, number: int, /) -> T: ...
        def __getitem__(self, key: Any, /) -> Any:
            """A field of all messages as one array, or one message: a view that is usable as long as the batch."""
            ...

        def __setitem__(self, field: str, value: ArrayLike) -> None: ...
        def truncate(self, n: int) -> None:
            """Send only the first n of a loan."""

        def discard(self) -> None:
            """Take the loan back."""

        def release(self, *, after: After | None = None) -> None:
            """End the batch now. Raises BufferError while views on it live.

            ``after``: passes it on when an event of a device is done; see `Message.release`.
            """

        def copy(self) -> NDArray[Any]:
            """All messages as one array in private memory."""
            ...

        def private(self) -> NDArray[Any]:
            """All messages as one writable array on copy-on-write pages; see `Message.private`."""
            ...

        @property
        def __array_interface__(self) -> dict[str, object]: ...
        def __array__(self, dtype: None = None, copy: bool | None = None) -> NDArray[Any]: ...
        def __dlpack__(
            self,
            *,
            stream: None = None,
            max_version: tuple[int, int] | None = None,
            dl_device: tuple[int, int] | None = None,
            copy: bool | None = None,
        ) -> CapsuleType:
            """A DLPack capsule over all messages; see `Message.__dlpack__`."""
            ...

        def __dlpack_device__(self) -> tuple[int, int]: ...

        def __enter__(self) -> Self: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> Literal[False]: ...
