"""Ensembles: means of weights against NumPy loops, means of answers by hand, refusals in one line."""

import contextlib
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from runner.build.complaints import Refused
from runner.core.errors import ConfigError
from runner.core.seeds import generator
from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit
from runner.ensemble.batch_norm import estimate
from runner.evaluation.base import Member
from runner.evaluation.evaluate import evaluate, examine
from runner.evaluation.metrics import ensembles
from runner.evaluation.standard import Standard
from runner.execution.eager import EagerProgram
from runner.schedule.base import Schedule, Timeline
from runner.schedule.cyclic import Cyclic
from runner.schedule.warm_restarts import WarmRestarts
from runner.store import checkpoint
from runner.task import train as module
from runner.task.ensemble_facts import compare_members, draw
from runner.task.resources import Resources
from runner.train.loop import train
from tests.shared.results import result_of, results_of
from tests.shared.training import CPU, checked, make, numbers, splits, weights

NORMS = ("regularization=[batchnorm]",)
LOGGED = ("log.every=1", "epochs=4")
AVERAGES = {
    "ema": ("ensemble=ema", "ensemble.decay=0.6"),
    "polyak": ("ensemble=polyak", "ensemble.start=0.4"),
    "swa": ("ensemble=swa", "ensemble.start=0.3"),
}


def recorded(*overrides, **options):
    """A trained run, and its weights before the first step and after each: [steps + 1, weights]."""
    run = make(*LOGGED, *overrides, **options)
    seen = [state(run.model)]
    run.on_log = lambda step, scalars: seen.append(state(run.model)) if "train/loss" in scalars else None
    train([run], EagerProgram())
    assert len(seen) == run.steps + 1
    return run, np.stack(seen)


def state(model):
    """Parameters in one vector, float64."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double().numpy()


def statistics(model):
    """Running means and variances in one vector."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return torch.cat([torch.cat([norm.running_mean, norm.running_var]) for norm in norms]).double().numpy()


# -- means of weights -----------------------------------------------------------------------------------------------


def ema_by_hand(rows, decay):
    mean = rows[0]
    for t, row in enumerate(rows[1:]):
        share = min(decay, (1 + t) / (10 + t))
        mean = share * mean + (1 - share) * row
    return mean


@pytest.mark.parametrize("decay", [0.3, 0.6, 0.999])
def test_ema(decay):
    """The moving average is that of a NumPy loop over the weights, its decay warmed up."""
    run, rows = recorded("ensemble=ema", f"ensemble.decay={decay}")
    np.testing.assert_allclose(state(run.ensemble.network), ema_by_hand(rows, decay), rtol=1e-5, atol=1e-7)
    assert not np.allclose(state(run.ensemble.network), rows[-1], atol=1e-4)


def test_ema_averages_the_statistics_of_norms():
    """Running means and variances are averaged as the weights are; counters are the run's."""
    run = make(*LOGGED, *NORMS, "ensemble=ema", "ensemble.decay=0.6")
    seen = [statistics(run.model)]
    run.on_log = lambda step, scalars: seen.append(statistics(run.model)) if "train/loss" in scalars else None
    train([run], EagerProgram())
    np.testing.assert_allclose(statistics(run.ensemble.network), ema_by_hand(seen, 0.6), rtol=1e-5)
    counters = [value for name, value in run.ensemble.network.state_dict().items() if "num_batches" in name]
    assert counters and all(counter == run.steps for counter in counters)


def test_polyak():
    """The mean of the weights after every step of the last six tenths."""
    run, rows = recorded(*AVERAGES["polyak"])
    first = int(0.4 * run.steps)
    assert first == 4 and run.steps == 12
    np.testing.assert_allclose(state(run.ensemble.network), rows[1 + first :].mean(0), rtol=1e-5, atol=1e-7)


def test_polyak_from_the_first_step():
    """`start=0` is the plain mean of all steps."""
    run, rows = recorded("ensemble=polyak", "ensemble.start=0")
    np.testing.assert_allclose(state(run.ensemble.network), rows[1:].mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("start", "epochs"), [(0.3, [3, 4]), (0.5, [3, 4]), (0.0, [1, 2, 3, 4]), (0.25, [2, 3, 4])])
