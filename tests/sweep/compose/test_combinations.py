"""What a command plans: keys that vary together, what is left out, seeds, experiments; and what a dry run tells."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import runner.sweep.plan.cost
import runner.sweep.plan.probe
from runner.build.check import check
from runner.sweep.compose.exclude import parse_condition
from runner.sweep.plan.cost import Cost, Costs
from runner.sweep.plan.probe import probe
from runner.task.resources import Resources
from tests.shared.configs import composed
from tests.shared.plans import DRY, QUICK, combinations, rows
from tests.shared.results import results_of

OPTIMIZERS = ("optimizer=sgd,adam", "optimizer.lr=0.1,0.001")


@pytest.fixture
def experiments(tmp_path):
    """Writes experiment files; the words that make them known."""

    def write(**files):
        folder = tmp_path / "mine" / "experiment"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}")
        return "--config-dir", str(tmp_path / "mine")

    return write


# -- sweep.zip --------------------------------------------------------------------------------------------------------


def test_zipped_keys_vary_together_and_the_others_make_the_product(cli):
    """The n-th value of one goes with the n-th of the other; brackets and quotes may be left out."""
    wanted = [
        "optimizer=sgd optimizer.lr=0.1 seed=0",
        "optimizer=sgd optimizer.lr=0.1 seed=1",
        "optimizer=adam optimizer.lr=0.001 seed=0",
        "optimizer=adam optimizer.lr=0.001 seed=1",
    ]
    for word in ("sweep.zip=[optimizer,optimizer.lr]", "sweep.zip=optimizer,optimizer.lr"):
        code, out, err = cli("-m", *DRY, *OPTIMIZERS, "seed=0,1", word)
        assert (code, err) == (0, "")
        assert combinations(out) == wanted


def test_several_groups_of_zipped_keys(cli):
    """Each group is one axis of the product."""
    words = (*OPTIMIZERS, "batch_size=16,32,64", "seed=5,6,7")
    code, out, _ = cli("-m", *DRY, *words, "sweep.zip=[[optimizer,optimizer.lr],[seed,batch_size]]")
    assert code == 0
    found = [re.sub(r"\S+=", "", text).split() for text in combinations(out)]
    rates, sizes = [("sgd", "0.1"), ("adam", "0.001")], [("16", "5"), ("32", "6"), ("64", "7")]
    assert found == [[*rate, *size] for rate in rates for size in sizes]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optimizer.lr=1,2,3", "sweep.zip=[optimizer,optimizer.lr]"], "optimizer has 2 values, optimizer.lr has 3"),
        (
            ["sweep.zip=[optimizr,seed]", "seed=0,1"],
            "'optimizr' is not swept (swept are optimizer, seed); did you mean",
        ),
        (["seed=3", "sweep.zip=[optimizer,seed]"], "'seed' is not swept"),
        (["seed=0,1", "batch_size=1,2", "sweep.zip=[[optimizer,seed],[seed,batch_size]]"], "'seed' is named twice"),
        (["sweep.zip=[optimizer]"], "[optimizer] is no group"),
        (["sweep.zip=3"], "must be a list"),
    ],
)
def test_a_zip_that_cannot_be_is_refused(cli, words, told):
    """One line, with the key and the way out."""
    code, _, err = cli("-m", *DRY, "optimizer=sgd,adam", *words)
    assert code == 2 and told in err and err.startswith("runner: sweep.zip=") and err.count("\n") == 1


# -- sweep.exclude ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (['sweep.exclude="optimizer=sgd & optimizer.lr>0.5"'], ["sgd 0.1", "adam 0.1", "adam 1"]),
        (['sweep.exclude=["optimizer=sgd & optimizer.lr<=1e-1", "optimizer.lr=1.0"]'], ["adam 0.1"]),
        (
            ['sweep.exclude="optimizer=sgd & optimizer.lr=1","optimizer!=sgd & optimizer.lr>=0.5"'],
            ["sgd 0.1", "adam 0.1"],
        ),
        (
            ['sweep.exclude="optimizer.betas=[0.9,0.999] & data=digits & optimizer.lr<0.5"'],
            ["sgd 0.1", "sgd 1", "adam 1"],
        ),
        (['sweep.exclude="schedule=constant & batch_size<100 & optimizer=adam"'], ["sgd 0.1", "sgd 1"]),
        (['sweep.exclude="optimizer.betas!=[0.9,0.9] & optimizer.lr=1"'], ["sgd 0.1", "sgd 1", "adam 0.1"]),
    ],
)
def test_conditions_take_combinations_out(cli, words, left):
    """A condition is true where all its comparisons are, of what was typed and of the whole config; a key that a
    combination does not have makes it false."""
    code, out, err = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=0.1,1", *words)
    assert (code, err) == (0, "")
    assert [re.sub(r"\S+=", "", text) for text in combinations(out)] == left
    assert f"{len(left)} to run" in out


def test_stacks_are_compared_item_by_item(cli):
    """A list is equal to the same list alone; order counts."""
    words = ("regularization=[],[dropout],[dropout,l2]", "optimizer=sgd,adam")
    _, out, _ = cli("-m", *DRY, *words, 'sweep.exclude="regularization=[dropout,l2] & optimizer!=sgd"')
    assert len(rows(out)) == 5
    code, _, err = cli("-m", *DRY, *words, 'sweep.exclude="regularization=[l2,dropout]"')
    assert code == 2 and "takes out none of the 6 combinations" in err


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [
        ("k=1e-3", 0.001, True),
        ("k=0.001", True, False),
        ("k=true", True, True),
        ("k=null", None, True),
        ("k!=null", 3, True),
        ("k<3", None, False),
        ("k<3", "auto", False),
        ("k == adam", "adam", True),
        ("k=[a,b]", ["a", "b"], True),
        ("k=[a,b]", ["b", "a"], False),
    ],
)
def test_a_comparison_reads_values_as_a_config_does(text, found, holds):
    """Numbers as numbers, however they are written; what is no number is neither above nor below one."""
    assert parse_condition(text).holds({}, lambda: {"k": found}) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"optimizer.lr>0"', "takes out all 4 combinations: nothing is left"),
        ('"optimizer=sgd","optimizer=adam"', "takes out all 4 combinations"),
        ('"optimizer.lr>5"', "'optimizer.lr>5' takes out none of the 4 combinations"),
        ('"optimizr=sgd"', "none has a key 'optimizr'; did you mean 'optimizer'?"),
        ('"optimizer=sgd & optimiser.lr>0"', "none has a key 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ('"optimizer>sgd"', "'optimizer>sgd' compares no number"),
        ('"optimizer sgd"', "'optimizer sgd' is no condition; type KEY=VALUE"),
        ('"optimizer=sgd & "', "is no condition"),
    ],
)
def test_an_exclude_that_is_a_slip_is_refused(cli, text, told):
    """One line: what takes out everything, or nothing, or names what is not there, or cannot be read."""
    code, _, err = cli("-m", *DRY, "optimizer=sgd,adam", "optimizer.lr=0.1,1", f"sweep.exclude={text}")
    assert code == 2 and told in err and err.startswith("runner: sweep.exclude") and err.count("\n") == 1


# -- sweep.repeat -----------------------------------------------------------------------------------------------------


def test_repetitions_are_seeds(cli):
    """From the seed that is typed, or the config's; the seed varies fastest; no other key needs to be swept."""
    _, out, _ = cli("-m", *DRY, "sweep.repeat=3")
    assert combinations(out) == ["seed=0", "seed=1", "seed=2"]
    _, out, _ = cli("-m", *DRY, "seed=7", "optimizer=sgd,adam", "sweep.repeat=2")
    assert combinations(out) == [f"optimizer={name} seed={seed}" for name in ("sgd", "adam") for seed in (7, 8)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sweep.repeat=3", "seed=5,6"], "sweep.repeat=3: the seed is swept already (seed=5,6)"),
        (["sweep.repeat=3", "seed=abc"], "seed=abc: must be a whole number"),
        (["sweep.repeat=0", "seed=0,1"], "sweep.repeat=0: must be at least 1"),
        (["sweep.repeat=1,2"], "sweep.repeat=[1,2]: must be a whole number"),
        (["sweep.repat=3"], "no key 'repat' in sweep; it has exclude, probe, repeat, zip; did you mean 'repeat'?"),
        (["sweep={repeat:2}"], "type the keys of sweep one by one"),
        (["~sweep.repeat", "seed=0,1"], "type the keys of sweep one by one"),
        (["sweep.repeat=1"], "-m without a key of several values"),
        (["seed=range(5,5)"], "seed=range(5,5): has no values"),
        (["optimizer=glob(zz*)"], "optimizer=glob(zz*): has no values"),
    ],
)
def test_a_sweep_that_is_none_is_refused(cli, words, told):
    """One line."""
    code, _, err = cli("-m", *DRY, *words)
    assert code == 2 and told in err and err.count("\n") == 1


