"""airbench: the network, its whitened patches, and the experiment that trains it."""

import json

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.func import functional_call, stack_module_state, vmap

from runner.build.check import check
from runner.build.load import load
from runner.core.errors import ConfigError
from runner.data.normalize import sample
from runner.model.airbench import Airbench, whitening
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.results import result_of

CIFAR = {"in_channels": 3, "num_classes": 10, "image_size": 32}
SIZES = {"train": 40, "test": 20}
SMALL = {"in_channels": 1, "num_classes": 10, "image_size": 8}


def patches(images: np.ndarray, size: int = 2) -> np.ndarray:
    """All patches of images `[N, C, H, W]` as rows."""
    windows = sliding_window_view(images, (size, size), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * size**2)


def correlated(count: int = 50) -> torch.Tensor:
    """Images whose neighbouring pixels and channels go together, and whose mean is not zero."""
    images = torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(1)
    return images + 0.3


def test_filters_are_the_whitening_of_the_patches():
    """Eigenvectors of the patches' second moments over the roots of their eigenvalues, as NumPy finds them; the answers
    to the patches are white."""
    images = correlated()
    rows = patches(images.double().numpy())
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    found = whitening(iter(images.split(7)), 2, 1e-12)
    assert found.shape == (12, 3, 2, 2)
    answers = rows @ found.flatten(1).numpy().T
    np.testing.assert_allclose(answers.T @ answers / len(rows), np.eye(12), atol=1e-6)
    damped = whitening(iter(images.split(7)), 2, 0.5).flatten(1).numpy()
    expected = (vectors / np.sqrt(values + 0.5)).T[::-1]
    signs = np.sign(expected[np.arange(12), np.abs(expected).argmax(1)])
    np.testing.assert_allclose(damped, expected * signs[:, None], rtol=1e-6, atol=1e-9)


def test_the_network_is_the_papers():
    """Its size, both signs in the first layer, identities in the others, norms without weights, a scaled head."""
    model = Airbench([64, 256, 256], **CIFAR)
    model.fit(iter([correlated()]))
    assert sum(p.numel() for p in model.parameters()) == 1_972_792
    first = model.whiten.weight
    assert first.shape == (24, 3, 2, 2) and torch.equal(first[:12], -first[12:]) and not model.whiten.bias.any()
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"whiten.weight"} | {f"block{i}.norm{j}.weight" for i in (1, 2, 3) for j in (1, 2)}
    features = torch.randn(2, 64, 15, 15)
    assert torch.equal(model.block2.conv1(features)[:, :64], features)
    assert not torch.allclose(model.block2.conv1(features)[:, 64:128], features)
    assert model.block1.norm1.momentum == pytest.approx(0.4) and model.block1.norm1.eps == 1e-12
    model.eval()
    inside = model.block3(model.block2(model.block1(model.gelu(model.whiten(torch.randn(2, 3, 32, 32))))))
    assert inside.shape == (2, 256, 3, 3)
    images = torch.randn(2, 3, 32, 32)
    logits = model(images)
    model.logit_scale = 1.0
    torch.testing.assert_close(model(images), 9 * logits)


