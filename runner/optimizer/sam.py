"""Sharpness-aware minimization: the gradient is taken where the loss near the weights is about highest."""

import functools
from typing import Any

import torch
from torch import Tensor

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.optimizer.base import Params


class SAM(Option, torch.optim.Optimizer):
    """Foret et al. 2021, algorithm 1: `e = rho g / |g|`, then the base's step with the gradient at `w + e`.

    Its groups and state are the base's own, so that rates, checkpoints and logs mean the base.

    base: the optimizer that steps, without its parameters.
    rho: the radius; the norm is over all parameters together.
    """

    def __init__(self, params: Params, lr: float, base: functools.partial, rho: float = 0.05):
        if "full_batch" in base.keywords or "base" in base.keywords:
            raise ConfigError(
                f"optimizer=sam works around a first-order optimizer, not {base.func.__name__}: "
                "optimizer@optimizer.base=sgd"
            )
        self.rho = rho
        self.base = base(params=params, lr=lr)
        super().__init__(self.base.param_groups, {})
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state, self.defaults = self.base.param_groups, self.base.state, self.base.defaults

    def check(self, context: Context) -> str | None:
        """fp16's scaled gradients leave no room for a second one."""
        if context.config["precision"] == "fp16":
            return "precision=fp16: sam takes two gradients a step, and loss scaling allows one; use bf16 or fp32"
        return None

    @torch.no_grad()
    def step(self, objective) -> Tensor:  # type: ignore[override]
        """One update from two gradients; the weights are put back exactly in between."""
        with torch.enable_grad():
            loss = objective()
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        length = self.rho / (torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in moved])) + 1e-12)
        before = [p.clone() for p in moved]
        for p in moved:
            p.add_(p.grad * length)
        with torch.enable_grad():
            objective()
        for p, old in zip(moved, before):
            p.copy_(old)
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The base's: between steps SAM remembers nothing."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
        self.base.load_state_dict(state_dict)
        self._share()
