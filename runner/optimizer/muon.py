"""Muon for matrices and kernels, AdamW for the rest, in one optimizer."""

from typing import Any, Literal

import torch
from torch import Tensor

from runner.core.errors import ConfigError
from runner.optimizer.base import Params

MUON = ("lr", "weight_decay", "momentum", "nesterov", "ns_steps", "adjust_lr_fn")
ADAMW = ("lr", "weight_decay", "betas", "eps")


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024): steps along each matrix's momentum, orthogonalized by Newton-Schulz iterations.

    Kernels `[O, I, H, W]` are matrices `[O, I H W]`. Parameters of fewer than two dimensions are updated by AdamW with
    the same rate and decay: `match_rms_adamw` (Liu et al. 2025) gives both steps the same size.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 3e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
            },
        )
        if not any(p.ndim >= 2 for group in self.param_groups for p in group["params"]):
            raise ConfigError("optimizer=muon is for matrices, and no trained parameter is one: use optimizer=adamw")

    @torch.no_grad()
    def step(self, closure=None) -> Tensor | None:
        """Update the parameters by torch's Muon and AdamW, with their state kept in this optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            updated = [p for p in group["params"] if p.grad is not None]
            if matrices := [p for p in updated if p.ndim >= 2]:
                self._step_matrices(matrices, {key: group[key] for key in MUON})
            if rest := [p for p in updated if p.ndim < 2]:
                inner = torch.optim.AdamW([{"params": rest}], **{key: group[key] for key in ADAMW})
                inner.state.update({p: self.state[p] for p in rest})
                inner.step()
        return loss

    def _step_matrices(self, kernels: list[Tensor], keys: dict[str, Any]) -> None:
        # Flattened anew each step, because a parameter's memory may have moved. These are views if the memory format
        # allows it.
        matrices = [p.detach().flatten(1) for p in kernels]
        for matrix, p in zip(matrices, kernels):
            matrix.grad = p.grad.flatten(1)
        inner = torch.optim.Muon([{"params": matrices}], **keys)
        inner.state.update({matrix: self.state[p] for matrix, p in zip(matrices, kernels)})
        inner.step()
        for matrix, p in zip(matrices, kernels):
            if matrix.data_ptr() != p.data_ptr():
                p.copy_(matrix.view(p.shape))
