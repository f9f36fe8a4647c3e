"""What enters the first stage that trains, computed once for all runs whose frozen stages are the same.

Frozen stages give the same answer to the same image in every epoch. Where images do not change, or only among a few
variants (a flip makes two), the answers are kept: in a file that is mapped into memory, for this sweep and later ones.
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
from runner.execution.features.activations import Activations, content_of, count_variants, flat, pick, rows, variants
from runner.execution.features.cut import Rest, calls_before, enters
from runner.execution.features.eligible import (
    Declined,
    close,
    consider,
    insisted,
    modes_kept,
    plan,
    trained_modules,
    tried,
)
from runner.execution.features.store import Store
from runner.store import cache
from runner.transfer.published import transforms_input

if TYPE_CHECKING:
    from runner.train.state import TrainState

log = logging.getLogger(__name__)

FORMAT = 1  # of files and keys
CHUNK = 64  # images at a time, whatever a run's batch is: so that all runs see the same rounding
PROBE = 4  # images on which the cut is tried


def serve(run: "TrainState", splits: Splits, store: Store) -> str:
    """Lets a run train on activations where that is possible; what the result says of it.

    Raises `ConfigError` where `transfer.cache=true` cannot be had.
    """
    asked = run.transfer.cache
    if asked is False:
        return "off"
    try:
        run.use(FeatureCache(run, splits, store))
    except Declined as no:
        if asked is True:
            raise ConfigError(insisted(no)) from no
        if run.transfer.depth(run.model):
            log.info("no feature cache: %s", no)
        return f"declined: {no}"
    return "on"


class FeatureCache:
    """A run's activations: what it needs to train and to be tested from the cut on.

    Raises `Declined` where that cannot be.
    """

    def __init__(self, run: "TrainState", splits: Splits, store: Store):
        self.run, self.data, self.store = run, splits, store
        parts, transfer = run.parts, run.transfer
        self.pipeline = list(parts.pipeline.values())
        consider(run.config, run.model, transfer, parts.pipeline, parts.stack)
        self._first = torch.arange(PROBE, device=run.train_split.device) % len(run.train_split)
        images = run.normalize(next(run.train_split.batches([self._first]))[0])
        self._frozen = self._digest(run.model)
        key = self._alike()
        if key not in store.cuts:
            with run.autocast():
                cut = plan(run.model, transfer, images)
            store.cuts[key] = cut, tried(run.model, transfer, cut, images, run.autocast)
        self.cut, self._sample = store.cuts[key]
        self.views = count_variants(self.pipeline)
        self._splits = [split for split in (splits.train, splits.val, splits.test) if split is not None]
        count = sum(map(len, self._splits)) + len(splits.train) * (self.views - 1)
        needed = count * math.prod(self.cut.features.shape) * self.cut.features.dtype.itemsize
        asked = run.config["data"]["budget_gb"]
        self.budget = available_memory() / 2 if asked is None else asked * 1e9
        if needed > self.budget:
            raise Declined(
                f"what enters {self.cut.entry} takes {needed / 1e9:.3g} GB, and the budget is {self.budget / 1e9:.3g}",
                "freeze more stages, or set data.budget_gb",
            )
        self._own: dict[int, Activations] = {}

    def rest(self, model: nn.Module) -> Rest:
        """A network from the cut on."""
        return Rest(model, self.cut, self.run.device)

    @torch.no_grad()
    def enter(self, images: Tensor) -> Tensor:
        """What crosses the cut, for normalised images."""
        with modes_kept(self.run.model), self.run.autocast():
            return enters(self.run.model.eval(), self.cut, images)

    def batches(self, order: Iterable[Tensor], draws: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """The training split's batches; variants are drawn as the pipeline draws them."""
        numbers = (row * self.views + pick(len(row), self.pipeline, draws).to(row.device) for row in order)
        return self._of(self.run.train_split).batches(numbers)

    @property
    def origin(self) -> str:
        """Of features that are the same: where the network is cut, and a hash of its frozen weights."""
        return f"{self.cut} {self._frozen}"

    def split(self, split: Split) -> tuple[Activations, "Ready"]:
        """What stands for one of the run's splits, and for its normalisation."""
        return self._of(split), Ready(self.data.size)

    def members(self, members: Sequence[nn.Module], split: Split) -> list[nn.Module | Member]:
        """Networks as `evaluate` asks them for one pass: from the cut on. As they are, where their frozen part is
        another's."""
        if all(split is not own for own in self._splits):
            return list(members)
        kept, ready = self.split(split)
        return [Member(self.rest(one), ready, kept, Standard()) if self._serves(one) else one for one in members]

    def _serves(self, model: nn.Module) -> bool:
        if model is self.run.model:
            return True
        return type(model) is type(self.run.model) and self._digest(model) == self._frozen

    # -- how they are made --------------------------------------------------------------------------------------

    def _of(self, split: Split) -> Activations:
        """The activations of one of the run's splits. The first images' rows are compared with what the network gives
        now: what no key can tell apart (edited code) shows there."""
        if id(split) not in self._own:
            key = self._key(split)
            found = self.store.get(key, self.budget, lambda: self._made(split, key))
            if split is self.data.train:
                features, _ = next(found.batches([self._first * self.views]))
                if not close(features, self._sample):
                    log.warning("kept features are not what this network gives; making them again")
                    self.store.forget(key)
                    self._cache().remove(cache.name("features", key))
                    found = self.store.get(key, self.budget, lambda: self._made(split, key))
            self._own[id(split)] = found
        return self._own[id(split)]

    def _cache(self) -> cache.Cache:
        return cache.open_cache(self.run.config["data"]["cache_dir"])

    def _made(self, split: Split, key: str) -> Activations:
        began, layout = time.perf_counter(), self.cut.features
        pipeline = self.pipeline if split is self.data.train else []
        shape = len(split) * count_variants(pipeline), math.prod(layout.shape)
        name = cache.name("features", key)
        found, is_new = rows(self._cache(), name, shape, layout.dtype, lambda: self._computed(split, pipeline))
        seconds, words = time.perf_counter() - began, "x".join(map(str, layout.shape))
        how = "computed" if is_new else "read"
        log.info(
            "features before %s of %d images (%s each) %s in %.1f s", self.cut.entry, shape[0], words, how, seconds
        )
        return Activations(found, split, self.cut)

    @torch.no_grad()
    def _computed(self, split: Split, pipeline: Sequence) -> Iterator[Tensor]:
        """Rows `[B V, F]` on the CPU, chunk by chunk."""
        run, cut = self.run, self.cut
        for images, _ in split.batches(torch.arange(len(split), device=split.device).split(CHUNK)):
            views = [self.enter(run.normalize(view)) for view in variants(images, pipeline)]
            yield torch.stack([flat(view, cut.strides) for view in views], 1).flatten(0, 1).cpu()

    def _alike(self) -> str:
        """Of runs that need not try each for itself: networks of equal modules, equal where frozen."""
        run, data = self.run, self.data
        about = {key: list(run.config[key].items()) for key in ("regularization", "augmentation", "transfer")}
        about["run"] = [str(run.device), str(run.precision), str(run.memory_format), run.config["compile"] is True]
        about["network"] = [type(run.model).__qualname__, repr(run.model), self._frozen]
        about["images"] = [data.identity, self.store.fingerprint(data.train), *self._normalized()]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def _normalized(self) -> list[Any]:
        changes = ["transform_input"] if transforms_input(self.run.model) else []
        return [self.data.size, self.data.mean.tolist(), self.data.std.tolist(), *changes]

    def _key(self, split: Split) -> str:
        """Of all that the activations depend on; of the weights the frozen ones alone, by their contents."""
        run, data = self.run, self.data
        about = {
            "program": [FORMAT, CHUNK, torch.__version__, version("torchvision")],
            "device": [str(run.device), torch.get_num_threads() if run.device.type == "cpu" else 0],
            "numbers": [str(run.precision), str(run.memory_format)],
            "network": [type(run.model).__qualname__, repr(self.cut), self._frozen],
            "modules": [repr(call) for call in calls_before(run.model, self.cut)],
            "images": [data.identity, self.store.fingerprint(split), *self._normalized()],
            "variants": list(run.config["augmentation"].items()) if split is data.train else [],
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    def _digest(self, model: nn.Module) -> str:
        """Sha256 of the weights and buffers of all but the stages that train."""
        trained = trained_modules(model, self.run.transfer.depth(model))
        theirs = {id(x) for module in trained for x in (*module.parameters(), *module.buffers())}
        digest = hashlib.sha256()
        for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
            if id(value) not in theirs:
                digest.update(name.encode() + content_of(value))
        return digest.hexdigest()


class Ready:
    """In place of `Normalize`, for what needs none."""

    def __init__(self, size: int):
        self.size = size  # of the images

    def __call__(self, features: Tensor) -> Tensor:
        return features
