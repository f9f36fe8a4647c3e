"""Eligibility for the feature cache: checks of the config, and of the network on a few images."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from runner.augmentation.base import Transform
from runner.core.context import Context
from runner.core.text import first_line
from runner.evaluation.base import Autocast
from runner.execution.closeness import close
from runner.execution.features.activations import count_variants
from runner.execution.features.cut import Cut, Rest, Uncut, calls_before, compute_features, find_cut
from runner.model.noise import noisy
from runner.model.stages import stages

MOST_VARIANTS = 8  # maximum of variants per image
# errors of a forward pass on unexpected shapes
MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


class Declined(Exception):
    """Raised if a run cannot use the feature cache, with the reason and a way out."""

    def __init__(self, reason: str, way_out: str):
        super().__init__(reason)
        self.way_out = way_out


def refusal(context: Context) -> str | None:
    """Return the error message for `transfer.cache=true` in an ineligible combination, else None."""
    if context.transfer.cache is not True:
        return None
    side, device = context.image_size, next(context.model.parameters()).device
    images = torch.zeros(2, context.in_channels, side, side, device=device)
    try:
        plan_cut(context.config, context.model, context.transfer, context.pipeline, context.stack, images)
    except Declined as declined:
        return refusal_message(declined)
    return None


def plan_cut(
    config: Mapping[str, Any],
    model: nn.Module,
    transfer: Any,
    pipeline: Mapping[str, Transform],
    stack: Mapping[str, Any],
    images: Tensor,
) -> Cut:
    """Return the expected cut of a run, from two images. Raises `Declined`."""
    check_config(config, model, transfer, pipeline, stack)
    return choose_cut(model, transfer, images)


def refusal_message(declined: Declined) -> str:
    """Return the error message for `transfer.cache=true`."""
    return f"transfer.cache=true: {declined}; {declined.way_out}, or transfer.cache=auto"


def check_config(
    config: Mapping[str, Any],
    model: nn.Module,
    transfer: Any,
    pipeline: Mapping[str, Transform],
    stack: Mapping[str, Any],
) -> None:
    """Check what needs no forward pass. Raises `Declined`."""
    if transfer.depth(model) == 0:
        raise Declined("nothing is frozen", "set transfer.freeze_depth")
    if transfer.every:
        raise Declined(
            f"transfer.unfreeze.every={transfer.every} thaws what is frozen", "use transfer.unfreeze.every=null"
        )
    if config["compile"] is True:
        raise Declined("compile=true makes one program of the whole network", "use compile=false")
    if random := [name for name, item in pipeline.items() if item.variants is None]:
        raise Declined(
            f"augmentation=[{','.join(random)}] makes ever new images",
            "use items of few variants (augmentation=[flip])",
        )
    if (count := count_variants(pipeline.values())) > MOST_VARIANTS:
        raise Declined(
            f"augmentation=[{','.join(pipeline)}] makes {count} variants of an image, and {MOST_VARIANTS} is the most",
            "leave an item out",
        )
    if mixing := [name for name, item in stack.items() if item.overrides("mix") and not item.keeps_images]:
        raise Declined(f"regularization=[{','.join(mixing)}] mixes images", "leave it out")


def choose_cut(model: nn.Module, transfer: Any, images: Tensor) -> Cut:
    """Return the cut of the network, from at least two normalized images. Raises `Declined`."""
    kind = type(model).__name__
    with restore_modes(model):
        try:
            cut = find_cut(model.eval(), trained_modules(model, transfer.depth(model)), images)
            draws, calls = set(noisy(model)), calls_before(model, cut)
            for number, call in enumerate(calls):
                if call in draws and not any(True for later in calls[number:] for _ in later.parameters()):
                    cut = find_cut(model, [call], images)  # before noise that no weights follow: GoogLeNet's dropout
                    break
        except Uncut as reason:
            raise Declined(f"{kind} cannot be cut there: {reason}", "use another transfer.freeze_depth") from reason
        before = [module for call in calls_before(model, cut) for module in call.modules()]
        if noise := [module for module in before if module in draws]:
            raise Declined(
                f"{type(noise[0]).__name__} draws anew in each pass through the frozen stages",
                "leave it out, or freeze fewer stages",
            )
        transfer.train_mode(model, 0)
        if moving := [module for module in before if _depends_on_batch(module)]:
            raise Declined(
                f"{type(moving[0]).__name__} of the frozen stages follows the batches", "use transfer.frozen_norm=eval"
            )
    return cut


def trained_modules(model: nn.Module, depth: int) -> list[nn.Module]:
    """Return the modules of the stages after the first `depth`."""
    return [module for _, modules in stages(model)[depth:] for module in modules]


def _depends_on_batch(module: nn.Module) -> bool:
    """Return whether a module is a norm whose output depends on the batch in its current mode."""
    if not isinstance(module, nn.modules.batchnorm._NormBase):
        return False
    return module.training or (module.running_mean is None and isinstance(module, nn.modules.batchnorm._BatchNorm))


def verify_cut(model: nn.Module, transfer: Any, cut: Cut, images: Tensor, autocast: Autocast) -> Tensor:
    """Return the features of images at the cut.

    Raises `Declined` if the two parts differ from the whole network, or if the frozen part changes in training.
    """
    kind, device = type(model).__name__, images.device
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with restore_modes(model), autocast(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            model.eval()
            with torch.no_grad():
                torch.manual_seed(0)  # because some pooling layers draw in every mode
                whole = model(images)
                features = compute_features(model, cut, images)
                torch.manual_seed(0)
                parts = Rest(model, cut, device)(features)
                single = compute_features(model, cut, images[:1])
            transfer.train_mode(model, 0)
            trained = compute_features(model, cut, images)
        except (Uncut, *MISFITS) as error:
            raise Declined(
                f"{kind}'s stages cannot be run apart ({first_line(error)})", "use another transfer.freeze_depth"
            ) from error
    changed = [name for name, value in model.named_buffers() if not _same(value, buffers[name])]
    with torch.no_grad():
        for name in changed:
            model.get_buffer(name).copy_(buffers[name])
    for differs, reason in (
        (trained.requires_grad, f"{kind} trains something before the stages that are to train"),
        (changed or not close(trained, features), f"the frozen stages of {kind} answer otherwise while training"),
        (not close(single, features[:1]), f"the frozen stages of {kind} mix the images of a batch"),
        (not close(parts, whole), f"later stages of {kind} read more than what enters {cut.entry}"),
    ):
        if differs:
            raise Declined(reason, "use another transfer.freeze_depth")
    return features


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


@contextlib.contextmanager
def restore_modes(model: nn.Module) -> Iterator[None]:
    """Restore each module's training flag on exit."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
