"""Random vertical flip."""

from runner.augmentation.flip import Flip


class VerticalFlip(Flip):
    name, axis = "vertical_flip", -2
