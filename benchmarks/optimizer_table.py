"""Trains the embedded digits with every optimizer at the runner's defaults; writes the table of docs/optimizers.md.

    python benchmarks/optimizer_table.py          half a minute on one core

Each row is `python -m runner data=digits model=mlp optimizer=NAME threads=1`, started in this process. The table shows
that defaults work; it compares nothing: one seed, no rate grid.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from omegaconf import OmegaConf

from runner.__main__ import main as runner
from runner.store.files import write_atomic
from runner.sweep.compose.explain import CONF

PAGE = Path(__file__).parent.parent / "docs" / "optimizers.md"
BEGIN, END = "<!-- table: python benchmarks/optimizer_table.py -->", "<!-- end of table -->"
COMMON = ("data=digits", "model=mlp", "threads=1", "log.tensorboard=false")
MORE = {"newton": ("model.hidden=[8]",), "library": ("optimizer.name=AdaBelief",)}  # what an option cannot do without
PACKAGES = {"library": "pytorch_optimizer"}


def row(name: str) -> str:
    """Trains with one option; its line of the table."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = runner([*COMMON, f"optimizer={name}", *MORE.get(name, ()), f"name={name}"])
    if code:
        raise SystemExit(f"optimizer={name}: exit code {code}\n{said.getvalue()}")
    (folder,) = Path("outputs", name).glob("*/")
    result = json.loads((folder / "result.json").read_text())
    steps = (folder / "metrics.csv").read_text().splitlines()[-1].split(",")[1]
    lr = OmegaConf.load(folder / "config.yaml").optimizer.lr
    words = " ".join((f"optimizer={name}", *MORE.get(name, ())))
    return f"| `{words}` | {lr:g} | {result['test_accuracy']:.3f} | {result['seconds']:.2f} | {steps} |"


def main() -> None:
    """Writes the table between its marks."""
    names = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
    away = [name for name in names if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        lines = [row(name) for name in names if name not in away]
    logging.shutdown()
    head = "| option | rate | test accuracy | seconds | steps |\n|---|---|---|---|---|"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join([BEGIN, head, *lines, END])
    write_atomic(PAGE, before + table + after)
    sys.stdout.write(table + "\n")
    if away:
        sys.stdout.write(f"left out, not installed: {', '.join(away)}\n")


if __name__ == "__main__":
    main()