def test_swa(start, epochs):
    """The mean of the weights at the ends of the epochs that begin after `start`."""
    run, rows = recorded("ensemble=swa", f"ensemble.start={start}")
    ends = [epoch * run.steps_per_epoch for epoch in epochs]
    np.testing.assert_allclose(state(run.ensemble.network), rows[ends].mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_run_itself_is_untouched(name):
    """The weights that are averaged are those of the run without an average, bit for bit."""
    plain = make(*LOGGED, *NORMS, "regularization=[batchnorm,dropout]", "augmentation=[crop]")
    averaged = make(*LOGGED, *AVERAGES[name], "regularization=[batchnorm,dropout]", "augmentation=[crop]")
    train([plain], EagerProgram())
    train([averaged], EagerProgram())
    assert torch.equal(weights(plain), weights(averaged))


@pytest.mark.parametrize("name", ["swa", "polyak"])
def test_statistics_are_estimated_on_training_images(name):
    """After an epoch the averaged network's norms are what torch's `update_bn` makes of the training images."""
    run = make(*LOGGED, *NORMS, *AVERAGES[name], "augmentation=[crop]")
    train([run], EagerProgram())
    network = copy.deepcopy(run.ensemble.network)
    order = torch.randperm(50, generator=generator(0, "batch norm statistics"))[:48]
    images = [run.normalize(run.train_split.images[rows]) for rows in order.split(16)]
    torch.optim.swa_utils.update_bn(images, network)
    np.testing.assert_allclose(statistics(run.ensemble.network), statistics(network), rtol=1e-6)
    assert not np.allclose(statistics(network), statistics(run.model), rtol=1e-2)
    assert not run.ensemble.network.training and run.model.training


def test_estimate_of_known_images():
    """The statistics become the plain means over batches, however far they were; the momentum stays."""
    model = nn.Sequential(nn.BatchNorm1d(2, momentum=0.3)).train()
    model[0].running_mean.fill_(100)
    batches = torch.randn(5, 8, 2, generator=torch.Generator().manual_seed(0)).numpy() * 3 + 1
    estimate(model, map(torch.from_numpy, batches))
    np.testing.assert_allclose(model[0].running_mean, batches.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(model[0].running_var, batches.var(1, ddof=1).mean(0), rtol=1e-5)
    assert model[0].momentum == 0.3


def test_frozen_norms_are_not_estimated():
    """Statistics of a frozen stage stay what they were."""
    model = ("model=convnet", "model.channels=[4,4]", "model.hidden=8")
    run = make(*LOGGED, *NORMS, *AVERAGES["swa"], *model, "transfer.freeze_depth=1")
    first = next(m for m in run.ensemble.network.modules() if isinstance(m, nn.BatchNorm2d))
    before = first.running_mean.clone(), first.running_var.clone()
    train([run], EagerProgram())
    assert torch.equal(first.running_mean, before[0]) and torch.equal(first.running_var, before[1])
    assert not np.allclose(statistics(run.ensemble.network)[8:], 0)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_average_is_what_is_validated(name):
    """The row of the last epoch is the averaged network's, and the best weights are its."""
    run = make(*LOGGED, *NORMS, *AVERAGES[name])
    train([run], EagerProgram())
    measured = evaluate([run.ensemble.network], run.val_split, run.normalize, contextlib.nullcontext, 16, 3)
    assert run.progress.history[-1]["val_loss"] == measured.loss
    raw = evaluate([run.model.eval()], run.val_split, run.normalize, contextlib.nullcontext, 16, 3)
    assert raw.loss != measured.loss
    assert run.ensemble.members([run]) == [run.ensemble.network] and run.ensemble.compared([run]) == [run.model]


def test_before_the_average_the_run_is_validated():
    """Until there is an average the run's own weights are; their best is then forgotten."""
    plain, run = make(*LOGGED), make(*LOGGED, "ensemble=swa", "ensemble.start=0.5")
    train([plain], EagerProgram())

    def unbeatable(row):
        if row["epoch"] == 2:
            run.progress.best = row | {"val_accuracy": 2.0}

    run.on_epoch = unbeatable
    train([run], EagerProgram())
    assert numbers(run.progress.history)[:2] == numbers(plain.progress.history)[:2]
    assert run.progress.best["epoch"] >= 3


def test_stopping_waits_for_the_average():
    """Epochs without improvement before the average begins end no run."""
    stop = ("early_stopping.patience=1", "early_stopping.min_delta=10", "epochs=8")
    plain, run = make(*stop), make(*stop, "ensemble=swa", "ensemble.start=0.5")
    train([plain], EagerProgram())
    train([run], EagerProgram())
    assert len(plain.progress.history) == 2 and len(run.progress.history) == 6


@pytest.mark.parametrize("name", [*AVERAGES, "snapshot"])
@pytest.mark.parametrize("pause", [4, 7, 9])
def test_goes_on_bit_for_bit(name, pause):
    """A run that is cut off within, before or after the average goes on as if nothing had happened."""
    chosen = AVERAGES.get(
        name, ("ensemble=snapshot", "ensemble.members=2", "schedule=warm_restarts", "schedule.every=25%")
    )
    words = (*LOGGED, *chosen, "regularization=[batchnorm,dropout]", "augmentation=[crop]")
    whole = make(*words)
    train([whole], EagerProgram())

    class Cut(Exception):
        pass

    kept = []

    def stop(run):
        if run.progress.step == pause:
            kept.append(copy.deepcopy(run.state_dict()))
            raise Cut

    first, second = make(*words), make(*words)
    first.on_pause = stop
    with pytest.raises(Cut):
        train([first], EagerProgram())
    second.load_state_dict(kept[0])
    train([second], EagerProgram())
    assert numbers(whole.progress.history) == numbers(second.progress.history)
    for mine, theirs in zip(whole.ensemble.members([whole]), second.ensemble.members([second]), strict=True):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name


def test_an_average_of_too_few_epochs():
    """One epoch is no average."""
    with pytest.raises(Refused, match=r"ensemble\.start=0\.75: leaves fewer than 2 of epochs=4 to average; start ear"):
        preflight("ensemble=swa", "epochs=4")
    preflight("ensemble=swa", "epochs=8")


def preflight(*overrides):
    config = copy.deepcopy(checked(("model=mlp", "model.hidden=[12]", *overrides)))
    return Resources().preflight(config)


# -- snapshots ------------------------------------------------------------------------------------------------------


def falls(schedule):
    """Steps after which the rate jumps up or begins to rise, and the last: cycle ends, seen from outside."""
    rates = [schedule(step) for step in range(schedule.timeline.steps)]
    return [
        step
        for step in range(1, len(rates))
        if rates[step] > rates[step - 1] and (step < 2 or rates[step - 1] <= rates[step - 2])
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": "25%"}, [25, 50, 75, 100]),
        ({"every": "30%"}, [30, 60, 100]),
        ({"every": "10%", "mult": 2.0}, [10, 30, 100]),
        ({"every": "20%", "warmup": "20%"}, [40, 60, 80, 100]),
        ({"every": "20%", "warmup": "5%"}, [25, 45, 65, 85, 100]),
        ({"every": "100%"}, [100]),
    ],
)
def test_ends_of_warm_restarts(options, expected):
    """Cosines end where the rate jumps back, and with the run."""
    schedule = WarmRestarts(Timeline(100, 10), **options)
    assert schedule.cycles() == expected
    jumps = [step for step in falls(schedule) if step > schedule.warmup_steps]
    assert [end for end in expected if end < 100] == jumps[: len([end for end in expected if end < 100])]


def test_ends_of_triangles():
    """A triangle ends where the rate has fallen."""
    assert Cyclic(Timeline(100, 10), up="10%").cycles() == [20, 40, 60, 80, 100]
    assert Cyclic(Timeline(100, 10), up="10%", down="20%", warmup="5%").cycles() == [35, 65, 100]


def test_the_last_cycle_ends_with_the_run():
    """Shares of a run are shares of it, however they are rounded; a rest of half a cycle is one, a smaller one none."""
    assert WarmRestarts(Timeline(98, 10), every="20%").cycles() == [20, 39, 59, 78, 98]
    assert WarmRestarts(Timeline(96, 10), every=2).cycles() == [20, 40, 60, 80, 96]
    assert WarmRestarts(Timeline(90, 10), every=2).cycles() == [20, 40, 60, 80, 90]
    assert WarmRestarts(Timeline(89, 10), every=2).cycles() == [20, 40, 60, 89]


def test_most_schedules_have_no_cycles():
    """The base has none."""
    assert Schedule(Timeline(100, 10)).cycles() == []


def test_snapshots():
    """The members are the weights at the ends of the last cycles, the oldest first."""
    schedule = ("schedule=warm_restarts", "schedule.every=25%")
    run, rows = recorded("ensemble=snapshot", "ensemble.members=3", *schedule)
    members = run.ensemble.members([run])
    np.testing.assert_array_equal([state(member) for member in members], rows[[6, 9, 12]])
    assert run.ensemble.compared([run]) == []
    inside = np.linalg.norm(rows[6] - rows[9])
    assert inside > 0


def test_snapshots_after_a_warm_up(cli):
    """Warm-up leaves room for the five cycles that snapshots need at their defaults."""
    words = ("ensemble=snapshot", "schedule=warm_restarts", "schedule.warmup=5%", "model=mlp", "epochs=3")
    code, _, err = cli(*words, "log.tensorboard=false", "name=snapshots")
    assert (code, err) == (0, "")
    (folder,) = (path for path in Path("outputs/snapshots").iterdir() if path.is_dir())
    members = checkpoint.load(folder / checkpoint.FILE)["members"]
    assert len(members) == 5
    assert len({tuple(member["head.weight"].flatten().tolist()) for member in members}) == 5


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "ensemble=snapshot: this schedule has no cycles that end within the run; use schedule=warm_restarts"),
        (("schedule=cosine",), "ensemble=snapshot: this schedule has no cycles"),
        (("schedule=warm_restarts", "ensemble.members=6"), "ensemble.members=6: the schedule ends 5 cycles within"),
        (("schedule=warm_restarts", "early_stopping.patience=3"), "early_stopping.patience=3: the first cycle could"),
    ],
)
def test_snapshots_need_cycles(overrides, line):
    """A schedule without cycles, or with too few, is refused before training."""
    with pytest.raises(Refused) as caught:
        preflight("ensemble=snapshot", *overrides)
    assert caught.value.lines[0].startswith(line) and len(caught.value.lines) == 1


