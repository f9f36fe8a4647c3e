"""A plain script: one combination after the other, DataLoader with per-sample transforms."""

import torch
from common import WORKLOADS, arguments, combinations, fit, loaders, network, tell


def main() -> None:
    given = arguments(__doc__)
    work = WORKLOADS[given.workload]
    train, val, test = loaders(given.root, given.limit)
    for combination in combinations(given.workload):
        torch.manual_seed(0)
        tell(combination, fit(network(work["model"]), combination, work["epochs"], train, val, test))


if __name__ == "__main__":
    main()
