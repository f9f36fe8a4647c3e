"""Surfaces: formulas, gradients, minima and saddles."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from runner.core.errors import ConfigError
from runner.core.targets import locate
from runner.surface.beale import Beale
from runner.surface.himmelblau import Himmelblau
from runner.surface.monkey_saddle import MonkeySaddle
from runner.surface.plateau import Plateau
from runner.surface.rastrigin import Rastrigin
from runner.surface.ravine import Ravine
from runner.surface.rosenbrock import Rosenbrock
from runner.surface.saddle import Saddle
from runner.sweep.compose.explain import CONF
from runner.task.resources import Resources
from tests.shared.walks import gradient, slopes

FILES = sorted((CONF / "surface").glob("*.yaml"))
ALL = (Beale, Himmelblau, MonkeySaddle, Plateau, Rastrigin, Ravine, Rosenbrock, Saddle)


@pytest.mark.parametrize("kind", ALL)
def test_the_gradient_is_the_hand_written_one(kind):
    """At twenty points of the picture, with another scale than the default."""
    surface = kind(scale=0.7)
    left, right, bottom, top = surface.domain
    for x, y in np.random.default_rng(0).uniform((left, bottom), (right, top), (20, 2)).tolist():
        expected = [0.7 * slope for slope in slopes(surface, x, y)]
        assert gradient(surface, (x, y)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_minima_and_saddles_are_what_they_say(kind):
    """No point of the picture is lower than a minimum; a saddle is flat and has lower and higher neighbours."""
    surface = kind()
    _, _, values = surface.grid(160, 120)
    for minimum in surface.minima:
        height = float(surface(torch.tensor(minimum, dtype=torch.float64)))
        assert height == pytest.approx(surface.minimum, abs=1e-12)
        assert gradient(surface, minimum) == pytest.approx((0, 0), abs=1e-12)
        assert height <= float(values.min()) + 1e-12
    for saddle in surface.saddles:
        assert gradient(surface, saddle) == pytest.approx((0, 0), abs=1e-7)
        angles = torch.linspace(0, 2 * math.pi, 64, dtype=torch.float64)
        around = torch.tensor(saddle, dtype=torch.float64)[:, None] + 0.01 * torch.stack([angles.cos(), angles.sin()])
        here = surface(torch.tensor(saddle, dtype=torch.float64))
        assert surface(around).min() < here < surface(around).max()


@pytest.mark.parametrize("kind", ALL)
def test_surfaces_draw_on_grids_in_any_precision(kind):
    """A grid gives the values that its points give; float32 stays float32."""
    surface = kind()
    x, y, values = surface.grid(7, 5)
    assert values.shape == (5, 7)
    assert float(values[3, 2]) == float(surface(torch.stack([x[2], y[3]])))
    assert surface(torch.zeros(2)).dtype == torch.float32


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_option_keeps_the_contract(file):
    """Named like its module, defaults those of the class, start and minima in the picture, an outside start refused."""
    node = OmegaConf.to_container(OmegaConf.load(file))
    target = node.pop("_target_")
    assert target.split(".")[:3] == ["runner", "surface", file.stem]
    kind = locate("surface", target, [])
    assert {"scale", "unit", "noise", "start"} <= set(node)
    assert vars(kind(**node)) == vars(kind())
    left, right, bottom, top = kind.domain
    assert all(left < x < right and bottom < y < top for x, y in kind().minima)
    with pytest.raises(ConfigError, match=r"^surface.start=\[99,0\]: outside the picture"):
        kind(start=[99, 0])


def test_there_is_a_file_for_every_surface():
    """The test's list and the folder agree."""
    assert {file.stem for file in FILES} == {kind.__module__.rpartition(".")[2] for kind in ALL}


def test_the_builder_makes_the_surface():
    """From a config's node, by its target."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "surface" / "ravine.yaml"))
    assert Resources().surface({"surface": node | {"condition": 7}}).condition == 7
