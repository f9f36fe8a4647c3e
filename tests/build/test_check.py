"""Complaints about the values and keys of a config, word for word."""

import pytest

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.core.schema import STACKS
from runner.core.text import shown
from tests.shared.complaints import FEW, complaints
from tests.shared.configs import composed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("seed=-1", "seed=-1: must be at least 0"),
        ("seed=1.5", "seed=1.5: must be a whole number"),
        ("epochs=0", "epochs=0: must be at least 1"),
        ("epochs=null", "epochs=null: must be a whole number"),
        ("batch_size=x", "batch_size=x: must be a whole number"),
        ("accumulate=true", "accumulate=true: must be a number, not true"),
        ("lr_scale=0", "lr_scale=0: must be above 0"),
        ("lr_scale=inf", "lr_scale=inf: must be a finite number"),
        ("device=gpu", "device=gpu: must be auto, cpu, cuda, cuda:N or mps"),
        ("precision=fp8", "precision=fp8: must be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("threads=0", "threads=0: must be 'auto' or must be at least 1"),
        ("compile=3", "compile=3: must be 'auto' or must be true or false"),
        ("clip_grad_norm=0", "clip_grad_norm=0: must be above 0"),
        ("name=a/../b", "name=a/../b: must be a folder name: letters, digits and . _ - + = (a / nests it)"),
        ("early_stopping=3", "early_stopping=3: has keys of its own: type them one by one"),
        ("early_stopping.patience=1.5", "early_stopping.patience=1.5: must be a whole number"),
        ("checkpoint.select=bst", "checkpoint.select=bst: must be 'auto', 'best' or 'last'"),
        ("+bogus=1", "bogus: no such key"),
        ("+epoch=1", "epoch: no such key; did you mean 'epochs'?"),
        ("trust=os", "trust=os: must be a list, [A,B]"),
        ("data.limit=0", "data.limit=0: must be at least 1"),
        ("data.val_fraction=1", "data.val_fraction=1: must be below 1"),
        ("data.classes=3", "data.classes=3: must be a list, [A,B]"),
        ("optimizer.lr=abc", "optimizer.lr=abc: must be a number"),
        ("optimizer.lr=true", "optimizer.lr=true: must be a number, not true"),
        ("optimizer.lr=-1", "optimizer.lr=-1: must be above 0"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: has too few values"),
        ("optimizer.betas=[0.9,2]", "optimizer.betas=2: must be below 1"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1: must be at least 0"),
        ("optimizer=sgd +optimizer.foreach=3", "optimizer.foreach=3: must be true or false"),
        ("model.hidden=2.5", "model.hidden=2.5: must be a whole number"),
        ("model.channels=3", "model.channels=3: must be a list, [A,B]"),
        ("model.channels=[3,x]", "model.channels=[3,x]: must be a whole number"),
        ("+model.wdith=3", "model.wdith=3: no such key; it has channels, hidden"),
        ("+model.chanels=[3]", "model.chanels=[3]: no such key; it has channels, hidden; did you mean 'channels'?"),
        ("schedule.floor=x", "schedule.floor=x: must be a number"),
        (
            "model._target_=null",
            "model._target_ is missing: give the dotted path of a class, model._target_=PACKAGE.CLASS",
        ),
        (
            "+regularization.dropout.p=0.1",
            "regularization.dropout: 'dropout' is not in the stack; add it ('regularization=[dropout]') "
            "or leave its keys out",
        ),
    ],
)
def test_complaints(words, line):
    """A wrong value or key is answered by one line: the key, the value as typed, what is allowed."""
    assert complaints(*words.split()) == [line]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer.lr=null",), "optimizer.lr=null: must be a number"),
        (("~optimizer.lr",), "optimizer.lr is missing: optimizer.lr=VALUE"),
    ],
)
def test_a_rate_is_needed(words, line):
    """An optimizer without a rate is refused in the user's words."""
    assert complaints(*FEW, *words) == [line]


def test_a_key_of_a_part_has_a_neighbour():
    """A slip in a key below `log` is answered with the key meant."""
    assert complaints("+log.evry=1") == ["log.evry: no such key; did you mean 'every'?"]


def test_all_complaints_at_once():
    """Everything wrong with a combination is said together, in the order of the schema."""
    assert complaints("seed=1.5", "epochs=0", "checkpoint.select=bst", "optimizer.lr=-1", "data.limit=x") == [
        "seed=1.5: must be a whole number",
        "epochs=0: must be at least 1",
        "checkpoint.select=bst: must be 'auto', 'best' or 'last'",
        "data.limit=x: must be a whole number",
        "optimizer.lr=-1: must be above 0",
    ]
    stack = ("regularization=[dropout,l2]", "regularization.dropout.p=x", "+regularization.l2.wait=1")
    assert complaints(*stack, "+model.a=1", "model.hidden=x") == [
        "model.hidden=x: must be a whole number",
        "model.a=1: no such key; it has channels, hidden",
        "regularization.dropout.p=x: must be a number",
        "regularization.l2.wait=1: no such key; it has weight; did you mean 'weight'?",
    ]


def test_refused_is_a_config_error_with_lines():
    """`Refused` carries its lines and, as one text, joins them."""
    error = Refused(["a", "b"])
    assert isinstance(error, ConfigError) and (str(error), error.lines) == ("a; b", ["a", "b"])


def test_values_become_exact():
    """Whole numbers typed for real ones become real, so that `lr=1` and `lr=1.0` are one run."""
    config = check(composed("optimizer.lr=1", "lr_scale=2", "name=2024"))
    assert [type(v) for v in (config["optimizer"]["lr"], config["lr_scale"], config["name"])] == [float, float, str]
    assert config == check(composed("optimizer.lr=1.0", "lr_scale=2.0", "name='2024'"))
    assert check(config) == config


def test_checking_keeps_the_order_of_stacks():
    """The order typed is the order checked: it is part of what a stack does."""
    for names in (["dropout", "l2"], ["l2", "dropout"]):
        assert list(check(composed(f"regularization=[{','.join(names)}]"))["regularization"]) == names
    assert set(STACKS) == {"regularization", "augmentation"}


def test_shown():
    """Values are shown as they are typed."""
    assert shown([None, True, 0.5, "a"]) == "[null,true,0.5,a]"
