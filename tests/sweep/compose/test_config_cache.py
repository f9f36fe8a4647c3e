"""Hydra's config files are read once, and compose to what they compose to when they are read each time."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from runner.sweep.compose.config_cache import CachedRepository, cache_files
from runner.sweep.compose.explain import CONF


@pytest.fixture
def loader():
    """Hydra's, of the shipped configs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def composed(loader, *words):
    return loader.load_configuration("config", list(words), run_mode=RunMode.RUN)


COMMANDS = [
    [],
    ["optimizer=adam", "optimizer.lr=0.5"],
    ["model=convnet", "regularization=[dropout,l1]", "regularization.dropout.p=0.3"],
    ["hydra/launcher=slurm", "schedule=cosine"],
    [],
]


def test_compositions_are_the_same(loader, monkeypatch):
    """Bit for bit, in any order; and no file is opened twice."""
    wanted = [OmegaConf.to_yaml(composed(loader, *words)) for words in COMMANDS]
    cache_files(loader)
    assert [OmegaConf.to_yaml(composed(loader, *words)) for words in COMMANDS] == wanted
    monkeypatch.setattr(OmegaConf, "load", lambda *_: pytest.fail("read again"))
    assert [OmegaConf.to_yaml(composed(loader, *words)) for words in COMMANDS] == wanted
    assert isinstance(loader.repository, CachedRepository)


def test_another_search_path_has_files_of_its_own(loader, tmp_path):
    """`hydra.searchpath` is of one composition."""
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.25\n")
    cache_files(loader)
    path = f"hydra.searchpath=[file://{tmp_path}]"
    assert composed(loader, path, "optimizer=mine").optimizer.lr == 0.25
    with pytest.raises(Exception, match="mine"):
        composed(loader, "optimizer=mine")
    assert composed(loader, path, "optimizer=mine").optimizer.lr == 0.25


def test_what_cannot_be_copied_is_read_each_time():
    """A plugin's config, of a class that was made in a function."""

    class Unpicklable:
        def __reduce__(self):
            raise TypeError("no")

    class Own:
        asked = 0

        def get_sources(self):
            return []

        def load_config(self, path):
            self.asked += 1
            return Unpicklable()

    own = Own()
    found = CachedRepository(own, {})
    assert isinstance(found.load_config("x"), Unpicklable) and isinstance(found.load_config("x"), Unpicklable)
    assert own.asked == 2
