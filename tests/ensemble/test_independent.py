"""Ensembles through the command line: independent members, averages beside the last weights."""

from pathlib import Path

import pytest

from runner.task import train as module
from tests.shared.results import result_of, results_of

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
