"""Feature cache: the inputs of the first trained stage, computed once for all runs with the same frozen stages.

Frozen stages map an image to the same features in every epoch. If augmentation makes only a few variants of an image (a
flip makes two), their features are stored in a memory-mapped file, for this sweep and later ones.
"""

import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runner.core.errors import ConfigError
from runner.data.photos import available_memory
from runner.data.splits import Split, Splits
from runner.evaluation.base import Member
from runner.evaluation.standard import Standard
from runner.execution.features.activations import (
    Activations,
    count_variants,
    flatten,
    load_rows,
    pick,
    to_bytes,
    variants,
)
from runner.execution.features.cut import Rest, calls_before, compute_features
from runner.execution.features.eligible import (
    Declined,
    check_config,
    choose_cut,
    close,
    refusal_message,
    restore_modes,
    trained_modules,
    verify_cut,
)
from runner.execution.features.store import Store
from runner.store import cache
from runner.transfer.published import transforms_input

if TYPE_CHECKING:
    from runner.train.state import TrainState

log = logging.getLogger(__name__)

FORMAT = 1  # of files and keys
CHUNK = 64  # images per forward pass; fixed, so that rounding does not depend on a run's batch size
PROBE = 4  # images on which the cut is verified


def use_feature_cache(run: "TrainState", splits: Splits, store: Store) -> str:
    """Let a run train on cached features if it is eligible; return the status for result.json.

    Raises `ConfigError` for an ineligible run with `transfer.cache=true`.
    """
    value = run.transfer.cache
    if value is False:
        return "off"
    try:
        run.use(FeatureCache(run, splits, store))
    except Declined as declined:
        if value is True:
            raise ConfigError(refusal_message(declined)) from declined
        if run.transfer.depth(run.model):
            log.info("no feature cache: %s", declined)
        return f"declined: {declined}"
    return "on"


