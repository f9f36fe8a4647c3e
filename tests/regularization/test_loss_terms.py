"""Terms of the loss, from weights and from answers, against NumPy."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.nn.functional import cross_entropy

from runner.build.check import check
from runner.build.complaints import Refused
from runner.model.convnet import ConvNet
from runner.model.resnet import ResNet
from runner.regularization.base import weights
from runner.regularization.confidence_penalty import ConfidencePenalty, entropy
from runner.regularization.elastic_net import ElasticNet
from runner.regularization.l1 import L1
from runner.regularization.l2 import L2
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.events import accumulate
from tests.shared.training import first_look, gradient, make

SHAPE = {"in_channels": 1, "num_classes": 3, "image_size": 8}
TERMS = ["l1", "l2", "elastic_net", "confidence_penalty"]
NETWORKS = {"convnet": lambda: ConvNet([4, 4], 8, **SHAPE), "resnet20": lambda: ResNet(20, **SHAPE)}


def kernels(model):
    """Weights of linear and convolution layers by name, in NumPy."""
    layers = {name: module for name, module in model.named_modules() if "Norm" not in type(module).__name__}
    return {
        f"{name}.weight": module.weight.detach().double().numpy()
        for name, module in layers.items()
        if "weight" in dict(module.named_parameters(recurse=False))
    }


# -- from the weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("item", "l1", "l2"), [(L1(0.02), 0.02, 0.0), (L2(0.3), 0.0, 0.3), (ElasticNet(0.02, 0.3), 0.02, 0.3)]
)
def test_weight_terms_against_numpy(network, item, l1, l2):
    """l1 x absolute sum + l2 / 2 x squares of matrices and kernels, no biases and no norms; the gradient is theirs."""
    model = NETWORKS[network]()
    found = item.penalty(model)
    found.backward()
    ours = kernels(model)
    wanted = sum(l1 * np.abs(w).sum() + l2 / 2 * np.square(w).sum() for w in ours.values())
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    assert set(ours) < set(dict(model.named_parameters()))
    for name, p in model.named_parameters():
        if name in ours:
            np.testing.assert_allclose(p.grad, l1 * np.sign(ours[name]) + l2 * ours[name], rtol=1e-5, atol=1e-8)
        else:
            assert p.grad is None


@pytest.mark.parametrize("item", [L1(0.5), ElasticNet(0.5, 0.3)])
def test_l1_leaves_zeros_alone(item):
    """Where a weight is 0 its gradient is 0, not the sign's jump and not NaN."""
    model = NETWORKS["convnet"]()
    with torch.no_grad():
        model.head.weight[0] = 0
    item.penalty(model).backward()
    assert (model.head.weight.grad[0] == 0).all() and (model.head.weight.grad[1].abs() > 0.4).all()


@pytest.mark.parametrize("item", [L1(1.0), ElasticNet(1.0, 2.0)])
def test_frozen_weights_are_left_out(item):
    """Weights that are not trained are not in the term."""
    model = NETWORKS["convnet"]()
    for name, p in model.named_parameters():
        p.requires_grad_(name == "head.weight")
    assert len(weights(model)) == 1
    head = np.abs(model.head.weight.detach().double().numpy())
    wanted = head.sum() + (np.square(head).sum() if isinstance(item, ElasticNet) else 0)
    assert item.penalty(model).item() == pytest.approx(wanted, rel=1e-5)


# -- from the answers -----------------------------------------------------------------------------------------------


def answers(rows=40, classes=5, scale=3.0):
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))


def test_entropy_is_scipys():
    """Entropy of the softmax, row by row, in nats; 0 and finite in its gradient where an answer is certain."""
    logits = answers()
    wanted = scipy.stats.entropy(scipy.special.softmax(logits.double().numpy(), axis=1), axis=1)
    np.testing.assert_allclose(entropy(logits), wanted, rtol=1e-5, atol=1e-6)
    assert entropy(torch.zeros(1, 7)).item() == pytest.approx(math.log(7), rel=1e-6)
    certain = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    entropy(certain).sum().backward()
    assert entropy(certain).item() == 0 and torch.equal(certain.grad, torch.zeros(1, 3))


def test_confidence_penalty_formula():
    """-weight x the mean entropy; with a threshold, weight x the mean of what each row's entropy lacks of it."""
    logits = answers()
    rows = scipy.stats.entropy(scipy.special.softmax(logits.double().numpy(), axis=1), axis=1)
    assert ConfidencePenalty(0.3).output_penalty(logits).item() == pytest.approx(-0.3 * rows.mean(), rel=1e-5)
    lacking = np.maximum(0, 0.9 - rows)
    assert 5 < np.count_nonzero(lacking) < 35
    hinged = ConfidencePenalty(0.3, threshold=0.9).output_penalty(logits)
    assert hinged.item() == pytest.approx(0.3 * lacking.mean(), rel=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.9])
