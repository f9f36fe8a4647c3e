"""Makes runner/data/digits.npz, the embedded data set: `python scripts/make_digits.py` (needs scikit-learn
beside the installed package).

scikit-learn's load_digits, its 0..16 scaled to 0..255, with a fixed stratified test split of 20 %. The same
input gives the same file, byte for byte.
"""

import io
import zipfile
from pathlib import Path

import numpy as np

from runner.store.files import write_atomic

TARGET = Path(__file__).resolve().parents[1] / "runner" / "data" / "digits.npz"
TEST_FRACTION = 0.2


def split(labels: np.ndarray) -> np.ndarray:
    """Which images are for testing: 20 % of each class, drawn once and for all (bool [N])."""
    random = np.random.RandomState(0)  # the legacy generator: its stream is frozen for ever
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        test[random.permutation(rows)[: round(TEST_FRACTION * len(rows))]] = True
    return test


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz like numpy.savez_compressed's, but with no time of day in it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return packed.getvalue()


def main() -> None:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SystemExit("scikit-learn is needed to make the file (pip install scikit-learn)") from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    test = split(labels)
    content = {
        "x_train": images[~test],
        "y_train": labels[~test],
        "x_test": images[test],
        "y_test": labels[test],
        "classes": np.array([str(digit) for digit in range(10)]),
    }
    write_atomic(TARGET, pack(content))


if __name__ == "__main__":
    main()
