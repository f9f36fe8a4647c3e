"""Digits: the embedded data set of 1,797 handwritten digits, 8x8, gray (see digits.LICENSE.md beside this file)."""

from pathlib import Path

from runner.data import arrays
from runner.data.splits import Source


def load() -> Source:
    """Load the digits. The file fixes the test split (20 %, stratified)."""
    return arrays.load(str(Path(__file__).with_name("digits.npz")))
