"""What Newton's method costs against the number of weights N: memory and time of the Hessian, and of solving with it.

    python benchmarks/newton_cost.py [--largest 5000] [--repeats 3]

Multi-layer perceptrons with one hidden layer on the embedded digits, full batch; the Hessian and the direction are
those of `optimizer=newton`. Time is processor time on one thread, which other programs disturb little. Memory is what
PyTorch's allocator took on top, at its peak, as its profiler saw it. The exponents are least-squares lines through the
logarithms of the three largest points, where what does not grow with N has faded most.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from runner.data.digits import load
from runner.model.mlp import MLP
from runner.optimizer.flat_params import Flat
from runner.optimizer.newton import hessian, newton_direction

WIDTHS = (1, 2, 4, 8, 16, 32, 64)


class Loss:
    """The mean loss over all images, in one piece."""

    def __init__(self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor):
        self.model, self.images, self.labels = model, images, labels

    def pieces(self) -> Any:
        """The loss with its graph."""
        yield cross_entropy(self.model(self.images), self.labels)


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """The median, the first run left out."""
    took = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return statistics.median(took[1:])


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most memory that the allocator held at once for the work."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    held = most = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def exponent(counts: list[int], values: list[float]) -> float:
    """k of the power law `value = c N^k` through the three largest points."""
    return float(np.polyfit(np.log(counts[-3:]), np.log(values[-3:]), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=5000, help="weights, at most")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = load()
    images, labels = source.train.images.float() / 255, source.train.labels
    rows = []
    for width in WIDTHS:
        model = MLP([width], in_channels=1, num_classes=10, image_size=8)
        flat = Flat(list(model.parameters()))
        count = len(flat)
        if count > arguments.largest:
            break
        loss = Loss(model, images, labels)
        matrix = hessian(loss, flat)
        # A bowl of the same size: the factorization that a positive definite Hessian gets.
        bowl, gradient = matrix @ matrix + torch.eye(count, dtype=matrix.dtype), torch.ones(count, dtype=matrix.dtype)
        rows.append(
            (
                count,
                count**2 * 8 / 1e6,
                peak_bytes(lambda m=loss, f=flat: hessian(m, f)) / 1e6,
                seconds(lambda m=loss, f=flat: hessian(m, f), arguments.repeats),
                seconds(lambda b=bowl, g=gradient: newton_direction(b, g, 1e-3), arguments.repeats),
                seconds(lambda b=matrix, g=gradient: newton_direction(b, g, 1e-3), arguments.repeats),
            )
        )
    columns = [list(column) for column in zip(*rows)]
    lines = [
        "| N | Hessian, MB | peak memory, MB | Hessian, s | solve (Cholesky), s | solve (eigenvalues), s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {n:,} | {size:.2f} | {peak:.1f} | {build:.4f} | {chol:.5f} | {eigen:.4f} |"
            for n, size, peak, build, chol, eigen in rows
        ),
    ]
    if len(rows) >= 3:
        fits = [exponent(columns[0], column) for column in columns[1:]]
        lines.append("| exponent of N | " + " | ".join(f"{fit:.2f}" for fit in fits) + " |")
    lines.append(f"\n{len(labels):,} images, one thread, torch {torch.__version__}, medians of ")
    lines[-1] += f"{arguments.repeats}; exponents through the three largest"
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