def test_it_runs_under_vmap():
    """Two networks in one vmapped program, in training mode, equal the two alone."""
    members = [Airbench([4, 6, 8], **CIFAR | {"image_size": 9}).double() for _ in range(2)]
    x = torch.randn(2, 4, 3, 9, 9, dtype=torch.float64)
    parameters, buffers = stack_module_state(members)
    together = vmap(lambda p, b, images: functional_call(members[0], (p, b), images))(parameters, buffers, x)
    for index, member in enumerate(members):
        torch.testing.assert_close(together[index], member(x[index]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("widths", "pixels", "said"),
    [([8, 8], 32, r"model.widths=\[8, 8\]: .* three widths"), ([8, 8, 8], 1, "at least 2 pixels a side, not 1")],
)
def test_what_cannot_be_built(widths, pixels, said):
    """Two widths, or images of one pixel: one line."""
    with pytest.raises(ConfigError, match=said):
        Airbench(widths, **SMALL | {"image_size": pixels})


def test_a_sample_is_of_the_whole_split():
    """`sample` gives normalised training images from the first to the last, as many as asked for or as there are."""
    splits = Resources().splits(check(composed("data.limit=200")))
    images = splits.train.images.float().div(255).sub(splits.mean.view(-1, 1, 1)).div(splits.std.view(-1, 1, 1))
    some = torch.cat(list(sample(splits, 90)))
    torch.testing.assert_close(some, images[torch.arange(90) * 180 // 90])
    torch.testing.assert_close(torch.cat(list(sample(splits, 1000))), images)


def test_members_share_what_the_data_says(cli, tmp_path):
    """Each member of an ensemble has the same first layer, that of its training images, and weights of its own; they
    load and answer again as they are."""
    words = ("model=airbench", "model.widths=[4,4,4]", "model.look_at=50", "epochs=1", "data.limit=200", "name=a")
    assert cli(*words, "ensemble=independent", "ensemble.members=2", "log.tensorboard=false")[0] == 0
    one, two = (network.model for network in load(next((tmp_path / "outputs/a").glob("model*"))).networks)
    splits = Resources().splits(check(composed("data.limit=200")))
    assert len(splits.train) == 180
    filters = whitening(sample(splits, 50), 2, 5e-4).float()
    for model in (one, two):
        torch.testing.assert_close(model.whiten.weight.data, torch.cat((filters, -filters)))
    assert not torch.equal(one.block2.conv2.weight, two.block2.conv2.weight)
    assert one.whiten.bias.any() and torch.equal(one.block1.norm1.weight, torch.ones(4))
    trained = result_of(tmp_path / "outputs/a")
    run = next((tmp_path / "outputs/a").glob("model*"))
    assert cli("task=evaluate", f"task.checkpoint='{run}'", "name=b", "log.tensorboard=false")[0] == 0
    assert result_of(tmp_path / "outputs/b")["test_accuracy"] == trained["test_accuracy"]


def test_the_experiment_is_the_papers_recipe(cli, tmp_path):
    """`experiment=cifar10/fast` runs on arrays; its rates are the paper's, for the mean of the losses."""
    draws = np.random.default_rng(0)
    arrays = {f"x_{part}": draws.integers(0, 256, (count, 32, 32, 3), np.uint8) for part, count in SIZES.items()}
    arrays |= {f"y_{part}": np.arange(count) % 10 for part, count in SIZES.items()}
    np.savez(tmp_path / "data.npz", **arrays)
    cut = ("data=arrays", f"data.root={tmp_path / 'data.npz'}", "batch_size=20", "model.widths=[4,4,4]", "epochs=5")
    code, out, err = cli("experiment=cifar10/fast", *cut, "log.tensorboard=false")
    assert code == 0, err
    (run,) = (tmp_path / "outputs/cifar10/fast").glob("data*")
    result = json.loads((run / "result.json").read_text())
    assert result["data"]["train"] == 40 and result["data"]["val"] == 0
    config = check(composed("experiment=cifar10/fast", *cut))
    nesterov = 1 + 1 / (1 - 0.85)  # how much longer steps are than a constant gradient
    optimizer = config["optimizer"]
    assert optimizer["lr"] == pytest.approx(11.5 / nesterov)
    assert optimizer["lr"] * optimizer["weight_decay"] == pytest.approx(0.0153 / nesterov, rel=1e-3)
    builder = Resources()
    parts = builder.parts(config, builder.splits(config), torch.device("cpu"), torch.Generator())
    plain, fast = parts.optimizer.param_groups
    assert fast["name"] == "weights_norm_biases" and len(fast["params"]) == 6
    assert fast["lr"] == 64 * plain["lr"] and fast["lr"] * fast["weight_decay"] == plain["lr"] * plain["weight_decay"]
    rates = [parts.schedule(step) for step in range(parts.timeline.steps)]
    assert max(rates) == rates[2] == 1 and rates[-1] == pytest.approx(0.07 + 0.93 / 8)
