"""Images in arrays: checks, and loading of a user's .npz file."""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from runner.core.errors import ConfigError, did_you_mean
from runner.data.splits import ResidentSplit, Source, expand_root

REQUIRED = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL = ("x_val", "y_val", "classes")


def load(root: str | None) -> Source:
    """Load a data set from an .npz file. root: the file, or a folder with exactly one."""
    path = _find(expand_root(root))
    arrays = _read(path)
    pairs = {}
    for part in ("train", "val", "test"):
        if f"x_{part}" in arrays:
            x, y = f"x_{part}", f"y_{part}"
            images = check_images(arrays[x], f"{path.name}: {x}")
            pairs[part] = (images, _check_labels(arrays[y], f"{path.name}: {y}"))
    if "classes" in arrays:
        classes = _check_classes(arrays["classes"], path.name)
    else:
        classes = _count_classes(pairs["train"][1], path.name)
    return source(pairs, classes, path.name)


def source(pairs: dict[str, tuple[np.ndarray, np.ndarray]], classes: tuple[str, ...], where: str) -> Source:
    """Return a source from images uint8 [N, C, H, W] and integer labels [N] of `train`, `test` and perhaps `val`.

    where: origin, for messages. ConfigError: lengths, sizes or label ranges do not fit together.
    """
    shape = pairs["train"][0].shape[1:]
    digest = hashlib.sha256(repr(classes).encode())
    splits = {}
    for part, (x, y) in pairs.items():
        name = f"{where}: {part}"
        if len(x) != len(y):
            raise ConfigError(f"{name} has {len(x)} images and {len(y)} labels; one label an image is needed")
        if len(x) == 0:
            raise ConfigError(f"{name} has no images; at least one is needed")
        if x.shape[1:] != shape:
            sizes = f"images are {_size(x.shape[1:])}, those of train {_size(shape)}"
            raise ConfigError(f"{name} {sizes}; make them equal")
        invalid = y[(y < 0) | (y >= len(classes))]
        if len(invalid):
            allowed = f"0 to {len(classes) - 1} ({len(classes)} classes)"
            raise ConfigError(f"{name} has the label {int(invalid[0])}, out of range; labels are {allowed}")
        x, y = np.ascontiguousarray(x), y.astype(np.int64)
        digest.update(f"{part} {x.shape}".encode())
        digest.update(x)
        digest.update(y)
        splits[part] = ResidentSplit(torch.from_numpy(x), torch.from_numpy(y))
    return Source(splits["train"], splits.get("val"), splits["test"], classes, digest.hexdigest(), shape[-1])


def check_images(x: np.ndarray, where: str) -> np.ndarray:
    """Return images uint8 [N, H, W] or [N, H, W, C] as [N, C, H, W]. ConfigError: any other array."""
    expected = "uint8 [N, H, W] or [N, H, W, C] is wanted"
    if x.dtype != np.uint8:
        raise ConfigError(f"{where} is {x.dtype}; {expected} (0 to 255)")
    if x.ndim not in (3, 4):
        raise ConfigError(f"{where} has the shape {list(x.shape)}; {expected}")
    if x.ndim == 3:
        x = x[..., None]
    if x.shape[-1] not in (1, 3, 4) and x.shape[1] in (1, 3, 4):
        raise ConfigError(f"{where} has the shape {list(x.shape)}, channels first; {expected} (transpose it)")
    if x.shape[1] != x.shape[2]:
        size = f"{x.shape[1]}x{x.shape[2]}"
        raise ConfigError(f"{where} images are {size}; squares are wanted (crop or pad them)")
    if 0 in x.shape[1:]:
        raise ConfigError(f"{where} has the shape {list(x.shape)}: images without pixels; {expected}")
    return x.transpose(0, 3, 1, 2)


def _check_labels(y: np.ndarray, where: str) -> np.ndarray:
    if y.dtype.kind not in "iu":
        raise ConfigError(f"{where} is {y.dtype}; integer labels [N] are wanted")
    if y.ndim != 1:
        raise ConfigError(f"{where} has the shape {list(y.shape)}; integer labels [N] are wanted")
    if len(y) == 0:
        raise ConfigError(f"{where} is empty; at least one image is needed")
    if y.min() < 0:
        raise ConfigError(f"{where} has the label {int(y.min())}, negative; labels count from 0")
    return y


def _count_classes(y: np.ndarray, where: str) -> tuple[str, ...]:
    """Return the names "0", "1", ... up to the highest training label."""
    highest = int(y.max())
    if highest >= len(y):  # a class is empty; the check also bounds the number of names
        reason = f"y_train has the label {highest} among {len(y)} images"
        raise ConfigError(f"{where}: {reason}; labels count from 0, without gaps")
    return tuple(str(label) for label in range(highest + 1))


def _check_classes(names: np.ndarray, where: str) -> tuple[str, ...]:
    if names.dtype.kind not in "US" or names.ndim != 1:
        raise ConfigError(f"{where}: classes is {names.dtype} {list(names.shape)}; strings [K] are wanted")
    classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    if len(set(classes)) != len(classes):
        duplicate = next(name for name in classes if classes.count(name) > 1)
        raise ConfigError(f"{where}: classes has the name '{duplicate}' twice; names must differ")
    return classes


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"data.root='{path}': no such file or folder; an .npz file is wanted")
    files = sorted(path.glob("*.npz"))
    if len(files) != 1:
        names = f" ({', '.join(file.name for file in files[:5])})" if files else ""
        hint = "exactly one is wanted, or the path of one"
        raise ConfigError(f"data.root='{path}' holds {len(files)} .npz files{names}; {hint}")
    return files[0]


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                hint = "make one with numpy.savez_compressed"
                raise ConfigError(f"data.root='{path}' is not an .npz file; {hint}")
        with np.load(path, allow_pickle=False) as file:
            _check_keys(file.files, path.name)
            return {key: _member(file, key, path.name) for key in file.files}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"data.root='{path}' cannot be read ({error}); make the file again") from error


def _member(file: np.lib.npyio.NpzFile, key: str, where: str) -> np.ndarray:
    try:
        array = file[key]
    except ValueError as error:
        reason = "holds Python objects" if "pickle" in str(error) else f"cannot be read ({error})"
        raise ConfigError(f"{where}: {key} {reason}; plain uint8 and integer arrays are wanted") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(f"{where}: {key} is damaged ({error}); make the file again") from error
    if not isinstance(array, np.ndarray):  # numpy returns the bytes of a member that is no .npy
        raise ConfigError(f"{where}: {key} is no array; make the file with numpy.savez_compressed")
    return array


def _check_keys(keys: list[str], where: str) -> None:
    missing = [key for key in REQUIRED if key not in keys]
    if ("x_val" in keys) != ("y_val" in keys):
        missing += [key for key in ("x_val", "y_val") if key not in keys]
    unknown = [key for key in keys if key not in REQUIRED + OPTIONAL]
    if missing or unknown:
        suggestion = did_you_mean(unknown[0], REQUIRED + OPTIONAL) if unknown else ""
        parts = [f"no {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(unknown)}"] if unknown else []
        expected = f"wanted: {' '.join(REQUIRED)} [x_val y_val] [classes]"
        raise ConfigError(f"{where}: {' and '.join(parts)}{suggestion} ({expected})")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channels"
