"""Ray Tune: a grid search, a core a trial; DataLoader with per-sample transforms, or resident images."""

import os
import tempfile
from pathlib import Path
from typing import Any

import ray
import torch
from common import WORKLOADS, arguments, fit, loaders, network, tell
from ray import tune
from resident import Batches, load


def trial(combination: dict[str, Any], splits: dict | None, workload: str, root: str, limit: int) -> None:
    """Trains one combination and reports once."""
    torch.manual_seed(0)
    work = WORKLOADS[workload]
    if splits is None:
        parts = loaders(root, limit)
    else:
        parts = [Batches(*splits[name], name == "train") for name in ("train", "val", "test")]
    tune.report(fit(network(work["model"]), combination, work["epochs"], *parts))


def main() -> None:
    given = arguments(__doc__, "--resident")
    # Its workers import `common` and `resident` from beside this file.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its name); else whatever else runs here goes before it
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    splits = load(given.root, given.limit) if given.resident else None
    space = {
        name: tune.grid_search(list(WORKLOADS[given.workload][name]))
        for name in ("optimizer", "lr_scale", "weight_decay")
    }
    trainable = tune.with_parameters(
        trial, splits=splits, workload=given.workload, root=given.root, limit=given.limit
    )  # the images go through Ray's object store, once
    with tempfile.TemporaryDirectory() as folder:
        found = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(reuse_actors=True),  # a process imports torch once, not once a trial
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    for result in found:
        if result.error is not None:
            raise result.error
        metrics = {key: result.metrics[key] for key in ("val_accuracy", "test_accuracy", "train_loss")}
        tell(result.config, metrics)
    ray.shutdown()


if __name__ == "__main__":
    main()
