"""The feature cache through commands, in ensembles and in shared programs."""

import pytest

from runner.execution.eager import EagerProgram
from runner.execution.features.store import Store
from runner.execution.fused.errors import Incompatible
from runner.execution.fused.program import FusedProgram
from runner.train.loop import train
from runner.train.state import TrainState
from tests.shared.features import CONVNET, DATA, SQUEEZENET, assert_equal, make
from tests.shared.results import result_of, results_of
from tests.shared.training import splits

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
