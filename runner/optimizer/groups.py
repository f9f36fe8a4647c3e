"""The one table of parameters: which group each is in, its rate, whether it decays."""

from typing import Any

from torch import nn

from runner.model.stages import stage_parameters


def parameter_groups(model: nn.Module, rates: dict[str, float], no_decay: bool) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer, in the model's order.

    rates: stage -> multiplier of the learning rate; a stage without one is not trained.
    no_decay: vectors (biases, the weights of norms) get no weight decay, as in Goyal et al. 2017, section 5.3.

    Each group has `params`, `name` (its rate's tag in the log) and `lr_scale`.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for stage, parameters in stage_parameters(model):
        if stage not in rates:
            continue
        for _, parameter in parameters:
            if not parameter.requires_grad:
                continue
            plain = no_decay and parameter.ndim < 2
            group = groups.setdefault((rates[stage], plain), {"params": [], "lr_scale": rates[stage]})
            group["params"].append(parameter)
            if plain:
                group["weight_decay"] = 0.0
    several = len({rate for rate, _ in groups}) > 1
    for (rate, plain), group in groups.items():
        group["name"] = (f"x{rate:g}" if several else "weights") + ("_no_decay" if plain else "")
    return list(groups.values())
