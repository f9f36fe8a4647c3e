"""The feature cache: cached runs equal uncached ones, what is kept fits what it is used for, and what is declined."""

import copy
import gc

import pytest
import torch
from torch import nn

from runner.augmentation.flip import Flip
from runner.augmentation.vertical_flip import VerticalFlip
from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.data.splits import ResidentSplit
from runner.evaluation.base import Member
from runner.evaluation.evaluate import examine
from runner.evaluation.standard import Standard
from runner.execution.eager import EagerProgram
from runner.execution.features import activations as kept
from runner.execution.features import cache
from runner.execution.features.store import Store
from runner.execution.fused.errors import Incompatible
from runner.execution.fused.program import FusedProgram
from runner.task.resources import Resources
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.configs import composed
from tests.shared.features import CONVNET, DATA, HEAD, LOOP, SQUEEZENET, make
from tests.shared.results import result_of, results_of
from tests.shared.training import splits


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where files of this test are kept, and of no other."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "runner"


@pytest.fixture
def through(monkeypatch):
    """How many images went through frozen stages to be kept, since it was last asked."""
    count, enters = [0], cache.compute_features

    def counted(model, cut, images):
        count[0] += len(images)
        return enters(model, cut, images)

    def asked():
        found, count[0] = count[0], 0
        return found

    monkeypatch.setattr(cache, "compute_features", counted)
    return asked


def trained(*overrides, **options):
    run, said = make(*overrides, **options)
    assert said == ("off" if "transfer.cache=false" in overrides else "on")
    train([run], EagerProgram())
    return run


def rows(run):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in run.progress.history]


def assert_equal(cached, plain, bound=1e-6):
    """Weights, buffers and every epoch's row."""
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], value, rtol=bound, atol=bound, msg=name)
    for row, wanted in zip(rows(cached), rows(plain), strict=True):
        assert row == pytest.approx(wanted, rel=bound)


# -- equality -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        ((), CONVNET),
        (("transfer.freeze_depth=2",), CONVNET),
        (("transfer.freeze_depth=1", "augmentation=[flip]"), CONVNET),
        (("augmentation=[flip]", "augmentation.flip.p=0.3", "accumulate=3", "optimizer=adam"), CONVNET),
        (("augmentation=[flip,vertical_flip]", "channels_last=false"), CONVNET),
        (("regularization=[dropout,l2,label_smoothing]", "regularization.dropout.where=head"), CONVNET),
        (("regularization=[batchnorm]", "transfer.freeze_depth=2", "clip_grad_norm=0.5"), CONVNET),
        (("optimizer=lbfgs", "optimizer.lr=1"), ("model=mlp", "model.hidden=[12]")),
        (("ensemble=ema",), CONVNET),
    ],
    ids=lambda words: " ".join(words) or "head",
)
def test_cached_equals_uncached(overrides, model):
    """Weights and history are those of the run that computes all stages in each step."""
    plain = trained(*overrides, "transfer.cache=false", model=model)
    cached = trained(*overrides, model=model)
    assert_equal(cached, plain)
    fresh = make(*overrides, model=model)[0].model.state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in cached.model.state_dict().items())


def test_noise_of_a_library_equals():
    """Squeezenet's head drops pixels of its map: from torch's global generator, in the order of the map's memory."""
    data, words = splits(train=32, val=4, side=32), ("augmentation=[flip]",)
    plain = trained(*words, "transfer.cache=false", model=SQUEEZENET, data=data)
    cached = trained(*words, model=SQUEEZENET, data=data)
    assert len(cached.features.cut.features.shape) == 3
    assert cached.features.cut.strides[0] == 1  # channels lie last
    assert_equal(cached, plain)


def test_low_precision_equals():
    """What is kept has the type that the pass has there."""
    words = ("precision=bf16", "transfer.freeze_depth=1", "augmentation=[flip]")
    plain, cached = trained(*words, "transfer.cache=false"), trained(*words)
    assert cached.features.cut.features.dtype == torch.bfloat16
    assert_equal(cached, plain, 1e-2)


