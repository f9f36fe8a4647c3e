"""Steps without what torch does around them move the same weights by the same bits."""

import copy

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from runner.optimizer.adam import Adam
from runner.optimizer.kernels import Direct, direct, lay_out, use_kernel
from tests.shared.marks import quick

CASES = {
    "sgd": (torch.optim.SGD, {}),
    "sgd, decay": (torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "ascent": (torch.optim.SGD, {"maximize": True}),
    "passes": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "foreach": True}),
    "plain passes": (torch.optim.SGD, {"maximize": True, "foreach": True}),
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "own adam": (Adam, {"weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True, "maximize": True}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.8, "eps": 1e-3}),
    "rmsprop, decay": (torch.optim.RMSprop, {"weight_decay": 0.1, "maximize": True}),
}
BORN = "sgd", "sgd, decay", "ascent", "plain passes", "adagrad"  # with all the state that they have
SHAPES = (3, 5), (5,), (4, 3, 2)

pytestmark = quick


def made(kind, options, shapes=SHAPES):
    """Weights and their optimizer, in two groups of different rates and decays."""
    draws = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draws).requires_grad_() for shape in shapes]
    groups = [{"params": weights[:2]}, {"params": weights[2:], "lr": 0.03, "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.05, **options)
    if "foreach" not in options:
        use_kernel(optimizer)
    return weights, optimizer


def gradients(step, shapes=SHAPES):
    draws = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=draws) for shape in shapes]


def moved(weights, optimizer, step, take):
    for p, gradient in zip(weights, gradients(step)):
        p.grad = gradient
    for group in optimizer.param_groups:
        group["lr"] *= 0.9
    take()


def same(one, other):
    """To the last bit; RMSProp, by another kernel than torch's, to rounding."""
    off = {"rtol": 1e-6, "atol": 1e-7} if type(one[1]) is torch.optim.RMSprop else {"rtol": 0, "atol": 0}
    for p, q in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(p, q, **off)
        mine, its = one[1].state[p], other[1].state[q]
        assert mine.keys() == its.keys()
        for name, value in mine.items():
            torch.testing.assert_close(value, its[name], **off)


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_as_torch(case):
    """Weights and state, step by step, while the rate changes; and torch's own step was called for the first only."""
    kind, options = CASES[case]
    one, other = made(kind, options), made(kind, options)
    step, calls = direct(one[1]), []
    own = one[1].step
    one[1].step = lambda: calls.append(1) or own()
    for number in range(5):
        moved(*one, number, step.step)
        moved(*other, number, other[1].step)
        same(one, other)
    assert len(calls) == (0 if case in BORN else 1)
    known = step._known
    moved(*one, 5, step.step)
    assert step._known is known  # what it knows of the state is not gathered again at each step


@pytest.mark.parametrize("case", ["momentum", "adam", "rmsprop"])
def test_gradients_that_are_given(case):
    """They need not lie in the weights, and count once; where torch steps itself, it gets them."""
    kind, options = CASES[case]
    one, other = made(kind, options), made(kind, options)
    step = direct(one[1])
    for number in range(4):
        step.gradients = gradients(number)
        for group in one[1].param_groups:
            group["lr"] *= 0.9
        for p in one[0]:
            p.grad = None
        step.step()
        assert all(p.grad is None for p in one[0])
        moved(*other, number, other[1].step)
        same(one, other)
    assert step.gradients is None
    moved(*one, 9, step.step)
    moved(*other, 9, other[1].step)
    same(one, other)


@pytest.mark.parametrize("case", ["momentum", "adam", "adagrad", "rmsprop"])
@pytest.mark.parametrize("how", ["loaded", "replaced"])
def test_state_that_others_put_there(case, how):
    """A checkpoint's, or copies in the place of tensors that were shared, are what goes on."""
    kind, options = CASES[case]
    one, other = made(kind, options), made(kind, options)
    step = direct(one[1])
    for number in range(6):
        moved(*one, number, step.step)
        moved(*other, number, other[1].step)
        if number == 2:
            if how == "loaded":
                one[1].load_state_dict(copy.deepcopy(one[1].state_dict()))
            else:
                for state in one[1].state.values():
                    state |= {key: value.clone() for key, value in state.items() if torch.is_tensor(value)}
    same(one, other)


@pytest.mark.parametrize("case", ["adam", "adagrad", "rmsprop"])
def test_state_lies_as_the_weights_do(case):
    """Kernels walk through both side by side: weights in another order of memory need their state in that order."""
    kind, options = CASES[case]
    shapes = (6, 3, 2, 2), (6,), (4, 6, 3, 3)
    one, other = made(kind, options, shapes), made(kind, options, shapes)
    step = direct(one[1])
    for number in range(6):
        for weights, _ in (one, other):
            for p, gradient in zip(weights, gradients(number, shapes)):
                p.grad = torch.empty_like(p).copy_(gradient)  # in the order that autograd gives it
        step.step()
        other[1].step()
        if number == 2:
            for p in one[0]:
                p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
                p.grad = None
            lay_out(one[1])
            step.forget()
    for p, q in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_weights_without_gradients():
    """Are left alone, and their state is made when the first one comes: as in stages that thaw."""
    one, other = made(*CASES["adam"]), made(*CASES["adam"])
    step = direct(one[1])
    for number in range(6):
        for (weights, _), take in ((one, step.step), (other, other[1].step)):
            for p, gradient in zip(weights, gradients(number)):
                p.grad = gradient
            if number < 3:
                weights[2].grad = None
            take()
    same(one, other)
    assert one[1].state[one[0][2]]["step"] == 3


def test_hooks_are_called():
    """Of who registered some."""
    weights, optimizer = made(*CASES["adam"])
    step, calls = direct(optimizer), []
    moved(weights, optimizer, 0, step.step)
    handle = optimizer.register_step_post_hook(lambda *_: calls.append(1))
    moved(weights, optimizer, 1, step.step)
    handle.remove()
    moved(weights, optimizer, 2, step.step)
    assert calls == [1]
    handle = register_optimizer_step_pre_hook(lambda *_: calls.append(2))
    moved(weights, optimizer, 3, step.step)
    handle.remove()
    assert calls == [1, 2]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.RMSprop, {"momentum": 0.5}),
        (torch.optim.RMSprop, {"centered": True}),
        (torch.optim.RMSprop, {"alpha": 1.0}),
        (Adam, {"bias_correction": False}),
        (torch.optim.NAdam, {}),
        (torch.optim.LBFGS, {}),
    ],
)
def test_others_take_torchs_steps(kind, options):
    """What is not these few calls has no direct step."""
    weights = [torch.ones(3, requires_grad=True)]
    optimizer = kind(weights, lr=0.1, **options)
    use_kernel(optimizer)
    assert direct(optimizer) is None


def test_weights_of_several_types_take_torchs_steps():
    """A kernel takes those of one."""
    weights = [torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)]
    optimizer = torch.optim.Adam(weights)
    use_kernel(optimizer)
    assert direct(optimizer) is None
    assert isinstance(direct(made(*CASES["adam"])[1]), Direct)
