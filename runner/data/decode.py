"""Decoding of photos to squares of pixels, always the same for the same bytes. Imports no torch."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMAT = f"1-pillow-{Image.__version__}"  # part of every cache key, because another decoder gives other pixels
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


def decode(path: str, side: int) -> np.ndarray:
    """Return a photo as uint8 [3, side, side]: RGB, upright (EXIF), shorter side scaled, cut to the center square.

    Scaled like a PIL image by torchvision's `Resize(side)`: bilinear with antialiasing. OSError: what is wrong with
    the file, without its path.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # photos with damaged EXIF and very large ones are decoded all the same
            with Image.open(path) as image:
                return _square(_rgb(ImageOps.exif_transpose(image)), side)
    except Exception as error:  # on damaged files Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        reason = getattr(error, "strerror", None) or str(error).replace(f" {path!r}", "") or type(error).__name__
        raise OSError(" ".join(reason.split())) from error


def moments(pixels: np.ndarray) -> np.ndarray:
    """Return the sums of pixels and of squared pixels a channel: uint8 [C, H, W] -> int64 [C, 2]."""
    squared = np.square(pixels, dtype=np.uint16).sum((1, 2), dtype=np.int64)
    return np.stack((pixels.sum((1, 2), dtype=np.int64), squared), 1)


def content_hash(path: str) -> str:
    """Return the sha256 of a file's bytes; of an unreadable file, the reason (decoding reports it)."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else the palette's transparent entries would get a wrong color
    if image.mode.startswith("I"):  # 16 bits a pixel: convert() would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def _square(image: Image.Image, side: int) -> np.ndarray:
    width, height = image.size
    if width <= height:
        width, height = side, int(side * height / width)
    else:
        width, height = int(side * width / height), side
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)