def test_frozen_norms_equal():
    """Batch norms of frozen stages keep their statistics, those of the others follow the data as ever."""
    words = ("transfer.freeze_depth=1", "regularization=[batchnorm]")
    plain, cached = trained(*words, "transfer.cache=false"), trained(*words)
    assert_equal(cached, plain)
    means = [norm.running_mean.abs().max() for norm in cached.model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert means[0] == 0 < means[1]


def test_resumed_run_equals():
    """A run that goes on in the middle of an epoch draws the flips that the other would have drawn."""
    whole = trained("augmentation=[flip]")
    first, _ = make("augmentation=[flip]")
    first.on_log = lambda step, scalars: None
    first.train_mode()
    states = []
    first.on_pause = lambda run: states.append(copy.deepcopy(run.state_dict()))
    first.every = 2
    train([first], EagerProgram())
    second, _ = make("augmentation=[flip]")
    second.load_state_dict(states[0])
    assert second.progress.step == 2
    train([second], EagerProgram())
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_tested_as_uncached():
    """The closer look at the end finds what it finds without the cache."""
    run = trained("augmentation=[flip]")
    network, rest = [run.model.eval()], (DATA.test, run.normalize, run.autocast, run.batch_size, 3, Standard())
    seen = run.as_members(network, DATA.test)
    assert isinstance(seen[0], Member)
    plain, cached = examine(network, *rest), examine(seen, *rest)
    assert cached.loss == pytest.approx(plain.loss, rel=1e-6)
    assert torch.equal(cached.confusion, plain.confusion)
    assert torch.equal(cached.mistakes, plain.mistakes)


def test_other_networks_see_images():
    """A network whose frozen stages are another's is not asked through this run's cache; nor is an unknown split."""
    run = trained()
    same, other = copy.deepcopy(run.model), copy.deepcopy(run.model)
    with torch.no_grad():
        other.conv1.bias[0] += 1
        same.head.bias[0] += 1
    seen = run.as_members([run.model, same, other], DATA.val)
    assert [isinstance(one, Member) for one in seen] == [True, True, False]
    assert seen[2] is other
    assert run.as_members([run.model], splits().test) == [run.model]


def test_forward_is_left_as_it_was():
    """After a cached pass the network answers to images as before, copies included."""
    run = trained()
    images = torch.rand(3, 1, 8, 8)
    wanted = run.model.eval()(images)
    run.forward(next(run.features.batches(run._order(), run.augmenting))[0])
    assert torch.equal(run.model(images), wanted)
    assert torch.equal(copy.deepcopy(run.model)(images), wanted)
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in run.model.modules())


@pytest.mark.parametrize("item", [Flip(0.4), VerticalFlip(0.6)], ids=["flip", "vertical_flip"])
def test_variants_are_the_items_own(item):
    """An item that says how few variants it makes draws and makes them as it does as a whole."""
    images = torch.randint(0, 256, (40, 3, 5, 5), dtype=torch.uint8)
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    picked = item.pick(len(images), draws[0])
    assert torch.equal(item.apply(images, picked), item(images, draws[1]))
    assert torch.equal(draws[0].get_state(), draws[1].get_state())
    assert set(picked.long().tolist()) == set(range(item.variants))


def test_numbers_of_variants():
    """The number that is drawn is the place of the variant that the pipeline makes."""
    pipeline = [Flip(), VerticalFlip()]
    images = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8)
    picked = kept.pick(30, pipeline, torch.Generator().manual_seed(0))
    views = torch.stack(list(kept.variants(images, pipeline)), 1)
    draws = torch.Generator().manual_seed(0)
    for item in pipeline:
        images = item(images, draws)
    assert torch.equal(views[torch.arange(30), picked], images)
    assert set(picked.tolist()) == {0, 1, 2, 3}


# -- what is kept ---------------------------------------------------------------------------------------------------