@pytest.mark.parametrize("word", ["sweep.zip=[a,b]", 'sweep.exclude="a=b"', "sweep.repeat=2"])
def test_a_lone_run_is_no_sweep(cli, word):
    """What is about several runs is refused without -m."""
    code, _, err = cli(*DRY, word)
    assert code == 2 and "is about several runs: add -m" in err and word.partition("=")[0] in err


def test_how_a_sweep_was_made_is_no_part_of_its_runs(cli):
    """A repetition is the run of its seed, and knows nothing of the sweep's keys."""
    code, _, err = cli("-m", *QUICK, "sweep.repeat=2", "hydra.launcher.workers=0")
    assert (code, err) == (0, "")
    for seed, result in enumerate(results_of(Path("outputs/runs")).values()):
        assert result["swept"] == {"seed": seed} and result["overrides"] == ["model=mlp", "epochs=1", f"seed={seed}"]
        assert "sweep.repeat=2" in result["command"] and result["status"] == "done"
    for path in Path("outputs/runs").glob("*/config.yaml"):
        assert "sweep:\n  zip: []\n  exclude: []\n  repeat: 1\n  probe: true\n" in path.read_text()
    assert "0 to run, 1 done already" in cli(*DRY, "seed=1")[1]
    assert "1 to run, 2 done already" in cli("-m", *DRY, "seed=0,1,2", "sweep.exclude=[]")[1]


