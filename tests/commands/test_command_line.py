"""The command itself: help, completion, Hydra's own options, and any folder to type it in."""

import os
import subprocess
import sys
import time
from pathlib import Path

from runner.__main__ import main
from tests.shared.commands import QUICK
from tests.shared.results import result_of


def test_a_real_process_from_any_folder(tmp_path):
    """`runner` and `python -m runner` work where nothing of the project lies."""
    script = Path(sys.executable).with_name("runner")
    for command in ([str(script)], [sys.executable, "-m", "runner"]):
        done = subprocess.run(
            [*command, *QUICK, "log.tensorboard=false"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert result_of(tmp_path / "outputs/runs")["status"] == "done"


def test_help_lists_groups_options_and_examples_without_torch(tmp_path):
    """--help knows every group and takes no second."""
    start = time.perf_counter()
    code = (
        "import sys; from runner.__main__ import main\ncode = main(['--help'])\n"
        "assert not {'torch', 'torchvision', 'tensorboard'} & set(sys.modules), 'heavy imports'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "optimizer: ",
        "nesterov",
        "regularization: ",
        "label_smoothing",
        "-m optimizer=sgd,adam",
        "tensorboard",
    ):
        assert word in done.stdout
    assert took < 5  # a bound for busy machines; benchmarks/ has the measured time


def test_cfg_job_prints_the_config(cli):
    """Hydra's own commands work."""
    code, out, _ = cli("--cfg", "job", "optimizer=sgd", "optimizer.lr=0.7")
    assert code == 0 and "lr: 0.7" in out and "torch.optim.SGD" in out
    assert not Path("outputs").exists()


def test_shell_completion_knows_options(tmp_path):
    """Hydra's completion offers a group's options."""
    environment = os.environ | {"COMP_LINE": "runner optimizer=nes"}
    done = subprocess.run(
        [sys.executable, "-m", "runner", "-sc", "query=bash"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert "optimizer=nesterov" in done.stdout


def test_main_puts_the_process_back_as_it_was(cli):
    """Threads, argv and environment are as before a run."""
    import torch

    before = (torch.get_num_threads(), list(sys.argv), os.environ.get("HYDRA_FULL_ERROR"))
    assert main([*QUICK, "threads=2"]) == 0
    assert (torch.get_num_threads(), list(sys.argv), os.environ.get("HYDRA_FULL_ERROR")) == before


def test_options_may_stand_anywhere_and_brackets_are_shown(cli, tmp_path):
    """--config-dir after the overrides works; what was typed is printed as it was typed."""
    (tmp_path / "mine/schedule").mkdir(parents=True)
    (tmp_path / "mine/schedule/flat.yaml").write_text("_target_: runner.schedule.constant.Constant\n")
    code, out, err = cli(*QUICK, "--config-dir", "mine", "schedule=flat", "regularization=[dropout,l2]")
    assert (code, err) == (0, "") and "regularization=[dropout,l2]" in out


def test_a_module_where_one_types_is_found_and_must_be_a_network(tmp_path):
    """`runner` finds a class in the current folder; one that is no nn.Module is refused in a line."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nclass NoNet:\n    pass\nclass Net(nn.Sequential):\n"
        "    def __init__(self, num_classes: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    runner = [str(Path(sys.executable).with_name("runner")), "model=custom", "trust=[nets]", "epochs=1"]
    for name, code, said in (("Net", 0, ""), ("NoNet", 2, "gives a NoNet, not a torch.nn.Module")):
        words = [*runner, f"model._target_=nets.{name}"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
