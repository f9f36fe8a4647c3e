"""A run is a Hydra job: what a user's own code sees of Hydra."""

import json
from pathlib import Path

import yaml

CALLBACK = """
import json, os
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback

class Watch(Callback):
    def on_job_start(self, config, task_function, **kwargs):
        hydra = HydraConfig.get()
        said = {"id": hydra.job.id, "num": hydra.job.num, "seed": config.seed, "env": os.environ["OURS"]}
        Path(hydra.runtime.output_dir, "said.json").write_text(json.dumps(said))

    def on_job_end(self, config, job_return, **kwargs):
        Path(config.hydra.runtime.output_dir, "end.txt").write_text(job_return.status.name + job_return.cfg.name)
"""


def test_callbacks_see_each_runs_own_config_and_environment(cli):
    """Callbacks of a user's own are called for each run, with its config, HydraConfig and hydra.job.env_set."""
    Path("job_watch.py").write_text(CALLBACK)
    Path("own/experiment").mkdir(parents=True)
    hydra = {"job": {"env_set": {"OURS": "set"}}, "callbacks": {"watch": {"_target_": "job_watch.Watch"}}}
    Path("own/experiment/watched.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"hydra": hydra}))
    words = ("-m", "model=mlp", "epochs=1", "data.limit=100", "seed=0,1", "log.tensorboard=false", "name=n")
    code, _, err = cli(*words, "--config-dir", "own", "experiment=watched", "hydra.launcher.workers=0")
    assert code == 0, err
    folders = sorted(Path("outputs/n").glob("*/result.json"))
    assert len(folders) == 2
    for number, folder in enumerate(path.parent for path in folders):
        said = json.loads((folder / "said.json").read_text())
        assert said == {"id": folder.name, "num": number, "seed": number, "env": "set"}
        assert (folder / "end.txt").read_text() == "COMPLETEDn"
        kept = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text())["hydra"]
        assert kept["job"]["id"] == folder.name and kept["run"]["dir"] == str(Path("outputs/n", folder.name))
        assert yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())["seed"] == number
        assert f"seed={number}" in yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())
