"""Parameter groups: learning rate and weight decay of each parameter."""

from typing import Any

from torch import nn

from runner.core.errors import ConfigError
from runner.model.stages import stage_parameters

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, rates: dict[str, float], no_decay: bool, norm_bias: float = 1.0
) -> list[dict[str, Any]]:
    """Return parameter groups for a torch optimizer, in the model's order.

    rates: stage -> multiplier of the learning rate. Stages not in it do not train.
    no_decay: no weight decay for vectors (biases, weights of norms), as in Goyal et al. 2017, section 5.3.
    norm_bias: multiplier of the learning rate of norms' biases; their decay per step does not change (Jordan 2024,
        arXiv 2404.00498). Raises ConfigError if no norm has a trainable bias.

    Each group has `params`, `name` (the tag of its learning rate in the log) and `lr_scale`. A group whose decay per
    step must not change with its rate also has `decay_scale`.
    """
    groups: dict[tuple[float, bool, bool], dict[str, Any]] = {}
    bias_ids = norm_biases(model) if norm_bias != 1 else set()
    for stage, parameters in stage_parameters(model):
        if stage not in rates:
            continue
        for _, parameter in parameters:
            if not parameter.requires_grad:
                continue
            undecayed, is_norm_bias = no_decay and parameter.ndim < 2, id(parameter) in bias_ids
            rate = rates[stage] * (norm_bias if is_norm_bias else 1)
            group = groups.setdefault((rates[stage], undecayed, is_norm_bias), {"params": [], "lr_scale": rate})
            group["params"].append(parameter)
            if undecayed:
                group["weight_decay"] = 0.0
            elif is_norm_bias:
                group["decay_scale"] = 1 / norm_bias
    if norm_bias != 1 and not any(is_norm_bias for _, _, is_norm_bias in groups):
        raise ConfigError(
            f"optimizer.norm_bias_lr_scale={norm_bias:g}: no norm of this network has a bias that trains; add "
            "regularization=[batchnorm], or use optimizer.norm_bias_lr_scale=1"
        )
    has_several_rates = len({rate for rate, _, _ in groups}) > 1
    for (rate, undecayed, is_norm_bias), group in groups.items():
        group["name"] = (
            (f"x{rate:g}" if has_several_rates else "weights")
            + ("_norm_biases" if is_norm_bias else "")
            + ("_no_decay" if undecayed else "")
        )
    return list(groups.values())


def norm_biases(model: nn.Module) -> set[int]:
    """Return the `id`s of the biases of norms."""
    norms = (module for module in model.modules() if isinstance(module, NORMS))
    return {
        id(parameter) for norm in norms for name, parameter in norm.named_parameters(recurse=False) if name == "bias"
    }


def scaled(group: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    """Return a group of `parameter_groups` with rate and decay for torch, from the optimizer's config `keys`.

    Raises ConfigError if the decay must be scaled but is not among the keys.
    """
    result = {key: value for key, value in group.items() if key not in ("lr_scale", "decay_scale")}
    result["lr"] = keys["lr"] * group["lr_scale"]
    if "decay_scale" in group:
        if "weight_decay" not in keys:
            raise ConfigError(
                "optimizer.norm_bias_lr_scale: this optimizer has no weight_decay of its own, which would have to stay "
                "behind; use optimizer.no_decay=true, or optimizer.norm_bias_lr_scale=1"
            )
        result["weight_decay"] = keys["weight_decay"] * group["decay_scale"]
    return result