# -- experiments ------------------------------------------------------------------------------------------------------


def test_each_experiment_of_a_list_has_its_own(cli, experiments):
    """One file zips, the other excludes and repeats, in products of its own; what is typed wins over both."""
    words = experiments(
        a="sweep:\n  zip: [optimizer, optimizer.lr]\nseed: 4\nhydra:\n  sweeper:\n    params:\n"
        "      optimizer: sgd,adam\n      optimizer.lr: 0.1,0.001\n",
        b="sweep:\n  exclude: [schedule=cosine & batch_size>20]\n  repeat: 2\nseed: 8\nhydra:\n  sweeper:\n"
        "    params:\n      schedule: constant,cosine\n    grids:\n      - batch_size: 16,32\n      - batch_size: 64\n",
    )
    code, out, err = cli(*words, "-m", *DRY, "experiment=a,b")
    assert (code, err) == (0, "")
    a = ["optimizer=sgd optimizer.lr=0.1", "optimizer=adam optimizer.lr=0.001"]
    kept = ["constant 16", "constant 32", "cosine 16", "constant 64"]
    b = [f"schedule={x.split()[0]} batch_size={x.split()[1]} seed={seed}" for x in kept for seed in (8, 9)]
    assert combinations(out) == [f"experiment=a {text}" for text in a] + [f"experiment=b {text}" for text in b]
    assert len(rows(cli(*words, "-m", *DRY, "experiment=b")[1])) == 8
    assert len(rows(cli(*words, "-m", *DRY, "experiment=b", "sweep.repeat=1", "sweep.exclude=[]")[1])) == 6
    assert "add -m" in cli(*words, *DRY, "experiment=b")[2]


def test_a_zip_serves_the_products_that_sweep_its_keys(cli, experiments):
    """Of products beside each other the group is that of those that have its keys; somewhere it must be."""
    file = (
        "sweep:\n  zip: [optimizer, {key}]\nhydra:\n  sweeper:\n    grids:\n"
        "      - optimizer: sgd,adam\n        optimizer.lr: 0.1,0.002\n      - schedule: constant,cosine\n"
    )
    words = experiments(good=file.format(key="optimizer.lr"), bad=file.format(key="optimizer.rho"))
    assert len(rows(cli(*words, "-m", *DRY, "experiment=good")[1])) == 4
    code, _, err = cli(*words, "-m", *DRY, "experiment=bad")
    assert code == 2 and "'optimizer.rho' is not swept" in err


# -- dry_run ----------------------------------------------------------------------------------------------------------


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
