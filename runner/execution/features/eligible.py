"""Which combinations the feature cache can serve: by their config and by their network, tried on a few images."""

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
from runner.execution.features.cut import Cut, Rest, Uncut, calls_before, enters, find
from runner.model.noise import noisy
from runner.model.stages import stages

MOST_VARIANTS = 8
# What a forward pass raises when it meets shapes that it was not made for.
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
    """Why a run cannot be served, and what would help."""

    def __init__(self, reason: str, way_out: str):
        super().__init__(reason)
        self.way_out = way_out


def refusal(context: Context) -> str | None:
    """The line that refuses `transfer.cache=true` in a combination that cannot be served."""
    if context.transfer.cache is not True:
        return None
    side, device = context.image_size, next(context.model.parameters()).device
    images = torch.zeros(2, context.in_channels, side, side, device=device)
    try:
        foreseen(context.config, context.model, context.transfer, context.pipeline, context.stack, images)
    except Declined as no:
        return insisted(no)
    return None


def foreseen(
    config: Mapping[str, Any],
    model: nn.Module,
    transfer: Any,
    pipeline: Mapping[str, Transform],
    stack: Mapping[str, Any],
    images: Tensor,
) -> Cut:
    """Where a run will probably be cut, found with two images. Raises `Declined`."""
    consider(config, model, transfer, pipeline, stack)
    return plan(model, transfer, images)


def insisted(no: Declined) -> str:
    """The line for whoever wants the cache at all costs."""
    return f"transfer.cache=true: {no}; {no.way_out}, or transfer.cache=auto"


def consider(
    config: Mapping[str, Any],
    model: nn.Module,
    transfer: Any,
    pipeline: Mapping[str, Transform],
    stack: Mapping[str, Any],
) -> None:
    """What can be said before anything is computed. Raises `Declined`."""
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


def plan(model: nn.Module, transfer: Any, images: Tensor) -> Cut:
    """Where the network is cut, found with at least two normalised images. Raises `Declined`."""
    kind = type(model).__name__
    with modes_kept(model):
        try:
            cut = find(model.eval(), trained_modules(model, transfer.depth(model)), images)
            draws, calls = set(noisy(model)), calls_before(model, cut)
            for number, call in enumerate(calls):
                if call in draws and not any(True for later in calls[number:] for _ in later.parameters()):
                    cut = find(model, [call], images)  # no frozen stage comes after: GoogLeNet's dropout
                    break
        except Uncut as why:
            raise Declined(f"{kind} cannot be cut there: {why}", "use another transfer.freeze_depth") from why
        before = [module for call in calls_before(model, cut) for module in call.modules()]
        if noise := [module for module in before if module in draws]:
            raise Declined(
                f"{type(noise[0]).__name__} draws anew in each pass through the frozen stages",
                "leave it out, or freeze fewer stages",
            )
        transfer.train_mode(model, 0)
        if moving := [module for module in before if _follows(module)]:
            raise Declined(
                f"{type(moving[0]).__name__} of the frozen stages follows the batches", "use transfer.frozen_norm=eval"
            )
    return cut


def trained_modules(model: nn.Module, depth: int) -> list[nn.Module]:
    """Of the stages after the first `depth`."""
    return [module for _, modules in stages(model)[depth:] for module in modules]


def _follows(module: nn.Module) -> bool:
    """Whether a norm's answer to an image depends on others: in the mode it is in."""
    if not isinstance(module, nn.modules.batchnorm._NormBase):
        return False
    return module.training or (module.running_mean is None and isinstance(module, nn.modules.batchnorm._BatchNorm))


def tried(model: nn.Module, transfer: Any, cut: Cut, images: Tensor, autocast: Autocast) -> Tensor:
    """What enters for some images. Raises `Declined` where the two halves are not the whole, or the first moves."""
    kind, device = type(model).__name__, images.device
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with modes_kept(model), autocast(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            model.eval()
            with torch.no_grad():
                torch.manual_seed(0)  # there are pools that draw in every mode
                whole = model(images)
                features = enters(model, cut, images)
                torch.manual_seed(0)
                parts = Rest(model, cut, device)(features)
                alone = enters(model, cut, images[:1])
            transfer.train_mode(model, 0)
            trained = enters(model, cut, images)
        except (Uncut, *MISFITS) as error:
            raise Declined(
                f"{kind}'s stages cannot be run apart ({first_line(error)})", "use another transfer.freeze_depth"
            ) from error
    moved = [name for name, value in model.named_buffers() if not _same(value, buffers[name])]
    with torch.no_grad():
        for name in moved:
            model.get_buffer(name).copy_(buffers[name])
    for unlike, why in (
        (trained.requires_grad, f"{kind} trains something before the stages that are to train"),
        (moved or not close(trained, features), f"the frozen stages of {kind} answer otherwise while training"),
        (not close(alone, features[:1]), f"the frozen stages of {kind} mix the images of a batch"),
        (not close(parts, whole), f"later stages of {kind} read more than what enters {cut.entry}"),
    ):
        if unlike:
            raise Declined(why, "use another transfer.freeze_depth")
    return features


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Puts back which modules train."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
