"""DropConnect's two ways to test, against sampling: the error of hidden activations, test accuracy and loss.

    python benchmarks/dropconnect.py data=fashion_mnist data.root=DATA data.limit=10000 epochs=15

Trains `model=mlp` with `regularization=[dropconnect]` and the overrides that are typed; the reference is the mean of
10,000 passes with masks, on 256 test images.
"""

import sys

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.nn.functional import nll_loss

from runner.build.check import check
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.noise import sampled
from runner.sweep.compose.explain import CONF
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState

PASSES, IMAGES, CPU = 10_000, 256, torch.device("cpu")


def made(builder: Resources, inference: str, words: list[str]) -> TrainState:
    """A run that tests with the mean weights, or with Gaussians."""
    stack = ["model=mlp", "regularization=[dropconnect]", f"regularization.dropconnect.inference={inference}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = check(OmegaConf.to_container(compose("config", [*stack, *words]), resolve=True))
    noise = generator(config["seed"], "noise")
    return TrainState(config, builder.parts(config, builder.splits(config), CPU, noise), CPU, noise)


@torch.no_grad()
def main(words: list[str]) -> None:
    """Prints the figures."""
    torch.set_num_threads(1)
    builder = Resources()
    runs = {inference: made(builder, inference, words) for inference in ("mean", "gaussian")}
    with torch.enable_grad():
        train([runs["mean"]], EagerProgram())
    runs["gaussian"].model.load_state_dict(runs["mean"].model.state_dict())
    test = runs["mean"].parts.splits.test
    images, labels = next(test.batches([torch.arange(len(test))]))
    x = runs["mean"].normalize(images)
    hidden: dict[str, torch.Tensor] = {}
    for run in runs.values():
        for name, module in run.model.eval().named_modules():
            if name.startswith("relu") and name != "relu1":  # nothing is dropped in linear1
                module.register_forward_hook(
                    lambda module, inputs, output, name=name: hidden.update({name: output[:IMAGES]})
                )
    truth: dict[str, torch.Tensor] = {}
    model = runs["mean"].model
    with sampled(model, generator(0, "passes")):
        for _ in range(PASSES):
            model(x[:IMAGES])
            for name, output in hidden.items():
                truth[name] = truth.get(name, 0) + output.double() / PASSES
        passes = sum(model(x).softmax(1).double() for _ in range(200)) / 200
    say = sys.stdout.write
    for inference, run in runs.items():
        say(f"{inference:10} {measured(run.model(x).log_softmax(1), labels)}")
        for name, mean in truth.items():
            error = (hidden[name] - mean).abs().mean()
            say(f", {name} mean absolute error {error:.4f}")
        say("\n")
    say(f"200 passes {measured(passes.log(), labels)}\n")


def measured(log: torch.Tensor, labels: torch.Tensor) -> str:
    """Accuracy and loss in words."""
    right = (log.argmax(1) == labels).double().mean()
    return f"test accuracy {right:.4f}, loss {nll_loss(log, labels):.4f}"


if __name__ == "__main__":
    main(sys.argv[1:])