class FeatureCache:
    """Cached features of a run's splits, for training and evaluation from the cut on. Raises `Declined`."""

    def __init__(self, run: "TrainState", splits: Splits, store: Store):
        self.run, self.data, self.store = run, splits, store
        parts, transfer = run.parts, run.transfer
        self.pipeline = list(parts.pipeline.values())
        check_config(run.config, run.model, transfer, parts.pipeline, parts.stack)
        self._first = torch.arange(PROBE, device=run.train_split.device) % len(run.train_split)
        images = run.normalize(next(run.train_split.batches([self._first]))[0])
        self._frozen = self._digest(run.model)
        key = self._cut_key()
        if key not in store.cuts:
            with run.autocast():
                cut = choose_cut(run.model, transfer, images)
            store.cuts[key] = cut, verify_cut(run.model, transfer, cut, images, run.autocast)
        self.cut, self._sample = store.cuts[key]
        self.views = count_variants(self.pipeline)
        self._splits = [split for split in (splits.train, splits.val, splits.test) if split is not None]
        count = sum(map(len, self._splits)) + len(splits.train) * (self.views - 1)
        needed = count * math.prod(self.cut.features.shape) * self.cut.features.dtype.itemsize
        limit = run.config["data"]["budget_gb"]
        self.budget = available_memory() / 2 if limit is None else limit * 1e9
        if needed > self.budget:
            raise Declined(
                f"what enters {self.cut.entry} takes {needed / 1e9:.3g} GB, and the budget is {self.budget / 1e9:.3g}",
                "freeze more stages, or set data.budget_gb",
            )
        self._activations: dict[int, Activations] = {}  # by id(split)

    def rest(self, model: nn.Module) -> Rest:
        """Return the part of a network from the cut on."""
        return Rest(model, self.cut, self.run.device)

    @torch.no_grad()
    def enter(self, images: Tensor) -> Tensor:
        """Return the features of normalized images."""
        with restore_modes(self.run.model), self.run.autocast():
            return compute_features(self.run.model.eval(), self.cut, images)

    def batches(self, order: Iterable[Tensor], draws: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training split's batches; variants are drawn as the pipeline draws them."""
        indices = (row * self.views + pick(len(row), self.pipeline, draws).to(row.device) for row in order)
        return self._of(self.run.train_split).batches(indices)

    @property
    def origin(self) -> str:
        """Return a key of the cut and the frozen weights; equal features have equal keys."""
        return f"{self.cut} {self._frozen}"

    def split(self, split: Split) -> tuple[Activations, "NoNormalize"]:
        """Return the features of one of the run's splits, and their normalization, which does nothing."""
        return self._of(split), NoNormalize(self.data.size)

    def members(self, members: Sequence[nn.Module], split: Split) -> list[nn.Module | Member]:
        """Return the networks for `evaluate`: from the cut on if they have the run's frozen part, else whole."""
        if all(split is not own for own in self._splits):
            return list(members)
        features, normalize = self.split(split)
        return [
            Member(self.rest(model), normalize, features, Standard()) if self._is_eligible(model) else model
            for model in members
        ]

    def _is_eligible(self, model: nn.Module) -> bool:
        """Return whether a network has the run's frozen part."""
        if model is self.run.model:
            return True
        return type(model) is type(self.run.model) and self._digest(model) == self._frozen

    # -- computation ----------------------------------------------------------------------------------------------

    def _of(self, split: Split) -> Activations:
        """Return the activations of one of the run's splits."""
        if id(split) not in self._activations:
            key = self._key(split)
            activations = self.store.get(key, self.budget, lambda: self._load(split, key))
            if split is self.data.train:  # compare the first images, because no key shows edited code
                features, _ = next(activations.batches([self._first * self.views]))
                if not close(features, self._sample):
                    log.warning("kept features are not what this network gives; making them again")
                    self.store.forget(key)
                    self._cache().remove(cache.name("features", key))
                    activations = self.store.get(key, self.budget, lambda: self._load(split, key))
            self._activations[id(split)] = activations
        return self._activations[id(split)]

    def _cache(self) -> cache.Cache:
        return cache.open_cache(self.run.config["data"]["cache_dir"])

    def _load(self, split: Split, key: str) -> Activations:
        """Load the activations of a split from the disk cache, or compute them."""
        began, layout = time.perf_counter(), self.cut.features
        pipeline = self.pipeline if split is self.data.train else []
        shape = len(split) * count_variants(pipeline), math.prod(layout.shape)
        name = cache.name("features", key)
        rows, is_new = load_rows(self._cache(), name, shape, layout.dtype, lambda: self._compute(split, pipeline))
        seconds, size = time.perf_counter() - began, "x".join(map(str, layout.shape))
        verb = "computed" if is_new else "read"
        log.info(
            "features before %s of %d images (%s each) %s in %.1f s", self.cut.entry, shape[0], size, verb, seconds
        )
        return Activations(rows, split, self.cut)

    @torch.no_grad()
    def _compute(self, split: Split, pipeline: Sequence) -> Iterator[Tensor]:
        """Yield rows `[B V, F]` on the CPU, chunk by chunk."""
        run, cut = self.run, self.cut
        for images, _ in split.batches(torch.arange(len(split), device=split.device).split(CHUNK)):
            views = [self.enter(run.normalize(view)) for view in variants(images, pipeline)]
            yield torch.stack([flatten(view, cut.strides) for view in views], 1).flatten(0, 1).cpu()

    def _cut_key(self) -> str:
        """Return the key of the verified cut, equal for runs with equal modules and equal frozen weights."""
        run, data = self.run, self.data
        about = {key: list(run.config[key].items()) for key in ("regularization", "augmentation", "transfer")}
        about["run"] = [str(run.device), str(run.precision), str(run.memory_format), run.config["compile"] is True]
        about["network"] = [type(run.model).__qualname__, repr(run.model), self._frozen]
        about["images"] = [data.identity, self.store.fingerprint(data.train), *self._normalization()]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def _normalization(self) -> list[Any]:
        changes = ["transform_input"] if transforms_input(self.run.model) else []
        return [self.data.size, self.data.mean.tolist(), self.data.std.tolist(), *changes]

    def _key(self, split: Split) -> str:
        """Return the key of all that the activations depend on, with a hash of the frozen weights."""
        run, data = self.run, self.data
        about = {
            "program": [FORMAT, CHUNK, torch.__version__, version("torchvision")],
            "device": [str(run.device), torch.get_num_threads() if run.device.type == "cpu" else 0],
            "numbers": [str(run.precision), str(run.memory_format)],
            "network": [type(run.model).__qualname__, repr(self.cut), self._frozen],
            "modules": [repr(call) for call in calls_before(run.model, self.cut)],
            "images": [data.identity, self.store.fingerprint(split), *self._normalization()],
            "variants": list(run.config["augmentation"].items()) if split is data.train else [],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _digest(self, model: nn.Module) -> str:
        """Return the sha256 of all weights and buffers outside the stages that train."""
        trained = trained_modules(model, self.run.transfer.depth(model))
        excluded = {id(x) for module in trained for x in (*module.parameters(), *module.buffers())}
        digest = hashlib.sha256()
        for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
            if id(value) not in excluded:
                digest.update(name.encode() + to_bytes(value))
        return digest.hexdigest()


class NoNormalize:
    """Stand-in for `Normalize` that returns its input unchanged."""

    def __init__(self, size: int):
        self.size = size  # of the images

    def __call__(self, features: Tensor) -> Tensor:
        return features
