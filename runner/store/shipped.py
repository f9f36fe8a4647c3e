"""Shipped modules: options of the runner with changes recorded as revisions (`runner.store.revisions`).

A module that is not listed enters fingerprints by its source (`runner.store.sources`): a user's own, written into a
checkout, or a new one of the runner. Listing a module is a promise to record its changes as revisions; an unlisted one
works as well.
"""

MODULES = {
    "augmentation": (
        "affine augmix autoaugment base blur color color_jitter color_offset crop cutout draws flip "
        "gaussian_noise grayscale invert posterize randaugment random_erasing resized_crop rotate scale "
        "solarize torchvision_transform translate trivialaugment vertical_flip warp"
    ),
    "data": (
        "array_cache arrays decode digits image_folder normalize photo_cache photos prepare splits stream "
        "vision vision_photos"
    ),
    "ensemble": (
        "base batch_norm checkpoints ema independent lookahead none polyak snapshot soup swa training_run "
        "weight_average"
    ),
    "evaluation": "base evaluate metrics monte_carlo softmax standard trained views",
    "model": (
        "airbench attention convnet drop_path fitted formulas library_noise mlp noise presets resnet stages "
        "torchvision_model train_mode wide_resnet"
    ),
    "optimizer": "adam base bfgs flat_params kernels lbfgs library lion muon newton newton_cg param_groups sam",
    "regularization": (
        "base batchnorm confidence_penalty cutmix cutmix_or_mixup dropconnect dropout elastic_net "
        "fractional_max_pool gaussian_noise ghost_batchnorm groupnorm l1 l2 l2_sp label_smoothing layernorm "
        "layers max_norm mixing mixup norms stochastic_depth weight_standardization"
    ),
    "schedule": (
        "base constant cosine cycles cyclic exponential inverse_sqrt inverse_time linear multistep one_cycle "
        "plateau polynomial step warm_restarts wsd"
    ),
    "surface": "base beale himmelblau monkey_saddle plateau rastrigin ravine rosenbrock saddle trajectory",
    "task": (
        "augmentation_grid base ensemble_facts evaluate forward_facts job lr_range phases predict preflight "
        "preview random_functions recorder resources saddles session surface torchrun train trained training"
    ),
    "transfer": "finetune part published read_weights stem weights",
}
SHIPPED = frozenset(f"runner.{group}.{name}" for group, names in MODULES.items() for name in names.split())


def is_added(module: str) -> bool:
    """Return whether a module in a checkout of the runner is not shipped but the user's own."""
    parts = module.split(".")
    return parts[0] == "runner" and len(parts) > 2 and parts[1] in MODULES and module not in SHIPPED
