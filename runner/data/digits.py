"""The embedded data set: 1,797 handwritten digits, 8x8, grey (see digits.LICENSE.md beside this file)."""

from pathlib import Path

from runner.data import arrays
from runner.data.splits import Source


def load() -> Source:
    """The test split (20 %, stratified) was fixed when the file was made."""
    return arrays.load(str(Path(__file__).with_name("digits.npz")))