def test_confidence_penalty_raises_entropy(threshold):
    """A step down its gradient raises the entropy of each row, with a threshold of those below it and no others."""
    logits = answers().requires_grad_()
    before = entropy(logits).detach()
    ConfidencePenalty(1.0, threshold).output_penalty(logits).backward()
    after = entropy(logits.detach() - logits.grad)
    pushed = before < (threshold or math.inf)
    assert (after[pushed] > before[pushed]).all() and torch.equal(after[~pushed], before[~pushed])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_confidence_penalty_in_the_loop(accumulate):
    """The term enters the loss and the gradient once, however many micro-batches a step has."""
    words = ("regularization=[confidence_penalty]", "regularization.confidence_penalty.weight=0.7")
    run = make(*words, f"accumulate={accumulate}")
    batch, loss = first_look(run)
    found = gradient(run)
    run.model.zero_grad()
    logits = run.model(batch.images)
    probabilities = logits.softmax(1)
    wanted = cross_entropy(logits, batch.targets) + 0.7 * (probabilities * probabilities.log()).sum(1).mean()
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(found, gradient(run), rtol=1e-4, atol=1e-6)
    first_look(plain := make())
    assert not torch.allclose(found, gradient(plain), rtol=1e-2, atol=1e-3)


# -- as a user sees them --------------------------------------------------------------------------------------------


def test_each_term_is_a_scalar_of_the_event_file(cli):
    """All terms stand in one stack, each logged by its own name: at the first step, from the initial weights."""
    words = ("model=mlp", "data.limit=60", "batch_size=20", "epochs=1", "log.every=1", "threads=1", "optimizer.lr=0.1")
    words += (f"regularization=[{','.join(TERMS)}]", "name=terms")
    code, _, err = cli(*words)
    assert code == 0, err
    (folder,) = Path("outputs/terms").glob("[!.]*/")
    read = accumulate(folder)
    config = check(composed(*words))
    builder = Resources()
    model = builder.model(config, builder.splits(config))
    size = sum(np.abs(w).sum() for w in kernels(model).values())
    squares = sum(np.square(w).sum() for w in kernels(model).values())
    wanted = {"l1": 1e-5 * size, "l2": 2.5e-4 * squares, "elastic_net": 1e-5 * size + 2.5e-4 * squares}
    for name in TERMS:
        scalars = read.Scalars(f"train/penalty/{name}")
        assert [event.step for event in scalars] == [1, 2]  # 54 training images
        assert scalars[0].value != scalars[-1].value
        if name in wanted:
            assert scalars[0].value == pytest.approx(wanted[name], rel=1e-5)
        else:
            assert -0.1 * math.log(10) < scalars[0].value < -0.1  # ten classes, not yet told apart


@pytest.mark.parametrize(
    "key", ["l1.weight", "l2.weight", "elastic_net.l1", "elastic_net.l2", "confidence_penalty.weight"]
)
@pytest.mark.parametrize(
    ("value", "said"),
    [(-1, "must be at least 0"), (math.nan, "must be a finite number"), (math.inf, "must be a finite number")],
)
def test_weights_of_terms_are_finite_and_not_below_0(key, value, said):
    """A weight that would reward large weights, or turn every loss into nothing, is refused."""
    name = key.partition(".")[0]
    config = composed(f"regularization=[{name}]", f"regularization.{key}={value}")
    with pytest.raises(Refused, match=f"regularization.{key}={value}: {said}"):
        check(config)


@pytest.mark.parametrize("value", [0, -0.5])
def test_threshold_is_above_0(value):
    """A threshold that no entropy is below is refused."""
    config = composed("regularization=[confidence_penalty]", f"regularization.confidence_penalty.threshold={value}")
    with pytest.raises(Refused, match=f"regularization.confidence_penalty.threshold={value}: must be above 0"):
        check(config)


def test_threshold_above_every_entropy_is_refused():
    """More than log K is refused with the bound; less is not."""
    words = ("regularization=[confidence_penalty]", "model=mlp")
    with pytest.raises(Refused) as refused:
        Resources().preflight(check(composed(*words, "regularization.confidence_penalty.threshold=2.4")))
    assert refused.value.lines == [
        "regularization.confidence_penalty.threshold=2.4: the entropy of 10 classes is never above 2.303; "
        "use less, or null for no threshold"
    ]
    Resources().preflight(check(composed(*words, "regularization.confidence_penalty.threshold=2.3")))
