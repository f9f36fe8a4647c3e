"""torch's compiler is loaded only in processes that compile."""

import subprocess
import sys

import numpy as np
import pytest

from tests.shared.marks import quick

TELL = """
import sys
from runner.__main__ import main
if __name__ == "__main__":
    code = main(sys.argv[1:])
    print("loaded:", *sorted({"torch._dynamo", "torchvision", "matplotlib", "scipy"} & set(sys.modules)))
    sys.exit(code)
"""


def told(tmp_path, *words):
    (tmp_path / "tell.py").write_text(TELL)
    done = subprocess.run([sys.executable, "tell.py", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("loaded:")[2].split()


@quick
def test_a_run_leaves_the_compiler_alone(tmp_path):
    """Neither planning nor training loads it, where no network is compiled."""
    assert told(tmp_path, "epochs=1", "data.limit=200", "optimizer=adam") == ["matplotlib"]


@quick
def test_a_sweep_of_one_seed_has_its_report_written_by_a_worker(tmp_path):
    """Which has been forked from a process that holds what that takes; this one loads neither that nor statistics."""
    words = "-m", "epochs=1", "data.limit=200", "optimizer=sgd,adam", "hydra.launcher.workers=2"
    assert told(tmp_path, *words) == []
    page = (tmp_path / "outputs" / "runs" / "report.html").read_text()
    assert "adam" in page and "<svg" in page


@quick
def test_who_compiles_loads_it():
    """The other test would see it."""
    script = "import torch; from runner.core.startup.torch_compiler import unwrap_optimizers; unwrap_optimizers(); "
    script += "torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step(); import sys; "
    for use, wanted in (("", "False"), ("torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)); ", "True")):
        words = [sys.executable, "-c", f"{script}{use}print('torch._dynamo' in sys.modules)"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.stdout.strip() == wanted, done.stderr


STEPS = """
import sys, numpy, torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from runner.core.startup import torch_compiler
if sys.argv[1] == "plain":
    torch_compiler.unwrap_optimizers()
kinds = dict.fromkeys("NAdam Adagrad AdamW LBFGS Rprop ASGD Adamax Adadelta RAdam".split(), {})
kinds |= {"SGD": {"momentum": 0.9, "nesterov": True}, "Adam": {"weight_decay": 0.1}, "RMSprop": {"momentum": 0.5}}
found, calls = {}, []
for name, options in kinds.items():
    p = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()
    optimizer = getattr(torch.optim, name)([p], lr=0.1, **options)
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss
    for _ in range(3):
        optimizer.step(closure)
    again = getattr(torch.optim, name)([p], lr=0.1, **options)
    again.load_state_dict(optimizer.state_dict())
    again.step(closure)
    found[name] = p.detach().numpy()
    assert p.requires_grad and p.is_leaf
assert len(calls) == 3 * len(kinds)
from runner.optimizer.adam import Adam  # whose step calls torch's
for register in (register_optimizer_step_pre_hook, None):
    calls.clear()
    adam = Adam([torch.ones(2, requires_grad=True)])
    adam.param_groups[0]["params"][0].grad = torch.ones(2)
    handle = (register or adam.register_step_post_hook)(lambda *_: calls.append(1))
    adam.step()
    handle.remove()
    assert calls == [1] or sys.argv[1] == "torch"  # which announces torch's step as well, once that was made
weights = torch.ones(3, requires_grad=True).clone()  # of a step that is differentiable, which keeps its graph
weights.grad = torch.ones(3)
torch.optim.SGD([weights], lr=0.1, differentiable=True).step()
assert "Sub" in weights.grad_fn.name() or "Add" in weights.grad_fn.name(), weights.grad_fn
numpy.savez(sys.argv[2], loaded="torch._dynamo" in sys.modules, **found)
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Weights after steps of torch's optimizers, as they are and without what the compiler needs."""
    found = {}
    for how in ("plain", "torch"):
        path = tmp_path_factory.mktemp("steps") / f"{how}.npz"
        subprocess.run([sys.executable, "-c", STEPS, how, str(path)], check=True)
        found[how] = dict(np.load(path))
    return found


@quick
def test_steps_are_those_of_torch(steps):
    """All optimizers move weights by the same numbers, call their hooks, and no compiler is there."""
    plain, whole = steps["plain"], steps["torch"]
    assert (plain.pop("loaded"), whole.pop("loaded")) == (False, True)
    assert plain.keys() == whole.keys()
    for name, weights in plain.items():
        assert np.array_equal(weights, whole[name]), name
