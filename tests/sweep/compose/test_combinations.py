"""Combinations of a command: keys that vary together, seeds, experiments."""

import re
from pathlib import Path

import pytest

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
