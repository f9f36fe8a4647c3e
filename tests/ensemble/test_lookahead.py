"""Lookahead: against the published loops, in a shared program, resumed, and through the command line."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.seeds import generator
from runner.execution.eager import EagerProgram
from runner.model.mlp import MLP
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.configs import composed
from tests.shared.fused import compare, doubled
from tests.shared.results import result_of
from tests.shared.training import make, numbers, splits, trained, weights

LOOKAHEAD = ("ensemble=lookahead", "ensemble.every=5", "log.every=1", "epochs=4")  # 12 steps: 2 after the last move
NORMS = "regularization=[batchnorm,dropout]"
PAPER = ("ensemble.decay=0.77378", "ensemble.power=3")  # 0.95 ** 5, Jordan 2024


def assert_equal(one, other, **tolerance):
    """Two networks, their norms' statistics too."""
    for name, value in one.state_dict().items():
        torch.testing.assert_close(
            value, other.state_dict()[name], **tolerance, msg=lambda text, name=name: text + name
        )


def test_is_algorithm_1():
    """The slow weights are those of Zhang et al.'s algorithm 1 around torch's SGD, written out."""
    data, alpha = splits(), 0.3
    run = trained(*LOOKAHEAD, "ensemble.decay=0.7", "optimizer=momentum", data=data)
    torch.manual_seed(0)
    fast = MLP([12], in_channels=1, num_classes=3, image_size=8)
    slow = [p.detach().clone() for p in fast.parameters()]
    images = (data.train.images - data.mean.view(-1, 1, 1) * 255) * (1 / (data.std.view(-1, 1, 1) * 255))
    update = torch.optim.SGD(fast.parameters(), lr=0.03, momentum=0.9)
    orders = [torch.randperm(50, generator=generator(0, f"order of epoch {epoch}"))[:48] for epoch in range(4)]
    for t, rows in enumerate(torch.cat(orders).split(16), 1):
        update.zero_grad()
        cross_entropy(fast(images[rows]), data.train.labels[rows]).backward()
        update.step()
        if t % 5 == 0:
            with torch.no_grad():
                for phi, theta in zip(slow, fast.parameters()):
                    phi += alpha * (theta - phi)
                    theta.copy_(phi)
    torch.testing.assert_close(list(run.ensemble.network.parameters()), slow, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(list(run.model.parameters()), list(fast.parameters()), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(slow[0], next(fast.parameters()), rtol=1e-3)


class LookaheadState:
    """As in airbench94.py, but for the types."""

    def __init__(self, net):
        self.net_ema = {k: v.clone() for k, v in net.state_dict().items()}

    def update(self, net, decay):
        for ema_param, net_param in zip(self.net_ema.values(), net.state_dict().values()):
            if net_param.is_floating_point():
                ema_param.lerp_(net_param, 1 - decay)
                net_param.copy_(ema_param)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_is_that_of_the_published_code(optimizer):
    """With a share that grows with the run, weights and statistics are what airbench94's own class makes of them."""
    words = ("log.every=1", "epochs=4", NORMS, f"optimizer={optimizer}")
    plain = make(*words)
    state, schedule = LookaheadState(plain.model), 0.95**5 * (torch.arange(13) / 12) ** 3

    def move(now, scalars):
        if "train/loss" in scalars and now % 5 == 0:
            with torch.no_grad():
                state.update(plain.model, schedule[now].item())

    plain.on_log = move
    train([plain], EagerProgram())
    run = trained(*LOOKAHEAD, "ensemble.decay=0.7737809375", "ensemble.power=3", *words)
    assert_equal(run.model, plain.model, rtol=1e-4, atol=1e-5)
    for name, value in run.ensemble.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, state.net_ema[name], rtol=1e-4, atol=1e-5)


def test_nothing_kept_is_no_lookahead():
    """Slow weights that keep nothing leave the run as it is; others do not, and are what is validated."""
    plain = trained("log.every=1", "epochs=4", NORMS)
    none = trained(*LOOKAHEAD, "ensemble.decay=0", "ensemble.every=1", NORMS)
    run = trained(*LOOKAHEAD, NORMS)
    assert torch.equal(weights(none), weights(plain))
    assert_equal(none.ensemble.network, none.model, rtol=0, atol=0)
    assert numbers(none.progress.history) == numbers(plain.progress.history)
    assert not torch.allclose(weights(run), weights(plain), rtol=1e-3)
    assert run.ensemble.members([run]) == [run.ensemble.network] and not run.ensemble.compared([run])


@pytest.mark.parametrize("pause", [3, 5, 9])
def test_goes_on_bit_for_bit(pause):
    """A run that is cut off before, at or after a move goes on as if nothing had happened."""
    words = (*LOOKAHEAD, *PAPER, NORMS, "augmentation=[crop]")
    whole, second = make(*words), make(*words)
    states = {}
    whole.on_pause = lambda run: states.setdefault(run.progress.step, copy.deepcopy(run.state_dict()))
    train([whole], EagerProgram())
    second.load_state_dict(states[pause])
    train([second], EagerProgram())
    assert_equal(second.model, whole.model, rtol=0, atol=0)
    assert_equal(second.ensemble.network, whole.ensemble.network, rtol=0, atol=0)
    assert numbers(second.progress.history) == numbers(whole.progress.history)


def test_in_a_shared_program():
    """Runs that share a program take the steps that each takes alone, and have the slow weights."""
    words = [(*LOOKAHEAD, NORMS, *one) for one in (("seed=0",), ("seed=1", "ensemble.every=2", *PAPER))]
    words += [("optimizer=momentum", NORMS, "seed=2", "log.every=1", "epochs=4")]
    alone, together = ([doubled(*one) for one in words] for _ in range(2))
    for run in (*alone, *together):
        run.ensemble.begin(run)  # its network is not doubled
    compare(alone, together, steps=7)
    for one, other in zip(alone[:2], together):
        assert_equal(one.ensemble.network, other.ensemble.network, rtol=1e-10, atol=1e-12)


def test_fewer_steps_than_one_move():
    """Slow weights that would never move are refused in one line."""
    words = ("data.limit=200", "model=mlp", "ensemble=lookahead", "batch_size=90", "epochs=3")
    with pytest.raises(
        Refused, match=r"ensemble\.every=7: the run has 6 steps, the slow weights would never move; use"
    ):
        Resources().preflight(check(composed(*words, "ensemble.every=7")))
    Resources().preflight(check(composed(*words, "ensemble.every=6")))
    with pytest.raises(Refused, match="an optimizer of full batches"):
        Resources().preflight(check(composed(*words[1:3], "optimizer=lbfgs")))


def test_through_the_command_line(cli):
    """The slow weights are what is tested, and what is loaded."""
    words = ("data.limit=300", "model=mlp", "epochs=2", "log.tensorboard=false", "log.images=0")
    code, _, err = cli(*words, "ensemble=lookahead", "ensemble.every=3", "name=a")
    assert code == 0, err
    first = result_of(Path("outputs/a"))
    assert first["ensemble"] is None
    (folder,) = (path.parent for path in Path("outputs/a").glob("*/result.json"))
    assert cli("task=evaluate", f"task.checkpoint='{folder}'", "name=b", "log.tensorboard=false")[0] == 0
    assert result_of(Path("outputs/b"))["test_loss"] == pytest.approx(first["test_loss"])
