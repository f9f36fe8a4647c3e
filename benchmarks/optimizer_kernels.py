"""An optimizer's step as torch's single passes, as lists of them (foreach), and as one kernel (fused).

    python benchmarks/optimizer_kernels.py

CPU microseconds a network and step, of one thread, for the weights of `mlp` on 28x28 images: alone, and of eight
networks in stacks as runs of a program have them. Medians of five looks, taken in turn.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

SHAPES = ((128, 784), (128,), (10, 128), (10,))
STEPS = 100
OPTIMIZERS = {
    "Adam": (torch.optim.Adam, {}),
    "AdamW": (torch.optim.AdamW, {}),
    "Adagrad": (torch.optim.Adagrad, {}),
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9}),
}
WAYS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def stepping(kind: type[torch.optim.Optimizer], options: dict, count: int) -> Callable[[], float]:
    """What takes the steps, and returns the microseconds of one for each of so many networks."""
    weights = [torch.nn.Parameter(torch.randn(count, *shape)) for shape in SHAPES]
    for p in weights:
        p.grad = torch.randn_like(p)
    optimizer = kind(weights, lr=1e-3, **options)

    def steps() -> float:
        began = time.process_time()
        for _ in range(STEPS):
            optimizer.step()
        return (time.process_time() - began) / STEPS / count * 1e6

    steps()
    return steps


def main() -> None:
    torch.set_num_threads(1)
    sys.stdout.write(f"| optimizer | networks | {' | '.join(WAYS)} |\n|---|---|{'---|' * len(WAYS)}\n")
    for name, (kind, own) in OPTIMIZERS.items():
        for count in (1, 8):
            looks = {way: stepping(kind, own | options, count) for way, options in WAYS.items()}
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(5):
                for way, look in looks.items():
                    found[way].append(look())
            told = " | ".join(f"{statistics.median(found[way]):.0f}" for way in WAYS)
            sys.stdout.write(f"| {name} | {count} | {told} |\n")


if __name__ == "__main__":
    main()