@pytest.mark.parametrize("name", ["independent", "snapshot"])
def test_one_is_no_ensemble(name):
    """It has at least two members."""
    with pytest.raises(ConfigError, match="ensemble.members=1: an ensemble has at least 2; or ensemble=none"):
        preflight(f"ensemble={name}", "ensemble.members=1", "schedule=warm_restarts")


# -- means of answers -----------------------------------------------------------------------------------------------


def linear(seed, classes=3, pixels=64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()
    return model.requires_grad_(False)


def by_hand(members, images, average):
    """Probabilities [M, N, K] of the first 1, 2, ... members, in NumPy and float64."""
    logits = np.stack([m[1].bias.numpy() + images @ m[1].weight.double().numpy().T for m in members])
    soft = lambda x: np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)  # noqa: E731
    counts = np.arange(1, len(members) + 1)[:, None, None]
    if average == "logits":
        return soft(np.cumsum(logits, 0) / counts), soft(logits)
    return np.cumsum(soft(logits), 0) / counts, soft(logits)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("count", [2, 4])
def test_answers_of_members(average, count):
    """Loss, accuracies, gain, disagreement and the curve are those of NumPy's means."""
    data, members = splits(), [linear(seed) for seed in range(count)]
    normalize = Normalize(data, CPU, torch.contiguous_format)
    images = normalize(data.train.images).flatten(1).double().numpy()
    labels = data.train.labels.numpy()
    grown, alone = by_hand(members, images, average)
    found = examine(members, data.train, normalize, contextlib.nullcontext, 16, 3, Standard(), average)
    assert found.loss == pytest.approx(-np.log(grown[-1][np.arange(50), labels]).mean(), rel=1e-5)
    assert found.accuracy == (grown[-1].argmax(1) == labels).mean()
    facts, said = found.ensemble, alone.argmax(-1)
    assert facts["members"] == (said == labels).mean(1).tolist()
    assert facts["curve"] == (grown.argmax(-1) == labels).mean(1).tolist()
    assert facts["mean"] == pytest.approx((said == labels).mean())
    assert facts["gain"] == pytest.approx(found.accuracy - (said == labels).mean())
    pairs = [(said[i] != said[j]).mean() for i in range(count) for j in range(i)]
    assert facts["disagreement"] == pytest.approx(np.mean(pairs))
    plain = evaluate(members, data.train, normalize, contextlib.nullcontext, 16, 3, average=average)
    assert (plain.loss, plain.accuracy) == (found.loss, found.accuracy)


