"""`python -m runner.sweep status`."""

import json
import subprocess
import sys
from pathlib import Path

from runner.sweep import __main__ as command
from tests.shared.sweeps import SWEEP, said


def test_status_tells_where_a_sweep_stands(cli, capfd):
    """Done, running with its progress, interrupted, failed with its reason, not started; a folder without runs: 2."""
    assert cli(*SWEEP, "name=s")[0] == 0
    folders = sorted(path.parent for path in Path("outputs/s").glob("*/result.json"))
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    for number, change in ((1, {"status": "running"}), (2, {"status": "failed", "reason": "the cable is out"})):
        (folders[number] / "result.json").write_text(json.dumps(results[number] | change))
    (folders[3] / "result.json").unlink()
    assert command.main(["status", "outputs/s"]) == 0
    out = capfd.readouterr().out
    assert "4 runs in outputs/s: 1 done, 1 interrupted, 1 failed, 1 not started" in out and "the cable is out" in out
    said(folders[1], step=3, steps=40, numbers={"val_accuracy": 0.5})
    assert command.main(["status", "outputs/s"]) == 0
    out = capfd.readouterr().out
    assert "1 running" in out and "step 3 of 40, val accuracy 0.5000, process" in out
    assert command.main(["status", "outputs/nowhere"]) == 2
    assert "no such folder" in capfd.readouterr().err


def test_status_loads_no_torch(tmp_path):
    """It answers at once."""
    code = "import sys, runner.sweep.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
