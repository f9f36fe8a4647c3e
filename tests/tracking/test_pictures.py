"""Pictures drawn for TensorBoard."""

import io

import numpy as np
import pytest
from PIL import Image

from runner.store.files import png
from runner.tracking.pictures import batch_grid, confusion_matrix


@pytest.mark.parametrize("channels", [1, 3])
def test_batch_grid_shows_the_pixels_unsmoothed(channels):
    """Each image stands in its cell enlarged by a whole factor, floats as their uint8 equal."""
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 8, 8), dtype=np.uint8)
    sheet = batch_grid(images, ["a"] * 5, columns=3, side=16, gap=4)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 4 + 3 * (16 + 4)
    row = (sheet.shape[0] - 4) // 2
    expected = np.broadcast_to(images[4].transpose(1, 2, 0), (8, 8, 3)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(sheet[4 + row : 4 + row + 16, 24:40], expected)
    np.testing.assert_array_equal(batch_grid(images / 255, ["a"] * 5, columns=3, side=16, gap=4), sheet)


def test_batch_grid_writes_labels_below():
    """A label leaves ink under its image, a mixed one on a second line; their number must fit."""
    images = np.full((1, 1, 8, 8), 255, dtype=np.uint8)
    plain = batch_grid(images, [""])
    short = batch_grid(images, ["cat"])
    mixed = batch_grid(images, ["a quite long name .7 / another long name .3"])
    assert short.shape == plain.shape and (short != plain).any()
    assert mixed.shape[0] > short.shape[0] and mixed.shape[1] == short.shape[1]
    with pytest.raises(ValueError, match="1 images but 2 labels"):
        batch_grid(images, ["a", "b"])


def test_large_images_are_reduced():
    """A photo takes no more room than a digit."""
    sheet = batch_grid(np.zeros((2, 3, 224, 224), np.uint8), ["a", "b"])
    assert sheet.shape[0] < 140 and sheet.shape[1] < 220


def test_confusion_matrix_colours_the_share_of_the_row():
    """Rows are true classes: equal shares have equal colours whatever the row's count, more is darker."""
    picture = confusion_matrix([[90, 10], [1, 9]], ["cat", "dog"]).astype(int)
    turned = confusion_matrix([[90, 1], [10, 9]], ["cat", "dog"]).astype(int)
    cell, top = 56, 44
    left = next(x for x in range(picture.shape[1]) if (picture[top : top + 112, x] == (110, 118, 126)).all()) + 1
    corner = [[picture[top + 4 + i * cell, left + 4 + j * cell] for j in range(2)] for i in range(2)]
    np.testing.assert_array_equal(corner[0][0], corner[1][1])
    np.testing.assert_array_equal(corner[0][1], corner[1][0])
    assert corner[0][0].sum() < corner[0][1].sum()
    assert (picture != turned).any()


@pytest.mark.parametrize("k", [1, 20, 21, 100, 1000])
def test_confusion_matrix_takes_any_number_of_classes(k):
    """The picture stays of a size that a browser shows; an empty row (a class without images) is white."""
    picture = confusion_matrix(np.zeros((k, k), int), [f"class {i}" for i in range(k)])
    assert picture.dtype == np.uint8 and picture.shape[0] < 1300 and picture.shape[1] < 1300
    with pytest.raises(ValueError, match="classes"):
        confusion_matrix(np.zeros((k, k), int), ["x"] * (k + 1))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 33)])
def test_png_is_read_back_by_pillow_bit_for_bit(shape):
    """A picture's PNG holds its pixels, those of a turned view too."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)[::-1, ::-1]
    with Image.open(io.BytesIO(png(image))) as found:
        assert found.mode == "RGB" and found.format == "PNG"
        np.testing.assert_array_equal(np.asarray(found), image)
