"""Bad input: one clear line, exit code 2, no traceback, nothing left behind."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CASES = [
    (["optimizer=nesterv"], "optimizer=nesterv: no such option", "did you mean 'nesterov'?"),
    (["regularization=[l2,dropuot]"], "regularization=dropuot: no such option", "did you mean 'dropout'?"),
    (["optimzer=sgd"], "no key or group 'optimzer'", "did you mean 'optimizer'?"),
    (["dta.root=/x=1"], "no group 'dta'", "did you mean 'data'?"),
    (
        ["+evaluation.passes=3", "+evaluation.x=1"],
        "evaluation.passes=3, evaluation.x=1: no such key; it has none",
        "",
    ),
    (["optimizer.lrr=1"], "no key 'lrr' in optimizer", "did you mean 'lr'?"),
    (["optimizer.momentum=0.8"], "the chosen optimizer has no key 'momentum'", ""),
    (["epoch=3"], "no key or group 'epoch'", "did you mean 'epochs'?"),
    (["+epochz=3"], "epochz: no such key", "did you mean 'epochs'?"),
    (["+seed=3"], "'seed' is there already", "without +"),
    (["+optimizer.lrr=3"], "optimizer.lrr=3: no such key", "did you mean 'lr'?"),
    (["early_stopping.patiense=3"], "no key 'patiense'", "did you mean 'patience'?"),
    (["epochs=abc"], "epochs=abc: must be a whole number", ""),
    (["epochs=2.5"], "epochs=2.5: must be a whole number", ""),
    (["epochs={a:null,b:[true]}"], "epochs={a:null,b:[true]}: must be a whole number", ""),
    (["epochs=true"], "epochs=true: must be a number", ""),
    (["optimizer.lr=abc"], "optimizer.lr=abc: must be a number", ""),
    (["optimizer.lr=-1"], "optimizer.lr=-1: must be above 0", ""),
    (["epochs=0"], "epochs=0: must be at least 1", ""),
    (["data.val_fraction=1.5"], "data.val_fraction=1.5: must be below 1", ""),
    (
        ["epochs=0", "batch_size=x", "data.val_fraction=2"],
        "epochs=0: must be at least 1; batch_size=x",
        "val_fraction=2",
    ),
    (["optimizer.betas=[0.9,1.2]"], "optimizer.betas=1.2: must be below 1", ""),
    (["optimizer.betas=[0.9]"], "optimizer.betas=[0.9]: has too few values", ""),
    (["~schedule"], "~schedule: a group cannot be removed", "type schedule=OPTION"),
    (["~regularization"], "~regularization: a group cannot be removed", "type regularization=[]"),
    (["~hydra/launcher"], "~hydra/launcher: a group cannot be removed", "type hydra/launcher=OPTION"),
    (["~early_stopping.metric"], "early_stopping.metric is missing", "leave ~early_stopping.metric out"),
    (["~early_stopping"], "early_stopping is missing", "leave ~early_stopping out"),
    (["~name"], "name is missing", "leave ~name out"),
    (["~data.root"], "~data.root: the chosen data has no key 'root'", "leave ~data.root out"),
    (["epochs=${oc.env:${oc.env:NOPE}}"], "an interpolation inside another", "quotes of its own"),
    (["regularization=[???]"], "regularization=[???]: ??? stands for a missing value", "type the value"),
    (["optimizer=???"], "optimizer=???: ??? stands for a missing value", "type the value"),
    (["model=mlp", "model.hidden=[0]"], "model.hidden=[0]: must be above 0", ""),
    (["optimizer=nesterov", "optimizer.nesterov=maybe"], "optimizer.nesterov=maybe: must be true or false", ""),
    (["optimizer=nesterov", "optimizer.momentum=0"], "Nesterov momentum requires a momentum", ""),
    (["optimizer=null"], "optimizer=null: a group takes the name of one of its options", ""),
    (["early_stopping=3"], "early_stopping=3: has keys of its own", ""),
    (["device=gpu"], "device=gpu: must be auto, cpu, cuda, cuda:N or mps", ""),
    (["device=cuda:77"], "device=cuda:77: ", "use device=auto or device=cpu"),
    (["precision=fp8"], "precision=fp8: must be 'auto', 'fp32', 'bf16' or 'fp16'", ""),
    (["data=fashion_mnist", "data.root=/nowhere"], "data.root='/nowhere'", "data.download=true"),
    (["data=fashion_mnist"], "data.root is missing", "data.root=FOLDER"),
    (["data.root=/nowhere"], "data=digits has no use for it", ""),
    (["batch_size=5000"], "batch_size=5000: larger than the training split of 1294 images", "batch_size=1294"),
    (["accumulate=100"], "accumulate=100: more micro-batches", ""),
    (["model._target_=os.system"], "not from a trusted package", "trust=[os]"),
    (["model._target_=runner.build.data.json.loads"], "leads to json", ""),
    (["model._target_=torch.load"], "not from a trusted package", ""),
    (["model=custom"], "model._target_ is missing", ""),
    (["surface=saddle"], "surface=saddle: this task has no use for it", ""),
    (["-m", "model=mlp", "seed=0,1", "hydra.sweep.subdir=same"], "several runs would share this folder", "subdir"),
    (["model=mlp", "--config-dir", "nowhere"], "Additional config directory", "not found"),
    (["model._target_=mypackage.Net", "trust=[mypackage]"], "cannot be imported", "mypackage"),
    (["regularization.dropout.p=0.3"], "'dropout' is not in the stack", "regularization=[dropout]"),
    (["regularization=[l2]", "regularization.dropout.p=0.3"], "'dropout' is not in the stack", ""),
    (["regularization=[dropout]", "regularization.dropout.q=0.3"], "'dropout' has no key 'q'", ""),
    (["regularization=[dropout,dropout]"], "'dropout' is listed twice", ""),
    (["regularization=[l2]", "+regularization=dropout"], "'regularization' is typed twice", ""),
    (["regularization=[dropout]", "regularization.dropout.p=1"], "regularization.dropout.p=1", "below 1"),
    (
        ["model=mlp", "regularization=[dropout]", "regularization.dropout.where=conv"],
        "no such layer",
        "linear, conv, head",
    ),
    (["augmentation=[crop]", "augmentation.crop.padding=40"], "more than the image's 8 pixels", ""),
    (["schedule.warmup=x%"], "schedule.warmup=x%: must be epochs (5) or a share of the run (5%)", ""),
    (["schedule.warmup=100%"], "schedule.warmup=100%", "make it shorter"),
    (["schedule=step", "schedule.every=0"], "schedule.every=0: must be at least one step", ""),
    (["checkpoint.select=best", "data.val_fraction=0"], "checkpoint.select=best needs validation data", ""),
    (["early_stopping.patience=3", "data.val_fraction=0"], "early_stopping.patience=3 needs validation data", ""),
    (["data.classes=[0,zero]"], "no class 'zero'", ""),
    (["data.per_class=9999"], "data.per_class=9999", ""),
    (["model=torchvision", "model.name=resnet81"], "model.name=resnet81", "did you mean 'resnet18'?"),
    (["name=../up"], "name=../up: must be a folder name", ""),
    (["hydra.run.dir=/proc/nothing/here"], "cannot write there", ""),
    (["optimizer=sgd,adam"], "several values are a sweep", "add -m"),
    (["-m", "seed=0,1", "hydra.launcher.fuse=1"], "hydra.launcher.fuse=1: must be auto, true or false", ""),
    (["experiment=quickstart"], "brings a sweep of its own", "add -m"),
    (["experiment=quickstar"], "no such option", "did you mean 'quickstart'?"),
    (["-m", "optimizer.lr=interval(0.1,1)"], "an interval has no list of values", ""),
    (["-m", "seed=0,1", "threads=1,2"], "'threads' cannot change a result", ""),
    (["optimizer"], "cannot read 'optimizer'", "KEY=VALUE"),
    (["optimizer=[sgd"], "cannot read 'optimizer=[sgd'", "brackets are not closed"),
]


@pytest.mark.parametrize(("words", "said", "way_out"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_one_line_and_nothing_left(cli, words, said, way_out):
    """The line names the value and the way out; exit 2; no folder."""
    code, out, err = cli(*words)
    assert code == 2
    assert err.startswith("runner: ") and err.count("\n") == 1, err
    assert said in err and way_out in err
    assert out == "" and not Path("outputs").exists()


def test_all_bad_combinations_of_a_sweep_are_listed_together(cli):
    """Every complaint with the combinations that it is about, before any run starts."""
    code, out, err = cli("-m", "model=mlp", "optimizer=sgd,adm", "epochs=0,1", "optimizer.lr=-1,0.1")
    assert code == 2 and out == "" and not Path("outputs").exists()
    assert "7 of 8 combinations cannot run; nothing was started" in err
    assert "optimizer=adm: no such option" in err and "did you mean 'adam'?" in err
    assert "epochs=0: must be at least 1" in err and "optimizer.lr=-1: must be above 0" in err
    assert "optimizer=sgd epochs=1 optimizer.lr=-1" in err


def photos(root: Path, classes: dict[str, int]) -> None:
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.jpg")


FOLDER = (
    "data=image_folder",
    "data.root=photos",
    "data.size=16",
    "data.resize=18",
    "batch_size=4",
    "model=mlp",
    "epochs=1",
)


def test_a_missing_folder_and_an_empty_class(cli, tmp_path):
    """Both are named."""
    code, _, err = cli(*FOLDER)
    assert code == 2 and "photos" in err
    photos(tmp_path / "photos", {"cat": 6, "dog": 6})
    (tmp_path / "photos/train/emu").mkdir()
    (tmp_path / "photos/val/emu").mkdir()
    code, _, err = cli(*FOLDER)
    assert code == 2 and "emu" in err and err.count("\n") == 1
    assert not Path("outputs").exists()


def test_a_corrupt_photo_is_named_or_skipped(cli, tmp_path):
    """on_corrupt=error names it; on_corrupt=skip goes on and says how many."""
    photos(tmp_path / "photos", {"cat": 6, "dog": 6})
    broken = tmp_path / "photos/train/cat/3.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    code, _, err = cli(*FOLDER)
    assert code == 2 and "3.jpg" in err and "data.on_corrupt=skip" in err and err.count("\n") == 1
    assert not Path("outputs").exists()
    code, out, _ = cli(*FOLDER, "data.on_corrupt=skip")
    assert code == 0 and "1 image could not be read" in out
    (result,) = Path("outputs/runs").glob("*/result.json")
    assert "3.jpg" in result.read_text()


GOOD = {
    "x_train": np.zeros((40, 8, 8), np.uint8),
    "y_train": np.arange(40) % 4,
    "x_test": np.zeros((8, 8, 8), np.uint8),
    "y_test": np.arange(8) % 4,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_train": None}, "x_train"),
        ({"x_train": np.zeros((40, 8, 8), np.float32)}, "float32"),
        ({"x_train": np.zeros((40, 64), np.uint8)}, "[40, 64]"),
        ({"x_train": np.zeros((39, 8, 8), np.uint8)}, "39"),
        ({"y_train": np.arange(40) / 2}, "y_train"),
        ({"y_train": np.arange(40) - 1}, "-1"),
        ({"y_test": np.arange(8) + 90}, "9"),
    ],
)
def test_arrays_of_wrong_keys_shapes_types_or_labels(cli, tmp_path, change, said):
    """Each says what was found."""
    arrays = {key: value for key, value in (GOOD | change).items() if value is not None}
    np.savez(tmp_path / "mine.npz", **arrays)
    code, out, err = cli("data=arrays", "data.root=mine.npz", "model=mlp", "epochs=1", "batch_size=8")
    assert code == 2 and said in err and err.count("\n") == 1 and out == ""
    assert not Path("outputs").exists()


def test_a_stack_item_that_only_an_experiment_mentions(cli, tmp_path):
    """A key for an item that is not in the stack, left by an experiment's file, is refused."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/half.yaml").write_text(
        "# @package _global_\nregularization:\n  l2:\n    weight: 0.1\n"
    )
    code, _, err = cli("--config-dir", "conf", "experiment=half")
    assert code == 2 and "'l2' is not in the stack" in err