def test_the_two_averages_differ():
    """The mean of logits is no mean of probabilities; of one member both are itself."""
    logs = torch.tensor([[[0.98, 0.01, 0.01]], [[0.2, 0.5, 0.3]]]).log()
    np.testing.assert_allclose(ensembles(logs, "probabilities")[-1].exp(), [[0.59, 0.255, 0.155]], rtol=1e-5)
    geometric = np.sqrt(np.array([0.98 * 0.2, 0.01 * 0.5, 0.01 * 0.3]))
    np.testing.assert_allclose(ensembles(logs, "logits")[-1].exp()[0], geometric / geometric.sum(), rtol=1e-5)
    assert torch.equal(ensembles(logs[:1], "logits"), logs[:1])


def test_one_network_is_no_ensemble():
    """Its result says nothing of members."""
    data = splits()
    normalize = Normalize(data, CPU, torch.contiguous_format)
    found = examine([linear(0)], data.train, normalize, contextlib.nullcontext, 16, 3, Standard())
    assert found.ensemble is None


def test_members_of_other_sizes_and_normalisations():
    """Each member sees the images in its own size, through its own normalisation, and with its own evaluation."""
    data = splits()
    small = ResidentSplit(data.train.images[..., 2:6, 2:6].contiguous(), data.train.labels)
    other = splits()
    object.__setattr__(other, "mean", torch.tensor([0.1]))
    object.__setattr__(other, "size", 4)
    normals = [Normalize(one, CPU, torch.contiguous_format) for one in (data, other)]
    models = [linear(0), linear(1, pixels=16)]
    asked = []

    class Counting(Standard):
        def log_probabilities(self, model, images, normalize):
            asked.append((id(model), tuple(images.shape[1:])))
            return super().log_probabilities(model, images, normalize)

    members = [
        Member(models[0], normals[0], data.train, Counting()),
        Member(models[1], normals[1], small, Standard()),
    ]
    found = examine(members, data.train, normals[0], contextlib.nullcontext, 64, 3, Standard())
    chances = [
        model(normal(split.images)).softmax(-1).double()
        for model, normal, split in zip(models, normals, (data.train, small))
    ]
    mean = (chances[0] + chances[1]) / 2
    expected = -mean[torch.arange(50), data.train.labels].log().mean()
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert asked == [(id(models[0]), (1, 8, 8))]