def test_computed_once(through):
    """Runs that share frozen stages share what these give; a later process reads it from the file."""
    store = Store()
    trained("augmentation=[flip]", store=store)
    assert through() == 50 * 2 + 20  # the training images twice, and validation
    trained("augmentation=[flip]", "optimizer=adam", "batch_size=20", "regularization=[label_smoothing]", store=store)
    assert through() == 0
    first = trained("augmentation=[flip]", store=Store())
    assert through() == 0
    assert_equal(first, trained("augmentation=[flip]", "transfer.cache=false"))


def brighter(data):
    """With one pixel of one training image changed."""
    images = data.train.images.clone()
    images[7, 0, 3, 3] ^= 1
    return copy.copy(data).__class__(**{**vars(data), "train": ResidentSplit(images, data.train.labels)})


def other(data, **changes):
    return type(data)(**(vars(data) | changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: brighter(data), ()),
        (lambda data: other(data, identity="1" * 64), ()),
        (lambda data: data.normalized_as((0.5,), (0.25,)), ()),
        (lambda data: other(data, train=data.train.select(torch.arange(49, -1, -1))), ()),
        (lambda data: data, ("augmentation=[vertical_flip]",)),
        (lambda data: data, ("seed=1",)),  # without weights from elsewhere: other frozen weights
        (lambda data: data, ("transfer.freeze_depth=1",)),
        (lambda data: data, ("precision=bf16",)),
    ],
    ids=["pixel", "identity", "normalisation", "order", "augmentation", "weights", "depth", "precision"],
)
def test_invalidated(change, words, through):
    """Whatever the kept numbers depend on makes them anew, and the run equals its uncached self."""
    store = Store()
    trained("augmentation=[flip]", store=store)
    through()
    data = change(DATA)
    words = ("augmentation=[flip]", *words)
    words = words[1:] if sum(word.startswith("augmentation") for word in words) > 1 else words
    cached = trained(*words, store=store, data=data)
    assert through() >= 100
    assert_equal(
        cached, trained(*words, "transfer.cache=false", data=data), 1e-2 if "precision=bf16" in words else 1e-6
    )


def test_a_changed_weight_file_invalidates(tmp_path, through):
    """Not the file's name counts, but what is in the frozen stages; what the head has is nothing to them."""
    path = tmp_path / "weights.pth"
    model = make()[0].model
    words = (f"transfer.weights={path}",)

    def saved():
        torch.save(model.state_dict(), path)
        trained(*words, store=store)
        return through() > 0

    store = Store()
    assert saved()
    model.head.bias.data += 1
    assert not saved()
    model.conv2.bias.data[0] += 1e-3
    assert saved()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_damaged_files_are_made_again(damage, folder, through, caplog):
    """A file that is not what was written is not trusted."""
    trained()
    through()
    for path in folder.glob("features-*.cache"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 64
        path.write_bytes({"flipped": content, "cut": content[:-8], "empty": b""}[damage])
    cached = trained()
    assert through() == 50 + 20
    assert caplog.text.count("is damaged") == 2
    assert_equal(cached, trained("transfer.cache=false"))


def test_kept_rows_of_another_network_are_made_again(through, monkeypatch, caplog):
    """Code that gives other numbers under the same names and weights shows on the first images."""
    relu = nn.ReLU.forward
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda self, x: relu(self, x) * 2)
        trained()
    through()
    cached = trained()
    assert "not what this network gives" in caplog.text
    assert through() == 50 + 20 - 20  # validation is not compared
    plain = trained("transfer.cache=false")
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(cached.model.state_dict()[name], value)


