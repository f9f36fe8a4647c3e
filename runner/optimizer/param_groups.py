"""The one table of parameters: which group each is in, its rate, whether it decays."""

from typing import Any

from torch import nn

from runner.core.errors import ConfigError
from runner.model.stages import stage_parameters

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, rates: dict[str, float], no_decay: bool, norm_bias: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, in the model's order.

    rates: stage -> multiplier of the learning rate; a stage without one is not trained.
    no_decay: vectors (biases, the weights of norms) get no weight decay, as in Goyal et al. 2017, section 5.3.
    norm_bias: multiplies the rate of norms' biases; what they decay in a step stays the same (Jordan 2024,
        arXiv 2404.00498). Raises `ConfigError` where no norm has one that trains.

    Each group has `params`, `name` (its rate's tag in the log) and `lr_scale`; one whose rate alone is to grow also has
    `decay_scale`.
    """
    groups: dict[tuple[float, bool, bool], dict[str, Any]] = {}
    apart = norm_biases(model) if norm_bias != 1 else set()
    for stage, parameters in stage_parameters(model):
        if stage not in rates:
            continue
        for _, parameter in parameters:
            if not parameter.requires_grad:
                continue
            plain, fast = no_decay and parameter.ndim < 2, id(parameter) in apart
            rate = rates[stage] * (norm_bias if fast else 1)
            group = groups.setdefault((rates[stage], plain, fast), {"params": [], "lr_scale": rate})
            group["params"].append(parameter)
            if plain:
                group["weight_decay"] = 0.0
            elif fast:
                group["decay_scale"] = 1 / norm_bias
    if norm_bias != 1 and not any(fast for _, _, fast in groups):
        raise ConfigError(
            f"optimizer.norm_bias_lr_scale={norm_bias:g}: no norm of this network has a bias that trains; add "
            "regularization=[batchnorm], or use optimizer.norm_bias_lr_scale=1"
        )
    several = len({rate for rate, _, _ in groups}) > 1
    for (rate, plain, fast), group in groups.items():
        group["name"] = (
            (f"x{rate:g}" if several else "weights") + ("_norm_biases" if fast else "") + ("_no_decay" if plain else "")
        )
    return list(groups.values())


def norm_biases(model: nn.Module) -> set[int]:
    """The ids of the biases of norms."""
    norms = (module for module in model.modules() if isinstance(module, NORMS))
    return {
        id(parameter) for norm in norms for name, parameter in norm.named_parameters(recurse=False) if name == "bias"
    }


def scaled(group: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """A group of `parameter_groups` as torch takes it: with a rate and a decay, from the optimizer's own.

    Raises `ConfigError` where the decay is out of reach.
    """
    found = {key: value for key, value in group.items() if key not in ("lr_scale", "decay_scale")}
    found["lr"] = keys["lr"] * group["lr_scale"]
    if "decay_scale" in group:
        if "weight_decay" not in keys:
            raise ConfigError(
                "optimizer.norm_bias_lr_scale: this optimizer has no weight_decay of its own, which would have to stay "
                "behind; use optimizer.no_decay=true, or optimizer.norm_bias_lr_scale=1"
            )
        found["weight_decay"] = keys["weight_decay"] * group["decay_scale"]
    return found
