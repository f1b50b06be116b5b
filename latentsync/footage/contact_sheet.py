"""Faces of many clips -> one picture to look at: are they aligned, and is the mouth in the lower half?"""

import numpy as np
from PIL import Image, ImageDraw

CELL = 128  # pixels of a face
LABEL = 14  # pixels below it
COLUMNS = 6
LABEL_CHARACTERS = 21  # of PIL's built-in font, so many fit
LINE_COLOUR = (255, 220, 0)  # at half the height, where `lower_half` cuts


class ContactSheet:
    """Collects faces, each with a label."""

    def __init__(self) -> None:
        self._cells: list[Image.Image] = []

    def add(self, face: np.ndarray, label: str) -> None:
        """A face, uint8 (R, R, 3), with a line where its lower half begins."""
        cell = Image.new("RGB", (CELL, CELL + LABEL))
        cell.paste(Image.fromarray(face).resize((CELL, CELL), Image.Resampling.BICUBIC))
        draw = ImageDraw.Draw(cell)
        draw.line([(0, CELL // 2), (CELL, CELL // 2)], fill=LINE_COLOUR)
        shown = label if len(label) <= LABEL_CHARACTERS else "..." + label[3 - LABEL_CHARACTERS :]
        draw.text((2, CELL), shown.encode("ascii", "replace").decode(), fill="white")
        self._cells.append(cell)

    def image(self) -> Image.Image | None:
        """The sheet so far, COLUMNS faces wide; None without faces."""
        if not self._cells:
            return None
        columns = min(COLUMNS, len(self._cells))
        rows = -(-len(self._cells) // columns)
        sheet = Image.new("RGB", (columns * CELL, rows * (CELL + LABEL)))
        for number, cell in enumerate(self._cells):
            sheet.paste(cell, (number % columns * CELL, number // columns * (CELL + LABEL)))
        return sheet
