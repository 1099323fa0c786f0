"""The contact sheet: some pictures of the clip, evenly spread, each beside its edges, with its numbers below."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Sheet"]

TILES = 12
COLUMNS = 3
BOX = (300, 225)  # a picture is scaled to fit in here
GAP, MARGIN, CAPTION, HEADER = 24, 36, 40, 76
LEGEND = "the picture, and the edges that the next process wrote beside it in the same message"
BACKGROUND, TEXT, FAINT = (18, 20, 24), (236, 238, 241), (138, 146, 158)


class Tile(NamedTuple):
    frame: int
    image: Image.Image
    edges: Image.Image
    sharpness: float
    motion: float


class Sheet:
    """Collects tiles from a clip of unknown length: keeps every k-th, and doubles k when it has too many."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._tiles: list[Tile] = []
        self._step = 1

    def wants(self, frame: int) -> bool:
        return frame % self._step == 0

    def add(
        self, frame: int, image: NDArray[np.uint8], edges: NDArray[np.uint8], sharpness: float, motion: float
    ) -> None:
        self._tiles.append(Tile(frame, _small(image), _small(edges), sharpness, motion))
        if len(self._tiles) == 3 * TILES:
            self._tiles = self._tiles[::2]
            self._step *= 2

    def chosen(self) -> list[Tile]:
        """Those that are drawn."""
        last = len(self._tiles) - 1
        return [self._tiles[round(i)] for i in np.linspace(0, last, min(TILES, last + 1))]

    def save(self, path: str) -> None:
        self._draw().save(path, format="PNG")

    def _draw(self) -> Image.Image:
        chosen = self.chosen()
        columns = min(COLUMNS, len(chosen))
        rows = -(-len(chosen) // columns)
        width, height = chosen[0].image.size
        cell = (2 * width + GAP, height + CAPTION + GAP)
        size = (2 * MARGIN + columns * cell[0] - GAP, HEADER + rows * cell[1] + MARGIN // 2)
        sheet = Image.new("RGB", size, BACKGROUND)
        pen = ImageDraw.Draw(sheet)
        pen.text((MARGIN, HEADER / 2), self._title, TEXT, ImageFont.load_default(26), anchor="lm")
        if columns > 1:
            pen.text((size[0] - MARGIN, HEADER / 2), LEGEND, FAINT, ImageFont.load_default(17), anchor="rm")
        for i, tile in enumerate(chosen):
            x, y = MARGIN + i % columns * cell[0], HEADER + i // columns * cell[1]
            sheet.paste(tile.image, (x, y))
            sheet.paste(tile.edges, (x + width, y))
            _caption(pen, (x, y + height + CAPTION // 2), 2 * width, tile)
        return sheet


def _caption(pen: ImageDraw.ImageDraw, at: tuple[int, int], width: int, tile: Tile) -> None:
    font = ImageFont.load_default(17)
    x, y = at
    pen.text((x, y), f"frame {tile.frame}", TEXT, font, anchor="lm")
    pen.text((x + width, y), f"sharpness {tile.sharpness:.0f}    motion {tile.motion:.1f}", FAINT, font, anchor="rm")


def _small(picture: NDArray[np.uint8]) -> Image.Image:
    """A private picture of thumbnail size: what the sheet keeps when the slot is given back."""
    whole = Image.fromarray(picture)
    scale = min(BOX[0] / whole.width, BOX[1] / whole.height)
    size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
    return whole.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
