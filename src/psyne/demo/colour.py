"""From the decoder's brightness and colour planes to RGB, written straight into memory that is given."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["YuvToRgb"]

Plane = NDArray[np.uint8]
BT601 = (0.299, 0.114)  # the shares of red and blue in brightness
BT709 = (0.2126, 0.0722)


class YuvToRgb:
    """Converts planes of one size and kind. All intermediate numbers live in arrays that are made once.

    Per pixel and colour: scale * Y plus a term of U and V. The terms are computed at the size of the colour planes
    and added to every pixel that shares them.
    """

    def __init__(self, luma: tuple[int, int], chroma: tuple[int, int], *, hd: bool, full_range: bool) -> None:
        red, blue = BT709 if hd else BT601
        green = 1 - red - blue
        scale, black, colour = (1.0, 0, 1.0) if full_range else (255 / 219, 16, 255 / 224)
        self._step = (-(-luma[0] // chroma[0]), -(-luma[1] // chroma[1]))  # pixels per colour sample
        self._scale = np.uint16(round(scale * 128))
        self._offset = -scale * black
        u, v = 2 * (1 - blue) * colour, 2 * (1 - red) * colour
        self._weights = [(0.0, v), (-u * blue / green, -v * red / green), (u, 0.0)]
        self._luma = np.empty(luma, np.uint16)
        self._term, self._part = np.empty(chroma, np.float32), np.empty(chroma, np.float32)
        self._small, self._sum = np.empty(chroma, np.int16), np.empty(chroma, np.int16)

    def __call__(self, y: Plane, u: Plane, v: Plane, rgb: Plane) -> None:
        """Writes the picture into `rgb`; no byte of it is ever written anywhere else."""
        np.multiply(y, self._scale, out=self._luma)
        np.add(self._luma, np.uint16(64), out=self._luma)
        np.right_shift(self._luma, 7, out=self._luma)
        luma = self._luma.view(np.int16)
        rows, columns = self._step
        for index, weights in enumerate(self._weights):
            self._colour_term(u, v, *weights)
            for row in range(rows):
                for column in range(columns):
                    part = (slice(row, None, rows), slice(column, None, columns))
                    self._add(luma[part], rgb[(*part, index)])

    def _colour_term(self, u: Plane, v: Plane, of_u: float, of_v: float) -> None:
        np.multiply(u, np.float32(of_u), out=self._term)
        np.multiply(v, np.float32(of_v), out=self._part)
        np.add(self._term, self._part, out=self._term)
        np.add(self._term, np.float32(self._offset - 128 * (of_u + of_v)), out=self._term)
        np.rint(self._term, out=self._small, casting="unsafe")

    def _add(self, luma: NDArray[np.int16], out: Plane) -> None:
        inside: Any = tuple(slice(n) for n in luma.shape)  # sizes that are odd have a cut last sample
        total = self._sum[inside]
        np.add(luma, self._small[inside], out=total)
        np.clip(total, 0, 255, out=out, casting="unsafe")