def test_without_a_folder(tmp_path, monkeypatch, caplog):
    """Where nothing can be written, memory serves."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_equal(trained(), trained("transfer.cache=false"))
    assert "cannot be written" in caplog.text


def test_full_disk(full_disk, caplog):
    """A file that cannot be written costs the file alone."""
    assert_equal(trained(), trained("transfer.cache=false"))
    assert caplog.text.count("No space left") == 1  # of two splits


def test_folder_has_a_limit(folder, monkeypatch):
    """Files that were unused for longest make room."""
    trained()
    gc.collect()  # the run, which uses them
    before = set(folder.glob("features-*"))
    monkeypatch.setenv("RUNNER_CACHE_GB", str((50 * 12 * 4 + 20 * 12 * 4 + 150) / 1e9))
    run = trained("seed=1")
    after = set(folder.glob("features-*"))
    assert len(before) == 2 and len(after) == 2
    assert not before & after
    trained("seed=2")  # finds no room: what a run uses stays
    assert set(folder.glob("features-*")) == after and run


def test_process_has_a_limit(through):
    """What a process holds stays within the budget; what is used last stays."""
    size = 50 * 12 * 4
    store, made = Store(), []

    class Rows:
        bytes = size

    for key in ("a", "b", "a", "c"):
        store.get(key, 2 * size, lambda key=key: made.append(key) or Rows())
    store.get("a", 2 * size, lambda: made.append("a again"))
    store.get("b", 2 * size, lambda: made.append("b again") or Rows())
    assert made == ["a", "b", "c", "b again"]


# -- what is declined -----------------------------------------------------------------------------------------------

NOT_SERVED = {
    "nothing is frozen": (("transfer.freeze_depth=0",), "set transfer.freeze_depth"),
    "transfer.unfreeze.every=1 thaws": (("transfer.unfreeze.every=1",), "use transfer.unfreeze.every=null"),
    "compile=true": (("compile=true",), "use compile=false"),
    "augmentation=[crop] makes ever new images": (("augmentation=[flip,crop]",), "augmentation=[flip]"),
    "regularization=[mixup] mixes": (("regularization=[mixup]",), "leave it out"),
    "DropoutLayer draws anew": (
        ("regularization=[dropout]", "regularization.dropout.where=conv"),
        "or freeze fewer stages",
    ),
    "BatchNorm2d of the frozen stages follows": (
        ("regularization=[batchnorm]", "transfer.frozen_norm=train"),
        "use transfer.frozen_norm=eval",
    ),
}


@pytest.mark.parametrize(("reason", "case"), NOT_SERVED.items(), ids=list(NOT_SERVED))
def test_declined(reason, case):
    """`auto` says why and trains as ever; `true` is refused before anything runs, with the way out."""
    words, way_out = case
    if "compile=true" not in words:  # it takes long
        run, said = make(*words, "transfer.cache=auto")
        assert run.features is None
        assert said.startswith("declined: ")
        assert reason in said
    config = check(composed(*CONVNET, "data.limit=100", HEAD, *LOOP, *words, "transfer.cache=true"))
    with pytest.raises(Refused) as caught:
        Resources().preflight(config)
    (line,) = [line for line in caught.value.lines if line.startswith("transfer.cache=true: ")]
    assert reason in line
    assert way_out in line
    assert line.endswith(", or transfer.cache=auto")


def test_too_many_variants():
    """The product of the items' variants counts."""
    items = {"augmentation." + name: Flip() for name in "abcd"}
    run, said = make("transfer.cache=auto", prepare=lambda parts: parts.pipeline.update(items))
    assert run.features is None
    assert "makes 16 variants of an image, and 8 is the most" in said


def test_too_large():
    """What is larger than the budget is not kept, whichever way it was asked for."""
    run, said = make("transfer.cache=auto", budget=1e-6)
    assert run.features is None
    assert said == "declined: what enters head takes 4.32e-06 GB, and the budget is 1e-06"
    with pytest.raises(ConfigError, match=r"transfer.cache=true: what enters head .*; freeze more stages, or set"):
        make(budget=1e-6)


class Net(nn.Module):
    """Three stages; subclasses do what a cut cannot bear."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Skips(Net):
    def forward(self, x):
        early = self.stem(x)
        return self.head(self.body(early).mean((2, 3)) + early.mean((2, 3)))


class SkipsPast(Net):
    """What a zero weight hides must be seen all the same."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Buffer(torch.zeros(()))

    def forward(self, x):
        return super().forward(x) + self.gate * self.stem(x).mean()


