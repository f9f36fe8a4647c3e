"""Costs that a dry run shows: probes, operations, memory, disk and totals."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import runner.sweep.plan.cost
import runner.sweep.plan.probe
from runner.build.check import check
from runner.sweep.plan.cost import Cost, Costs
from runner.sweep.plan.probe import probe
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.plans import DRY, QUICK, rows


def test_a_dry_run_shows_what_is_refused_and_why(cli):
    """First in the table and with the reason; the others stand below it; the exit code is that of a refusal."""
    code, out, err = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=-1,0.1")
    assert code == 2 and "2 of 4 combinations cannot run" in err
    status = {row[1]: row[2] for row in rows(out)}
    assert list(status.values()) == ["refused: optimizer.lr=-1: must be above 0"] * 2 + ["new"] * 2
    assert "2 to run, 0 done already, 2 refused" in out
    code, out, err = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=-1,-2")
    assert code == 2 and not rows(out) and "must be above 0" in err
    assert not Path("outputs").exists()


def test_a_long_table_is_cut_and_the_sums_are_of_all(cli):
    """Forty rows, and how many more there are."""
    code, out, _ = cli("-m", *DRY, "sweep.repeat=45")
    assert code == 0 and len(rows(out)) == 40 and "and 5 more" in out and "45 to run" in out


def test_without_a_probe_nothing_is_measured(cli, monkeypatch):
    """Operations by the rehearsal (three forward passes of a batch); dashes for the rest."""
    monkeypatch.setattr(runner.sweep.plan.cost, "probe", lambda *_: pytest.fail("probed"))
    _, out, _ = cli("-m", *DRY, "batch_size=32,64")
    forward = 2 * (64 * 128 + 128 * 10)
    assert [row[5] for row in rows(out)] == [f"~{3 * size * forward / 1e6:.3g} M" for size in (32, 64)]
    assert [row[6:] for row in rows(out)] == [["-"] * 3] * 2 and "measured" not in out


def test_other_tasks_than_training_cost_nothing_known(cli):
    """Dashes, and no probe."""
    code, out, _ = cli("-m", "task=surface", "optimizer=sgd,adam", "dry_run=true")
    assert code == 0 and [row[5:] for row in rows(out)] == [["-"] * 4] * 2 and "about" not in out


def test_a_probe_measures_and_leaves_nothing(cli):
    """Time, memory, disk of every run and of all; no file, no folder."""
    code, out, err = cli("-m", *QUICK, "seed=0,1", "hydra.launcher.workers=2", "dry_run=true")
    assert (code, err) == (0, "")
    for row in rows(out):
        assert row[5] == "2.59 M"  # counted: the first layer has no gradient of its input
        assert re.fullmatch(r"\d+\.\d s", row[6]) and re.fullmatch(r"[\d.]+ [MG]B", row[7])
    assert re.search(r"about [\d.]+ s in all, 2 at once, \d+ kB on disk, [\d.]+ [MG]B of memory for the largest", out)
    assert "a few steps of 1 of 1 distinct program " in out
    assert not list(Path().iterdir())


def test_the_disk_that_a_run_takes_is_foretold(cli):
    """Within a third of what a run leaves, checkpoint and all."""
    _, out, _ = cli("model=convnet", "epochs=1", "dry_run=true")
    assert "1 run in outputs/runs (dry run" in out
    foretold = re.search(r"([\d.]+) ([kM])B on disk", out)
    cli("model=convnet", "epochs=1")
    (folder,) = (path.parent for path in Path("outputs/runs").glob("*/result.json"))
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert float(foretold[1]) * {"k": 1e3, "M": 1e6}[foretold[2]] == pytest.approx(taken, rel=1 / 3)


def test_each_distinct_program_is_probed_once(cli, monkeypatch):
    """Rates, seeds, probabilities and lengths make no program; batches, optimizers and items do. What is done
    already is not measured."""
    asked = []

    def count(builder, config, facts, threads):
        asked.append(config)
        return probe(builder, config, facts, threads)

    monkeypatch.setattr(runner.sweep.plan.cost, "probe", count)
    words = ("regularization=[dropout]", "regularization.dropout.p=0.1,0.2", "epochs=1,2", "seed=0,1", "dry_run=true")
    cli("-m", "model=mlp", *words)
    assert len(asked) == 1
    cli("-m", "model=mlp", "optimizer.lr=0.1,0.2", "optimizer=sgd,adam", "batch_size=32,64", "dry_run=true")
    assert len(asked) == 5
    cli(*QUICK)
    cli(*QUICK, "dry_run=true")
    assert len(asked) == 5


def test_what_is_not_measured_goes_by_its_operations(cli, monkeypatch):
    """Where a probe raises it is said, and where time is up: the time is that of the last measured speed, marked."""

    def half(builder, config, facts, threads):
        if config["batch_size"] == 64:
            raise RuntimeError("no such kernel")
        return probe(builder, config, facts, threads)

    monkeypatch.setattr(runner.sweep.plan.cost, "probe", half)
    _, out, err = cli("-m", *QUICK, "batch_size=32,64", "dry_run=true")
    first, second = rows(out)
    assert first[6][0] != "~" and second[6][0] == "~" and second[7] == "-"
    assert "fails at once: batch_size=64: RuntimeError: no such kernel" in out
    assert "1 of 2 distinct programs (sweep.probe); the others (~)" in out
    monkeypatch.setattr(runner.sweep.plan.cost, "BUDGET", 0.0)
    _, out, _ = cli("-m", *QUICK, "batch_size=16,32", "dry_run=true")
    assert [row[6] for row in rows(out)] == ["-", "-"]


def probed(*words):
    config = check(composed(*words))
    builder = Resources()
    facts = builder.preflight(config)
    return probe(builder, config, facts, 1), facts


def test_a_step_too_large_is_measured_on_a_part_of_its_batch(monkeypatch):
    """Its operations are scaled to the whole."""
    whole, _ = probed("model=mlp")
    monkeypatch.setitem(runner.sweep.plan.probe.LARGEST, "cpu", 1e6)
    part, _ = probed("model=mlp")
    assert whole.part == 1 and part.part == pytest.approx(17 / 64)
    assert part.flops == pytest.approx(whole.flops) and part.state == whole.state


def test_operations_are_counted_over_every_look_of_a_step():
    """SAM looks twice; a frozen network that is served from the cache costs its head alone, and writes no file."""
    sgd, facts = probed("model=mlp", "optimizer=sgd")
    sam, _ = probed("model=mlp", "optimizer=sam")
    assert sam.flops == 2 * sgd.flops and sgd.frozen == 0
    assert sgd.flops == 64 * 2 * (2 * facts.trainable - 2 * (128 + 10) + 128 * 10)
    head, _ = probed("model=convnet", "transfer=last_layer")
    assert head.frozen > 0 and head.flops < 0.01 * probed("model=convnet")[0].flops


def test_the_total_is_what_workers_take_together():
    """The sum over the workers, but never less than the longest run; one training for several evaluations."""

    def entry(name, training):
        return SimpleNamespace(job=SimpleNamespace(fingerprint=name, training=training))

    costs = Costs(runs={name: Cost(training=10.0, evaluation=2.0, memory=5.0, disk=7.0) for name in "abc"}, shared=1.0)
    plan = SimpleNamespace(todo=[entry("a", "x"), entry("b", "y"), entry("c", "y")], trained={}, workers=0)
    assert costs.total(plan) == 1 + 12 + 12 + 2 and costs.disk(plan) == 21 and costs.memory(plan) == 5
    plan.workers = 2
    assert costs.total(plan) == 1 + 13
    plan.workers = 20
    assert costs.total(plan) == 12
    plan.trained, plan.workers = {"x": Path()}, 1
    assert costs.total(plan) == 1 + 2 + 12 + 2
    costs.runs["a"] = Cost()
    assert costs.total(plan) is None
