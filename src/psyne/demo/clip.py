"""A video file, decoded into planes that numpy sees without a copy."""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from .colour import YuvToRgb
from .program import DemoError

__all__ = ["Clip"]

PLANAR = {f"yuv{j}{kind}p" for j in ("", "j") for kind in ("420", "422", "444")}
FULL_RANGE = 2  # AVCOL_RANGE_JPEG
BT709 = 1  # AVCOL_SPC_BT709
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED


class Clip:
    """An open video. Raises DemoError when the file is none."""

    def __init__(self, path: str) -> None:
        try:
            self._container = av.open(path)
        except (OSError, FFmpegError) as error:
            raise DemoError(f"{path} cannot be opened as a video: {_reason(error)}") from None
        if not self._container.streams.video:
            raise DemoError(f"{path} has no video in it")
        self._path = path
        self._stream = self._container.streams.video[0]
        self._decoded = self._decode()
        first = next(self._decoded, None)
        if first is None:
            raise DemoError(f"{path} has no frame that can be decoded")
        self._first = first
        self.width, self.height = first.width, first.height
        self.pixel_format = first.format.name
        self.expected = self._stream.frames  # 0: the file does not say

    def frames(self) -> Iterator[av.VideoFrame]:
        yield self._first
        yield from self._decoded

    def converter(self) -> YuvToRgb:
        """Fits all frames of the clip."""
        y, u, _ = self.planes(self._first)
        space = self._first.colorspace
        hd = space == BT709 or (space == UNSPECIFIED and self.height >= 720)
        full_range = self._first.color_range == FULL_RANGE or self.pixel_format.startswith("yuvj")
        return YuvToRgb(y.shape, u.shape, hd=hd and not self._first.format.is_rgb, full_range=full_range)

    def planes(self, frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
        """Y, U and V as views on the decoder's own memory; its lines may be longer than the picture's."""
        if frame.format.name not in PLANAR or (frame.width, frame.height) != (self.width, self.height):
            kind = self.pixel_format if self.pixel_format in PLANAR else "yuv444p"
            frame = frame.reformat(self.width, self.height, kind)
        return [_pixels(plane) for plane in frame.planes]

    def _decode(self) -> Iterator[av.VideoFrame]:
        count = 0
        try:
            for frame in self._container.decode(self._stream):
                count += 1
                yield frame
        except FFmpegError as error:
            raise DemoError(f"{self._path}: decoding failed after {count} frames: {_reason(error)}") from None


def _pixels(plane: Any) -> NDArray[np.uint8]:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