class MixesBatch(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class TrainsOtherwise(Net):
    def forward(self, x):
        return super().forward(x * 2 if self.training else x)


class Counts(Net):
    def __init__(self):
        super().__init__()
        self.seen = nn.Buffer(torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x)


class HeadFirst(Net):
    """The last stage is called first, too."""

    def forward(self, x):
        return super().forward(x + self.head(torch.ones(4)).mean())


class Shared(Net):
    """A stage that trains is used before."""

    def forward(self, x):
        return super().forward(x * self.head.weight.mean())


class Pair(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        x = self.body(self.stem(x)).mean((2, 3))
        return self.head(x, x)


class Reuses(Net):
    """One module without weights serves before the cut and after it."""

    def __init__(self):
        super().__init__()
        self.relu, self.last = nn.ReLU(), nn.Linear(3, 3)

    def forward(self, x):
        x = self.relu(self.body(self.relu(self.stem(x))).mean((2, 3)))
        return self.last(self.relu(self.head(x)))


class WorksInPlace(Net):
    """As DenseNet does between its features and its head."""

    def forward(self, x):
        return self.head(torch.relu_(self.body(self.stem(x))).mean((2, 3)))


class DropsBetween(Net):
    """As GoogLeNet does: the noise lies in no stage."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.dropout(self.body(self.stem(x)).mean((2, 3))))


def served(kind, depth):
    """What is said of a network of another class, and its run."""
    torch.manual_seed(5)
    network = kind()

    def prepare(parts):
        parts.model = network
        parts.transfer.prepare(network)
        trainable = [p for p in network.parameters() if p.requires_grad]
        parts.optimizer = torch.optim.SGD([{"params": trainable, "name": "all"}], lr=0.1)

    return make("transfer.cache=auto", f"transfer.freeze_depth={depth}", prepare=prepare)


@pytest.mark.parametrize(
    ("kind", "depth", "reason"),
    [
        (Skips, 1, "later stages of Skips read more than what enters body"),
        (Skips, 2, None),
        (SkipsPast, 2, "later stages of SkipsPast read more than what enters head"),
        (MixesBatch, 1, "the frozen stages of MixesBatch mix the images of a batch"),
        (TrainsOtherwise, 1, "the frozen stages of TrainsOtherwise answer otherwise while training"),
        (Counts, 1, "the frozen stages of Counts answer otherwise while training"),
        (HeadFirst, 2, "HeadFirst's stages cannot be run apart"),
        (Shared, 2, "Shared trains something before the stages that are to train"),
        (Pair, 2, "does not read one tensor with a row for each image"),
        (Reuses, 2, None),
        (WorksInPlace, 2, None),
        (DropsBetween, 2, None),
        (DropsBetween, 1, None),
    ],
)
def test_networks_that_cannot_be_cut(kind, depth, reason):
    """A network whose stages are no chain is declined; one whose are is served, and left as it was."""
    run, said = served(kind, depth)
    if reason is None:
        assert said == "on"
        images = run.normalize(DATA.train.images[:5])
        kept_features, _ = next(run.features._of(DATA.train).batches([torch.arange(5)]))
        run.model.train()
        torch.manual_seed(1)
        wanted = run.model(images)
        torch.manual_seed(1)
        torch.testing.assert_close(run.forward(kept_features), wanted)
        return
    assert run.features is None
    assert reason in said
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in run.model.modules())
    assert all(float(buffer) == 0 for buffer in run.model.buffers())


# -- as it is typed -------------------------------------------------------------------------------------------------

TYPED = ("data.limit=100", "model=mlp", "transfer.freeze_depth=all", "epochs=1", "threads=1")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sweep_from_the_shell(cli, tmp_path, through, workers):
    """Two heads compute once, the answer stands in the result, and a run without the cache has the same numbers."""
    code, _, err = cli("-m", *TYPED, "optimizer.lr=0.1,0.01", "name=s", f"hydra.launcher.workers={workers}")
    assert code == 0, err
    found = results_of(tmp_path / "outputs" / "s")
    assert [result["transfer"]["cache"] for result in found.values()] == ["on", "on"]
    sizes = next(iter(found.values()))["data"]
    if workers:
        logs = "".join(path.read_text() for path in (tmp_path / "outputs" / "s").glob("*/run.log"))
        assert (logs.count(" computed in "), logs.count(" read in ")) == (3, 3)  # each split, by one of the two
    else:
        assert through() == sum(sizes[name] for name in ("train", "val", "test"))
    assert cli(*TYPED, "optimizer.lr=0.1", "transfer.cache=false", "name=t")[0] == 0
    plain = result_of(tmp_path / "outputs" / "t")
    cached = next(result for result in found.values() if result["fingerprint"] == plain["fingerprint"])
    for key in ("val_loss", "test_loss", "test_accuracy"):
        assert cached[key] == pytest.approx(plain[key], rel=1e-6)


def test_declined_from_the_shell(cli, tmp_path):
    """The reason stands in the result and in the log; a refusal is one line."""
    assert cli(*TYPED, "augmentation=[crop]", "name=s")[0] == 0
    result = result_of(tmp_path / "outputs" / "s")
    assert result["transfer"]["cache"] == "declined: augmentation=[crop] makes ever new images"
    (text,) = (path.read_text() for path in (tmp_path / "outputs" / "s").glob("*/*.log"))
    assert "no feature cache: augmentation=[crop] makes ever new images" in text
    code, _, err = cli(*TYPED, "augmentation=[crop]", "transfer.cache=true", "name=u")
    assert code == 2
    assert "transfer.cache=true: augmentation=[crop] makes ever new images; " in err


def test_evaluated_with_views(cli, tmp_path):
    """An evaluation that looks at an image more than once looks at images."""
    for number, word in enumerate(("true", "false")):
        assert cli(*TYPED, "evaluation=views", f"transfer.cache={word}", f"name=s{number}")[0] == 0
    cached, plain = (result_of(tmp_path / "outputs" / f"s{number}") for number in range(2))
    assert cached["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-6)


def test_independent_members(cli, tmp_path):
    """Members with frozen stages of their own have activations of their own."""
    for number, word in enumerate(("true", "false")):
        words = (*TYPED, "ensemble=independent", "ensemble.members=2", f"transfer.cache={word}", f"name=s{number}")
        assert cli(*words)[0] == 0
    cached, plain = (result_of(tmp_path / "outputs" / f"s{number}") for number in range(2))
    assert cached["ensemble"]["members"] == pytest.approx(plain["ensemble"]["members"])
    assert cached["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (("augmentation=[flip]", "regularization=[dropout]", "regularization.dropout.where=head"), CONVNET),
        (("regularization=[batchnorm]", "transfer.freeze_depth=2"), CONVNET),
        (("data.size=32",), SQUEEZENET),  # whose frozen part cannot lie side by side
    ],
    ids=["head", "stages", "squeezenet"],
)
def test_runs_on_kept_features_share_a_program(overrides, model, monkeypatch):
    """From the cut on they train as one, to the numbers of each alone; their frozen parts are not asked again."""
    data = splits(train=50, val=20, channels=3, side=32) if model is SQUEEZENET else DATA
    store = Store()
    words = [(), ("optimizer=adam", "optimizer.lr=0.01"), ("lr_scale=0.5",)]

    def one(*own):
        run, said = make(*overrides, *own, data=data, model=model, store=store)
        assert said == "on"
        return run

    alone, together = ([one(*own) for own in words] for _ in range(2))
    for run in alone:
        train([run], EagerProgram())
    program = FusedProgram(together)
    monkeypatch.setattr(TrainState, "measure", None)  # they are validated as one, too
    train(together, program)
    for plain, fused in zip(alone, together):
        assert_equal(fused, plain, 1e-4)


def test_runs_whose_frozen_weights_differ_share_none():
    """Features of other frozen weights are no program's."""
    runs = [make("transfer.freeze_depth=1", f"seed={seed}")[0] for seed in range(2)]
    with pytest.raises(Incompatible, match="differ"):
        FusedProgram(runs)
