"""Objects from a config: networks, optimizers, data and threads."""

import pytest
import torch

from runner.build.check import check
from runner.core.devices import cores, threads
from runner.task.resources import Resources
from tests.shared.complaints import FEW
from tests.shared.configs import composed


def test_weights_depend_on_the_seed_only():
    """Networks of one seed start alike whatever was drawn before or is configured beside; other seeds differ."""
    builder = Resources()
    found = []
    for words in (("seed=3",), ("seed=3", "optimizer=sgd", "regularization=[dropout]"), ("seed=4",)):
        config = check(composed(*FEW, "model=mlp", *words))
        torch.manual_seed(len(found))
        parts = builder.parts(config, builder.splits(config), torch.device("cpu"), torch.Generator())
        found.append(parts.model.head.weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_optimizer_gets_its_keys_and_scaled_rate():
    """lr_scale multiplies the option's rate; no_decay spares vectors; other keys reach torch's class."""
    words = ("optimizer=adamw", "optimizer.lr=0.01", "lr_scale=3", "optimizer.betas=[0.8,0.9]")
    for no_decay in (True, False):
        config = check(composed(*FEW, "model=mlp", *words, f"optimizer.no_decay={str(no_decay).lower()}"))
        builder = Resources()
        parts = builder.parts(config, builder.splits(config), torch.device("cpu"), None)
        assert type(parts.optimizer) is torch.optim.AdamW
        for group in parts.optimizer.param_groups:
            assert group["lr"] == pytest.approx(0.03) and tuple(group["betas"]) == (0.8, 0.9)
            vectors = all(p.ndim == 1 for p in group["params"])
            assert group["weight_decay"] == (0.0 if no_decay and vectors else 0.01)
        assert len(parts.optimizer.param_groups) == (2 if no_decay else 1)
        assert config["optimizer"]["lr"] == 0.01  # building leaves the config as it is


def test_data_is_loaded_once():
    """Configs that share their data share its splits; another cut is another split of the same images."""
    builder = Resources()
    first, same, other = (
        builder.splits(check(composed(*words))) for words in ((), ("seed=5", "model=mlp"), ("data.split_seed=1",))
    )
    assert first is same and other is not first
    assert other.test is first.test


def test_threads():
    """`auto` is one thread for small steps, a run's share of the cores for large ones; a number is that number."""
    builder = Resources()
    for words, expected in (
        (("model=mlp",), 1),
        (("threads=3", "model=mlp"), 3),
    ):
        config = check(composed(*FEW, *words))
        assert threads(config, builder.preflight(config).flops, 1) == expected
    config = check(composed(*FEW, "model=resnet56"))
    facts = builder.preflight(config)
    shares = [threads(config, facts.flops, at_once) for at_once in (0, 1, 2, 1000)]
    assert shares == [cores(), cores(), max(1, cores() // 2), 1]