def test_a_mean_of_weights_beside_what_went_in():
    """The gain is over the mean of the networks that were averaged."""
    facts = compare_members(0.9, [0.8, 0.84])
    assert facts["members"] == [0.8, 0.84] and facts["mean"] == pytest.approx(0.82)
    assert facts["gain"] == pytest.approx(0.08) and facts["curve"] is None


def test_picture():
    """The curve is drawn: ink on white, of a readable size."""
    image = draw(
        {"members": [0.8, 0.81], "mean": 0.805, "gain": 0.02, "disagreement": 0.1, "curve": [0.8, 0.825]}, "test"
    )
    assert image.dtype == np.uint8 and image.shape[0] > 300 and 0.5 < (image == 255).mean() < 0.99


# -- as a user types it ---------------------------------------------------------------------------------------------

QUICK = ("model=mlp", "model.hidden=[8]", "epochs=4", "threads=1", "data.limit=200", "log.images=0")


def test_independent_members(cli):
    """Five seeds side by side: the result has each, their mean, the gain and the curve; TensorBoard and a picture."""
    code, _, err = cli(*QUICK, "ensemble=independent", "ensemble.members=3")
    assert code == 0, err
    folder = Path("outputs/runs")
    found = result_of(folder)
    facts = found["ensemble"]
    assert len(set(facts["members"])) > 1 and len(facts["members"]) == len(facts["curve"]) == 3
    assert facts["curve"][-1] == found["test_accuracy"] and facts["curve"][0] == facts["members"][0]
    assert facts["mean"] == pytest.approx(sum(facts["members"]) / 3)
    assert facts["gain"] == pytest.approx(found["test_accuracy"] - facts["mean"])
    (run,) = [path.parent for path in folder.glob("*/result.json")]
    assert (run / "ensemble.png").stat().st_size > 1000
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"test/ensemble/mean", "test/ensemble/gain", "test/ensemble/disagreement"} <= tags
    curve = [(e.step, e.value) for e in events.Scalars("test/ensemble/accuracy_of_first_members")]
    assert curve == [(k, pytest.approx(v)) for k, v in enumerate(facts["curve"], 1)]
    assert "test/ensemble" in events.Tags()["images"]


