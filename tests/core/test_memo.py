"""Answers that are kept are those of equal contents, and of no others."""

import numpy as np
import torch

from runner.core.memo import by_content
from runner.store.files import png
from runner.tracking.pictures import batch_grid


def test_equal_contents_are_asked_once():
    """Of copies, too; another number, shape, type, order or word is another question; the oldest is forgotten."""
    asked = []

    @by_content(3)
    def ask(array, words, side=1):
        asked.append((array.copy(), words, side))
        return len(asked)

    first = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert [ask(first, ["a"]), ask(first.copy(), ["a"]), ask(first.copy(order="F"), ["a"])] == [1, 1, 1]
    assert ask(first.reshape(3, 2), ["a"]) == 2
    assert ask(first.view(np.uint32), ["a"]) == 3
    assert ask(first, ["a"]) == 1
    assert ask(first, ["b"]) == 4  # forgets the one that was asked longest ago
    assert ask(first, ["a"], side=2) == 5
    assert ask(first, ["a"]) == 1
    assert ask(first.reshape(3, 2), ["a"]) == 6
    first[0, 0] = 7
    assert ask(first, ["a"]) == 7


def test_pictures_of_equal_batches_are_drawn_once():
    """And other labels, or another pixel, give another picture."""
    images = np.random.default_rng(0).random((2, 1, 8, 8))
    sheet = batch_grid(images, ["a", "b"])
    assert batch_grid(images.copy(), ["a", "b"]) is sheet and png(sheet.copy()) is png(sheet)
    assert not np.array_equal(batch_grid(images, ["a", "c"]), sheet)
    images[0, 0, 0, 0] = 1 - images[0, 0, 0, 0]
    assert not np.array_equal(batch_grid(images, ["a", "b"]), sheet)


def test_all_of_a_value_counts():
    """Also of what is shown by its corners, such as a long tensor, or a list of arrays."""
    asked = []
    ask = by_content(8)(lambda value: asked.append(value) or len(asked))
    long = torch.zeros(10_000)
    other = long.clone()
    other[5_000] = 1
    assert [ask(long), ask(other)] == [1, 2]
    arrays = [long.numpy(), other.numpy()]
    assert ask(arrays) == 3 and ask([arrays[0], arrays[0]]) == 4
