"""Spaces and settings of a search in Hydra's words, and their refusals."""

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.runner.search import SearchConfig
from runner.core.errors import ConfigError
from runner.sweep.search.settings import settings
from runner.sweep.search.space import Dimension, _distribution
from tests.shared.searches import LR, SMALL


def space(word: str):
    return _distribution(OverridesParser.create().parse_override(word))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("x=interval(0,1)", FloatDistribution(0, 1)),
        ("x=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("x=int(interval(1,10))", IntDistribution(1, 10)),
        ("x=tag(int,log,interval(16,256))", IntDistribution(16, 256, log=True)),
        ("x=range(1,10)", IntDistribution(1, 9)),
        ("x=range(10,0,-3)", IntDistribution(1, 10, step=3)),
        ("x=range(0.1,0.45,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("x=choice(sgd,adam)", CategoricalDistribution(["sgd", "adam"])),
        ("x=[],[dropout],[dropout,l2]", CategoricalDistribution(["[]", "[dropout]", "[dropout,l2]"])),
        ("x=0.1,null,true", CategoricalDistribution(["0.1", "null", "true"])),
        ("x=choice(3)", None),
        ("x=5", None),
    ],
)
def test_hydras_words_are_optunas_distributions(word, expected):
    """Intervals, ranges and choices keep their bounds, their steps and whether they are whole."""
    assert space(word) == expected


def test_drawn_numbers_are_typed_as_a_person_would():
    """Six digits, never outside the bounds; a float's step leaves no dust."""
    interval = Dimension("x", "x", "", FloatDistribution(1.234561, 2))
    assert interval.text(1.987654321) == "1.98765" and interval.text(1.234561) == "1.234561"
    steps = Dimension("x", "x", "", space("x=range(0.1,0.5,0.1)"))
    assert [steps.text(value) for value in steps.values()] == ["0.1", "0.2", "0.3", "0.4"]
    assert steps.text(0.30000000000000004) == "0.3" and steps.locate(0.3) == 0.3 and steps.locate(0.35) is None


BAD = [
    (["optimizer.lr=interval(1,0)"], "optimizer.lr=interval(1,0): the lower bound comes first"),
    (["optimizer.lr=tag(log,interval(0,1))"], "a logarithm needs bounds above 0"),
    (["batch_size=interval(16,33)"], "must be whole numbers; type batch_size=int(interval(16,33))"),
    (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: must be above 0"),
    ([], "no key has a space"),
    (["optimizer.lrr=interval(0,1)"], "no key 'lrr'"),
    (["optimizer=sgd,adam", "optimizer.momentum=interval(0.5,0.9)"], "the chosen optimizer has no key 'momentum'; "),
    (["seed=0,1", LR], "a search has one seed"),
    (["sweep.repeat=3", LR], "sweep.repeat: is for grids"),
    (["optimizer=sgd,adam", "hydra.sweeper.sampler=cmaes"], "needs at least two keys with interval"),
    ([LR, "hydra.sweeper.sampler=grid"], "has no end of values"),
    ([LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: must be at least 1"),
    ([LR, "hydra.sweeper.metric=[val_accuracy,seconds]", "hydra.sweeper.pruner=median"], "stops runs by one metric"),
    ([LR, "hydra.sweeper.pruner=median", "hydra.sweeper.min_epochs=2"], "nothing can be stopped early"),
    ([LR, "data.val_fraction=0"], "there are no validation images"),
    ([LR, "rerun=true"], "a search repeats nothing"),
    ([LR, "task=surface"], "task=train"),
]


@pytest.mark.parametrize(("words", "line"), BAD)
def test_what_cannot_be_searched_is_refused_in_a_line(search, words, line):
    """Bad bounds, corners that cannot run, options without effect: exit code 2, and no folder."""
    code, out, err = search(3, *words)
    assert code == 2 and line in err and "Traceback" not in err and out == ""
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("x=tag(logg,interval(1,2))", "tag 'logg' is not known"),
        ("x=range(8,16,0)", "needs a step that is not 0"),
        ("x=int(interval(8,9e99))", "whole numbers need whole bounds, at most"),
        ("x=tag(int,interval(0.5,2))", "whole numbers need whole bounds"),
        ("x=interval(0,inf)", "must be finite"),
        ("x=tag(log,range(1,9,2))", "a step of 1"),
        ("x=tag(log,choice(1,2))", "choices have no order"),
    ],
)
def test_a_space_that_is_none_is_refused(word, line):
    """Unknown tags, no step, bounds that no sampler can keep."""
    with pytest.raises(ConfigError, match=re.escape(line)):
        space(word)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"sampler": "tpee"}, "hydra.sweeper.sampler=tpee: must be"),
        ({"metric": "test_accuracy"}, "the test split has no part in a decision"),
        ({"metric": ["val_loss", "val_loss"]}, "named twice"),
        ({"metric": ["val_loss", "seconds"], "sampler": "cmaes"}, "has one objective"),
        ({"metric": "seconds", "pruner": "median"}, "is not known after each epoch"),
        ({"min_epochs": 2}, "there is no pruner"),
        ({"pruner": "median", "reduction_factor": 3}, "is for pruner=halving"),
        ({"sampler": "random", "startup_trials": 3}, "startup_trials: is for"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(keys, line):
    """Nothing is accepted and ignored."""
    with pytest.raises(ConfigError, match=re.escape(line)):
        settings(OmegaConf.create({"hydra": {"sweeper": OmegaConf.structured(SearchConfig(**keys))}}))


def test_a_space_needs_a_sweep(cli):
    """Without -m a space is refused with the word that is missing; the sweeper grid names the one that takes it."""
    code, _, err = cli("hydra/sweeper=search", LR, *SMALL)
    assert code == 2 and err.strip().endswith("add -m (a list is '[A,B]', in quotes)")
    code, _, err = cli("-m", LR, *SMALL)
    assert code == 2 and "hydra/sweeper=search" in err and not Path("outputs").exists()