def test_averages_beside_the_last_weights(cli):
    """A mean of weights is one network, told beside the run's own last weights; a lone run has no ensemble."""
    code, _, err = cli("-m", *QUICK, "ensemble=none,ema,polyak", "log.tensorboard=false")
    assert code == 0, err
    found = {one["choices"]["ensemble"]: one for one in results_of(Path("outputs/runs")).values()}
    assert found["none"]["ensemble"] is None
    last = {name: found[name]["ensemble"]["members"] for name in ("ema", "polyak")}
    assert last["ema"] == last["polyak"] and len(last["ema"]) == 1
    for name in last:
        gain = found[name]["test_accuracy"] - last[name][0]
        assert found[name]["ensemble"]["gain"] == pytest.approx(gain)


def test_average_of_logits_is_another_run(cli):
    """`average` reaches the test: the same networks, other losses."""
    words = ("ensemble=independent", "ensemble.members=2", "ensemble.average=probabilities,logits")
    code, _, err = cli("-m", *QUICK, *words, "log.tensorboard=false")
    assert code == 0, err
    one, two = results_of(Path("outputs/runs")).values()
    assert one["ensemble"]["members"] == two["ensemble"]["members"] and one["test_loss"] != two["test_loss"]


def test_independent_goes_on(cli, monkeypatch):
    """An ensemble that is cut off in the middle ends with the numbers of one that is not, bit for bit."""
    words = (*QUICK, "ensemble=independent", "ensemble.members=2", "log.tensorboard=false", "checkpoint.seconds=0")
    assert cli(*words, "name=whole")[0] == 0
    add_rows = module.Session._add_rows

    def stop(self):
        known = len(self._rows)
        add_rows(self)
        if len(self._rows) == 2 > known:
            self.save()
            raise KeyboardInterrupt

    monkeypatch.setattr(module.Session, "_add_rows", stop)
    cli(*words, "name=cut")
    monkeypatch.setattr(module.Session, "_add_rows", add_rows)
    assert result_of(Path("outputs/cut"))["status"] != "done"
    assert cli(*words, "name=cut")[0] == 0
    whole, cut = result_of(Path("outputs/whole")), result_of(Path("outputs/cut"))
    assert whole["ensemble"] == cut["ensemble"] and whole["test_loss"] == cut["test_loss"]
