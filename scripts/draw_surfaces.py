"""Draws docs/pictures/surface_*.png and lr_range.png by the commands that docs/surfaces.md and docs/schedules.md show.

python scripts/draw_surfaces.py FOLDER        # an empty folder for the runs
"""

import os
import sys
from pathlib import Path

from PIL import Image

from runner.__main__ import main as runner
from runner.sweep.compose.explain import options

OPTIMIZERS = "sgd,momentum,nesterov,adagrad,rmsprop,adam,newton,bfgs,lbfgs"
WIDTH = 1000  # pixels


def main() -> None:
    """Runs, then copies the pictures at half their size."""
    pictures = Path(__file__).resolve().parent.parent / "docs" / "pictures"
    os.chdir(sys.argv[1])
    surfaces = ",".join(options("surface"))
    runner(["-m", "task=surface", f"surface={surfaces}", f"optimizer={OPTIMIZERS}", "name=surfaces", "threads=1"])
    runner(["task=lr_range", "model=mlp", "optimizer=sgd", "name=range", "threads=1"])
    for file in sorted(Path("outputs/surfaces").glob("surface_*.png")):
        small(file, pictures / file.name)
    small(next(Path("outputs/range").glob("*/range.png")), pictures / "lr_range.png")


def small(source: Path, target: Path) -> None:
    """At most `WIDTH` wide, in 256 colours."""
    picture = Image.open(source)
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()
