"""RUNNER_PLAIN=1: no change to Python, torch or the C library, and the same results."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from runner.core.startup import is_plain, malloc, torch_compiler
from runner.optimizer.kernels import direct

WORDS = ("model=mlp", "optimizer=momentum", "epochs=2", "threads=1", "log.images=0", "log.tensorboard=false")


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("RUNNER_PLAIN", "1")


def test_nothing_is_changed(plain, monkeypatch):
    assert is_plain()
    steps = dict(vars(torch.optim.NAdam))
    torch_compiler.unwrap_methods(torch.optim.NAdam)
    assert dict(vars(torch.optim.NAdam)) == steps
    weights = torch.ones(3, requires_grad=True)
    assert direct(torch.optim.SGD([weights], lr=0.1, fused=True)) is None
    monkeypatch.setattr(ctypes, "CDLL", None)  # whose call would fail
    malloc.keep.__wrapped__()
    malloc.trim()


def test_zero_is_no_wish(monkeypatch):
    for value in ("", "0"):
        monkeypatch.setenv("RUNNER_PLAIN", value)
        assert not is_plain()


def test_a_run_gives_the_same_numbers(tmp_path):
    """In processes of their own; the last digits of a step may differ."""
    results = []
    for name, value in (("plain", "1"), ("quick", "0")):
        command = [sys.executable, "-m", "runner", *WORDS, f"name={name}"]
        subprocess.run(command, cwd=tmp_path, env=os.environ | {"RUNNER_PLAIN": value}, check=True, capture_output=True)
        (path,) = Path(tmp_path, "outputs", name).glob("*/result.json")
        results.append(json.loads(path.read_text()))
    plain, quick = results
    assert plain["fingerprint"] == quick["fingerprint"]
    assert plain["val_loss"] == pytest.approx(quick["val_loss"], rel=1e-4)
