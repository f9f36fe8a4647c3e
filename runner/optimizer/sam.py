"""SAM (sharpness-aware minimization): uses the gradient where the loss near the weights is about highest."""

import functools
from typing import Any

import torch
from torch import Tensor

from runner.core.context import Context
from runner.core.errors import ConfigError
from runner.core.option import Option
from runner.optimizer.base import Params


class SAM(Option, torch.optim.Optimizer):
    """SAM (Foret et al. 2021, algorithm 1): `e = rho g / |g|`, then a base step with the gradient at `w + e`.

    It shares the base's parameter groups and state, so that schedules, checkpoints and logs apply to the base.

    base: the optimizer that makes the step, as a partial without parameters.
    rho: radius. The norm is over all parameters together.
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
        """Reject fp16, because loss scaling allows only one gradient per step."""
        if context.config["precision"] == "fp16":
            return "precision=fp16: sam takes two gradients a step, and loss scaling allows one; use bf16 or fp32"
        return None

    @torch.no_grad()
    def step(self, objective) -> Tensor:  # type: ignore[override]
        """Update from two gradients. The weights are restored exactly in between."""
        with torch.enable_grad():
            loss = objective()
        perturbed = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        length = self.rho / (torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in perturbed])) + 1e-12)
        before = [p.clone() for p in perturbed]
        for p in perturbed:
            p.add_(p.grad * length)
        with torch.enable_grad():
            objective()
        for p, old in zip(perturbed, before):
            p.copy_(old)
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state, because SAM has none between steps."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base's state."""
        self.base.load_state_dict(state_dict)
        self._share()
