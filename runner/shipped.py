"""Modules of options that come with the runner: a change of their numbers is a revision (`runner.revisions`).

A module beside them that is not listed counts in fingerprints by its source (`runner.sources`): a user's own, written
into a checkout, or one of ours that is young. Listing a module is a promise to give its changes revisions; nothing
fails where it is not listed.
"""

MODULES = {
    "augmentation": (
        "affine augmix autoaugment base blur color color_jitter color_offset crop cutout draws flip "
        "gaussian_noise grayscale invert posterize randaugment random_erasing resized_crop rotate scale "
        "solarize torchvision_transform translate trivialaugment vertical_flip warp"
    ),
    "data": "arrays cache decode digits image_folder kept photos prepare splits stream vision vision_photos",
    "ensemble": "averages base checkpoints ema facts independent lookahead none norms polyak snapshot soup swa",
    "evaluation": "base monte_carlo standard views",
    "model": (
        "airbench attention convnet fitted formulas mlp modes own_noise presets resnet stages torchvision_model "
        "wide_resnet"
    ),
    "optimizer": "adam base bfgs flat groups kernels lbfgs library lion muon newton newton_cg sam",
    "regularization": (
        "base batchnorm confidence_penalty cutmix cutmix_or_mixup drop_path dropconnect dropout elastic_net "
        "fractional_max_pool gaussian_noise ghost_batchnorm groupnorm l1 l2 l2_sp label_smoothing layernorm "
        "max_norm mixing mixup norms places stochastic_depth weight_standardization"
    ),
    "schedule": (
        "base constant cosine cyclic exponential inverse_sqrt inverse_time linear multistep one_cycle picture "
        "plateau polynomial step warm_restarts wsd"
    ),
    "surface": (
        "base beale himmelblau monkey_saddle overlay pictures plateau rastrigin ravine rosenbrock saddle trajectory"
    ),
    "task": "answering base evaluate lr_range predict preview random_functions saddles saddles_picture surface",
    "transfer": "cache cut finetune kept part published servable stem weights",
}
SHIPPED = frozenset(f"runner.{group}.{name}" for group, names in MODULES.items() for name in names.split())


def is_added(module: str) -> bool:
    """Return whether a module is the user's own, written into a checkout of the runner."""
    parts = module.split(".")
    return parts[0] == "runner" and len(parts) > 2 and parts[1] in MODULES and module not in SHIPPED
