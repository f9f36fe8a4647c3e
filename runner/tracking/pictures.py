"""Pictures for TensorBoard, drawn by Pillow in milliseconds (matplotlib would cost each run a second)."""

import bisect
import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from runner.core.memo import by_content

_INK = (33, 37, 41)
_SOFT = (110, 118, 126)
# From white through blue to navy. Lightness decreases steadily, so it works in gray and for color-blind readers.
_SCALE = np.array([[255, 255, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 48, 107]], dtype=np.float64)


@by_content(4)
def batch_grid(images: ArrayLike, labels: list[str], columns: int = 8, side: int = 96, gap: int = 8) -> np.ndarray:
    """Draw a contact sheet: each image scaled to about `side` pixels, without smoothing, its label below.

    `images` [B, C, H, W]: uint8, or floats clipped to [0, 1]. Of more than three channels the first three are shown,
    of two the first. A label that is too long is broken at " / " into two lines, then shortened. Returns uint8
    [height, width, 3].
    """
    pixels = _to_uint8(np.asarray(images))
    count, height, width, _ = pixels.shape
    if len(labels) != count:
        raise ValueError(f"{count} images but {len(labels)} labels")
    shown = _shown_size(width, height, side)
    font = _font(12)
    cell_width = max(shown[0], side)
    texts = [_label_lines(label, cell_width, font) for label in labels]
    line_height = 15
    cell_height = shown[1] + 4 + line_height * max((len(lines) for lines in texts), default=1)
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (gap + columns * (cell_width + gap), gap + rows * (cell_height + gap)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for i in range(count):
        left = gap + (i % columns) * (cell_width + gap)
        top = gap + (i // columns) * (cell_height + gap)
        _paste(sheet, draw, pixels[i], shown, (left + (cell_width - shown[0]) // 2, top))
        for k, line in enumerate(texts[i]):
            draw.text((left + cell_width // 2, top + shown[1] + 4 + k * line_height), line, _INK, font, anchor="ma")
    return np.asarray(sheet)


@by_content(4)
def draws_grid(
    images: ArrayLike,
    rows: list[str],
    title: str = "",
    labels: list[list[str]] | None = None,
    side: int = 96,
    gap: int = 8,
) -> np.ndarray:
    """Draw a row for each image: the original, then its random draws, scaled as in `batch_grid`.

    `images` [R, N, C, H, W]; `rows` [R] are the labels on the left, `labels` [R][N] those below each image, if any. The
    title is broken into lines of the sheet's width. Returns uint8 [height, width, 3].
    """
    images = np.asarray(images)
    count, columns = images.shape[:2]
    if len(rows) != count or (labels and [len(row) for row in labels] != [columns] * count):
        raise ValueError(f"{count} rows of {columns} images, but {len(rows)} names or other labels")
    pixels = _to_uint8(images.reshape(-1, *images.shape[2:]))
    shown = _shown_size(images.shape[4], images.shape[3], side)
    font, large, line_height = _font(12), _font(14), 15
    names = [_shorten(name, 120, font) for name in rows]
    left = 2 * gap + max(math.ceil(font.getlength(name)) for name in names)
    step = max(shown[0], 60) + gap
    width = left + columns * step
    lines = _wrap(title, width - 2 * gap, large) if title else []
    top = gap + 20 * len(lines) + line_height + 4
    below = [[_label_lines(label, step - gap, font) for label in row] for row in labels or []]
    height = shown[1] + gap + line_height * max((len(words) for row in below for words in row), default=0)
    sheet = Image.new("RGB", (width, top + count * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for k, line in enumerate(lines):
        draw.text((gap, gap + 20 * k), line, _INK, large, anchor="la")
    for i in range(columns):
        middle = left + i * step + (step - gap) // 2
        draw.text((middle, top - 4), f"draw {i}" if i else "original", _SOFT, font, anchor="md")
        for k in range(count):
            corner = (middle - shown[0] // 2, top + k * height)
            _paste(sheet, draw, pixels[k * columns + i], shown, corner)
            for n, line in enumerate(below[k][i] if below else []):
                draw.text((middle, corner[1] + shown[1] + 2 + n * line_height), line, _INK, font, anchor="ma")
    for k, name in enumerate(names):
        draw.text((left - gap, top + k * height + shown[1] // 2), name, _INK, font, anchor="rm")
    return np.asarray(sheet)


def confusion_matrix(counts: ArrayLike, classes: list[str]) -> np.ndarray:
    """Draw a confusion matrix, `counts` int [K, K] (rows true, columns predicted), as uint8 [height, width, 3].

    The color shows the share of the row, on a square-root scale so that rare confusions are visible. Up to 20
    classes the cells show the counts (a zero stays empty).
    """
    counts = np.asarray(counts)
    k = len(classes)
    if k == 0 or counts.shape != (k, k):
        raise ValueError(f"counts of shape {counts.shape} for {k} classes")
    cell = min(56, 700 // k) if k <= 20 else max(1, 1000 // k)
    side = max(1, cell * k)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    font = _font(12 if cell >= 16 else 9)
    named = cell >= 9  # smaller rows have no room for a name: only the axes are labeled
    names = [_shorten(name, 120, font) for name in classes] if named else []
    margin = 12 + max((math.ceil(font.getlength(name)) for name in names), default=0)
    title = _font(14)
    left, top, right, bottom = margin + 26, 44, 100, margin + 30
    width, height = left + side + right, top + max(side, 120) + bottom
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    matrix = Image.fromarray(_color(share)).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(matrix, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((left, 10), "Confusion matrix", _INK, title, anchor="la")
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_SOFT)
    if cell >= 24:
        for i in range(1, k):
            draw.line((left, top + i * cell, left + side - 1, top + i * cell), (233, 236, 239))
            draw.line((left + i * cell, top, left + i * cell, top + side - 1), (233, 236, 239))
    for i, name in enumerate(names):
        middle = i * cell + cell // 2
        draw.text((left - 6, top + middle), name, _INK, font, anchor="rm")
        _draw_rotated(picture, name, font, (left + middle, top + side + 6))
    if k <= 20:
        _write_counts(draw, counts, share, (left, top), cell)
    _draw_rotated(picture, "true class", title, (14, top + side // 2), centered=True)
    draw.text((left + side // 2, height - 10), "predicted class", _INK, title, anchor="md")
    _draw_scale_bar(picture, draw, (left + side + 18, top), min(side, 240) if side >= 120 else 120)
    return np.asarray(picture)


def _to_uint8(images: np.ndarray) -> np.ndarray:
    """Convert [B, C, H, W] to uint8 [B, H, W, 3]."""
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    if images.dtype != np.uint8:
        images = np.rint(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)
    images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))


def _shown_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (width, height) to draw an image at: about `side` pixels, enlarged by a whole factor."""
    scale = side / max(height, width)
    scale = max(1, math.floor(scale)) if scale > 0.7 else scale
    return max(1, round(width * scale)), max(1, round(height * scale))


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, pixels: np.ndarray, shown: tuple[int, int], corner: tuple[int, int]
) -> None:
    """Paste an image [H, W, 3] at size `shown` (width, height), its upper left corner at `corner`."""
    method = Image.Resampling.NEAREST if shown[0] >= pixels.shape[1] else Image.Resampling.BOX
    left, top = corner
    sheet.paste(Image.fromarray(pixels).resize(shown, method), corner)
    # A thin frame, because the white border of an image would not be visible on the white sheet.
    draw.rectangle((left - 1, top - 1, left + shown[0], top + shown[1]), outline=(206, 212, 218))


def _write_counts(draw: ImageDraw.ImageDraw, counts: np.ndarray, share: np.ndarray, corner: tuple, cell: int) -> None:
    small, normal = _font(10), _font(12)
    for row, column in np.argwhere(counts > 0):
        text = str(counts[row, column])
        font = normal if normal.getlength(text) <= cell - 6 else small
        at = (corner[0] + column * cell + cell // 2, corner[1] + row * cell + cell // 2)
        draw.text(at, text, (255, 255, 255) if share[row, column] > 0.3 else _INK, font, anchor="mm")


def _draw_scale_bar(picture: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple, height: int) -> None:
    left, top = corner
    position = np.linspace(1, 0, height)[:, None] ** 2  # undoes the square root: the color changes in even steps
    picture.paste(Image.fromarray(_color(position)).resize((12, height)), (left, top))
    draw.rectangle((left - 1, top - 1, left + 12, top + height), outline=_SOFT)
    font = _font(10)
    for share, text in ((1.0, "100 %"), (0.5, "50 %"), (0.2, "20 %"), (0.05, "5 %"), (0.0, "0 % of row")):
        draw.text((left + 17, top + (1 - math.sqrt(share)) * height), text, _SOFT, font, anchor="lm")


def _color(share: np.ndarray) -> np.ndarray:
    """Map shares in [0, 1] to colors, uint8 [..., 3]."""
    position = np.sqrt(np.clip(share, 0, 1))
    stops = np.linspace(0, 1, len(_SCALE))
    channels = [np.interp(position, stops, _SCALE[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _draw_rotated(
    picture: Image.Image, text: str, font: ImageFont.FreeTypeFont, at: tuple[int, int], centered: bool = False
) -> None:
    """Draw text that reads upwards; `at` is the middle of its upper end, or its center."""
    length, height = math.ceil(font.getlength(text)) + 2, round(font.size) + 6
    stamp = Image.new("L", (length, height))
    ImageDraw.Draw(stamp).text((length - 1, height // 2), text, 255, font, anchor="rm")
    stamp = stamp.rotate(90, expand=True)
    corner = (at[0] - height // 2, at[1] - length // 2 if centered else at[1])
    picture.paste(_INK, (*corner, corner[0] + stamp.width, corner[1] + stamp.height), stamp)


def _label_lines(label: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    first, slash, rest = label.partition(" / ")
    if not slash or font.getlength(label) <= width:
        return [_shorten(label, width, font)]
    return [_shorten(first, width, font), _shorten(rest, width, font)]


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break `text` into lines of at most `width` pixels; a single word that is longer is shortened."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_shorten(line, width, font) for line in lines]


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Shorten `text` with an ellipsis to at most `width` pixels."""
    if font.getlength(text) <= width:
        return text
    fits = bisect.bisect_left(range(len(text)), True, key=lambda n: font.getlength(f"{text[:n]}…") > width)
    return f"{text[: fits - 1].rstrip()}…"


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans from matplotlib's files without importing it (Pillow's own font has no accents)."""
    package = Path(importlib.util.find_spec("matplotlib").origin).parent
    file = package / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)  # twice as fast as Raqm
