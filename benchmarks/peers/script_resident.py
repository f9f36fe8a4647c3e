"""A plain script: one combination after the other, the images resident, augmented a batch at a time."""

import torch
from common import WORKLOADS, arguments, combinations, fit, network, tell
from resident import Batches, load


def main() -> None:
    given = arguments(__doc__, "--channels-last")
    work = WORKLOADS[given.workload]
    layout = torch.channels_last if given.channels_last else torch.contiguous_format
    splits = load(given.root, given.limit)
    parts = [Batches(*splits[name], name == "train", given.channels_last) for name in ("train", "val", "test")]
    for combination in combinations(given.workload):
        torch.manual_seed(0)
        model = network(work["model"]).to(memory_format=layout)
        tell(combination, fit(model, combination, work["epochs"], *parts))


if __name__ == "__main__":
    main()
