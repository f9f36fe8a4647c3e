"""`optimizer=library`: the package's names, keys and limits."""

import sys

import pytest
import torch

from runner.core.errors import ConfigError
from runner.optimizer.library import build

WEIGHT = [torch.nn.Parameter(torch.ones(2, 2))]


def test_a_missing_package_is_said(monkeypatch):
    """One line with the command that installs it."""
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'runner\[library\]'"):
        build(WEIGHT, "AdaBelief", 0.1, {})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("AdaBeleif", {}, "no such optimizer; did you mean 'adabelief'"),
        ("AdaBelief", {"betta": 1}, "options.betta: AdaBelief has no such key; did you mean 'betas'"),
        ("Ranger21", {}, r"needs '\+optimizer.options.num_iterations=VALUE'"),
        ("ScheduleFreeSGD", {}, "keeps other weights for evaluation"),
        ("AdaHessian", {}, "does not work with plain gradients"),
        ("LOMO", {}, "is not built from parameters and a rate"),
    ],
)
def test_what_cannot_be_had_or_driven_is_said(name, options, said):
    """Wrong names and keys get a suggestion; optimizers that want more than gradients are refused."""
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(ConfigError, match=said) as caught:
        build(WEIGHT, name, 0.1, options)
    assert "\n" not in str(caught.value)


def test_an_optimizer_by_name_is_the_packages_own():
    """Any case of the name; rate and options arrive; the global generator is left as it was."""
    library = pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found = build(WEIGHT, "RANGER21", 0.2, {"num_iterations": 30})
    assert type(found) is library.Ranger21
    assert found.param_groups[0]["lr"] == 0.2 and torch.equal(torch.rand(1), expected)
