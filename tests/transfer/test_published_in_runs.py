"""Runs with published weights: torchvision's features, grey images, colour in a network for grey."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runner.build.load import load
from runner.execution.fused.compatible import same_batches
from runner.model import torchvision_model
from runner.store import checkpoint
from runner.transfer.finetune import Finetune
from tests.shared.published import published, theirs
from tests.shared.results import result_of, results_of
from tests.shared.training import make, splits
from tests.shared.transfer import network

# -- as typed -------------------------------------------------------------------------------------------------------

SMALL = ("data=arrays", "data.root=images.npz", "batch_size=8", "log.tensorboard=false", "model=torchvision")
KEPT = ("transfer=last_layer", "model.small_images=false")


def arrays(channels: int, side: int = 32) -> np.ndarray:
    """Writes images.npz, 40 images of noise of two classes, and returns those of the test split."""
    draws = np.random.default_rng(0)
    shape = (side, side) if channels == 1 else (side, side, channels)
    parts = {}
    for part, count in (("train", 24), ("test", 16)):
        parts[f"y_{part}"] = np.arange(count) % 2
        noise = draws.integers(0, 160, (count, *shape))
        parts[f"x_{part}"] = (noise + 90 * parts[f"y_{part}"].reshape(-1, *[1] * len(shape))).astype(np.uint8)
    np.savez("images.npz", **parts)
    return parts["x_test"]


def as_published(images: np.ndarray) -> torch.Tensor:
    """What torchvision's recipe makes of images that are small enough: grey ones by `convert("RGB")`."""
    means, deviations = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    pixels = np.stack([np.asarray(Image.fromarray(image).convert("RGB")) for image in images])
    colors = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (colors - means.view(-1, 1, 1)) / deviations.view(-1, 1, 1)


def only_run(name: str) -> Path:
    """The folder of the only run of that name."""
    (file,) = Path("outputs", name).glob("*/checkpoint.pt")
    return file.parent


def features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What enters the head of a GoogLeNet or a SqueezeNet."""
    with torch.no_grad():
        if hasattr(model, "features"):
            return model.eval().features(images)
        head, model.fc = model.fc, torch.nn.Identity()
        found = model.eval()(images)
        model.fc = head
        return found


def stored(name: str, images: np.ndarray, monkeypatch) -> torch.nn.Module:
    """torchvision's network, whose published file is written."""
    reference = theirs(name, as_published(images), monkeypatch)
    torch.save(published(name, reference.state_dict()), f"{name}.pth")
    return reference


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("squeezenet1_1", 1),
        ("squeezenet1_1", 3),
        pytest.param("googlenet", 1, marks=pytest.mark.slow),
        pytest.param("googlenet", 3, marks=pytest.mark.slow),
    ],
)
def test_a_finished_run_has_torchvisions_features(cli, monkeypatch, name, channels):
    """From the images of the data set, grey or not, to the frozen features of the loaded checkpoint; and those of a run
    that starts from the first one's."""
    images = arrays(channels)
    wanted = features(stored(name, images, monkeypatch), as_published(images))
    words = (*SMALL, *KEPT, f"model.name={name}", "epochs=1")
    code, _, err = cli(*words, f"transfer.weights={name}.pth", "name=first")
    assert (code, err) == (0, "")
    code, _, err = cli(*words, "transfer.weights=outputs/first", "name=second")
    assert (code, err) == (0, "")
    pixels = torch.from_numpy(images[..., None] if channels == 1 else images).permute(0, 3, 1, 2)
    for run in ("first", "second"):
        (network,) = load(only_run(run)).networks
        found = features(network.model, network.normalize(pixels))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-4 * wanted.abs().max().item())
        assert network.model.__dict__.get("transform_input", False) is (name == "googlenet")
        assert (network.inputs.channels, network.inputs.image_channels) == (3, channels)
        result = result_of(Path("outputs", run))
        assert result["transfer"]["adapted"] == {} and result["data"]["channels"] == channels


def test_googlenet_keeps_what_its_run_did_to_images(cli):
    """Random weights: no change of the input, nor in a run that starts from them."""
    with torch.device("meta"):
        model = torchvision_model.build("googlenet", False, in_channels=3, num_classes=2, image_size=32)
    state = model.to_empty(device="cpu").state_dict()
    node = {"_target_": "runner.model.torchvision_model.build", "name": "googlenet"}
    about = {"config": {}, "classes": ["a", "b"], "channels": 3, "size": 32, "mean": [0.4] * 3, "std": [0.2] * 3}
    for told, wanted in (({}, False), ({"transform_input": False}, False), ({"transform_input": True}, True)):
        Path("run").mkdir(exist_ok=True)
        checkpoint.save(Path("run", checkpoint.FILE), {"about": json.dumps(about | told), "members": [state]})
        Finetune("run").load(model, node, ("a", "b"))
        assert model.transform_input is wanted
    torch.save(state, "file.pth")
    Finetune("file.pth").load(model, node, ("a", "b"))
    assert model.transform_input


# -- grey images, and networks of our own ---------------------------------------------------------------------------

TINY = ("data=arrays", "data.root=images.npz", "batch_size=8", "epochs=1", "log.tensorboard=false")
NETS = {
    "convnet": ("model=convnet", "model.channels=[4,4]", "model.hidden=8"),
    "mlp": ("model=mlp", "model.hidden=[8]"),
}


@pytest.mark.parametrize("net", NETS)
def test_grey_images_in_a_network_of_ours_for_color(cli, net):
    """Kept as it is: three channels, its own statistics, the same answers as to three equal channels."""
    arrays(3, 8)
    words = (*TINY, *NETS[net])
    assert cli(*words, "name=color")[0] == 0
    images = torch.from_numpy(arrays(1, 8))[:, None]
    code, _, err = cli(*words, "transfer=last_layer", "transfer.weights=outputs/color", "name=grey")
    assert (code, err) == (0, "")
    (color,), (grey,) = load(only_run("color")).networks, load(only_run("grey")).networks
    assert torch.equal(color.normalize.mean, grey.normalize.mean) and torch.equal(
        color.normalize.std, grey.normalize.std
    )
    first = next(name for name, value in color.model.named_parameters() if value.ndim > 1)
    assert torch.equal(color.model.state_dict()[first], grey.model.state_dict()[first])
    with torch.no_grad():
        for one in (color, grey):
            torch.testing.assert_close(one(images), one(images.expand(-1, 3, -1, -1)))
            torch.testing.assert_close(one(images.float() / 255), one(images), rtol=1e-4, atol=1e-5)
    result = result_of(Path("outputs/grey"))
    assert result["transfer"]["adapted"] == {} and result["data"]["channels"] == 1
    # What is asked of the finished run is what its training found.
    code, _, err = cli("task=evaluate", f"task.checkpoint='{only_run('grey')}'", *TINY[:2], "name=asked")
    assert (code, err) == (0, "")
    assert result_of(Path("outputs/asked"))["test_accuracy"] == result["test_accuracy"]
    # Grey images may be asked of the network for color, too; color of the one for grey may not.
    code, _, err = cli("task=evaluate", f"task.checkpoint='{only_run('color')}'", *TINY[:2], "name=repeated")
    assert (code, err) == (0, "")
    arrays(3, 8)
    code, _, err = cli("task=evaluate", f"task.checkpoint='{only_run('grey')}'", *TINY[:2], "name=refused")
    assert code == 2 and err == "runner: data: images of 3 channels, and the network takes 1\n"


def test_photos_are_grey_to_a_network_trained_on_grey(cli):
    """task=predict turns photos grey, as Pillow does, and then repeats them."""
    arrays(3, 8)
    assert cli(*TINY, *NETS["convnet"], "name=color")[0] == 0
    arrays(1, 8)
    assert cli(*TINY, *NETS["convnet"], "transfer.weights=outputs/color", "name=grey")[0] == 0
    Path("photos").mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save("photos/a.png")
    loaded = load(only_run("grey"))
    grey = torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L")).copy())[None, None]
    wanted = loaded.probabilities(grey)[0].tolist()
    code, _, err = cli("task=predict", f"task.checkpoint='{only_run('grey')}'", "task.images=photos", "name=seen")
    assert (code, err) == (0, "")
    (table,) = Path("outputs/seen").glob("*/predictions.csv")
    assert [float(x) for x in table.read_text().splitlines()[1].split(",")[3:]] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("more", [(), ("augmentation=[flip]",)], ids=["plain", "flip"])
def test_repeated_grey_is_the_same_with_the_cache_and_side_by_side(cli, more):
    """The feature cache and a program of several runs give the numbers of a run alone."""
    arrays(3, 8)
    assert cli(*TINY, *NETS["convnet"], "name=color")[0] == 0
    arrays(1, 8)
    words = (*TINY, *NETS["convnet"], *more, "transfer=last_layer", "transfer.weights=outputs/color", "log.every=3")
    losses = {}
    for name, extra in (("alone", ("transfer.cache=false",)), ("cached", ("transfer.cache=true",))):
        assert cli(*words, *extra, f"name={name}")[0] == 0
        losses[name] = result_of(Path("outputs", name))["test_loss"]
    assert cli("-m", *words, "transfer.cache=false", "seed=0,1,2", "hydra.launcher.fuse=true", "name=fused")[0] == 0
    (fused,) = [result for run, result in results_of(Path("outputs/fused")).items() if "seed=0" in run]
    losses["fused"] = fused["test_loss"]
    assert fused["fused"] == 3
    assert losses["cached"] == pytest.approx(losses["alone"], rel=1e-4)
    assert losses["fused"] == pytest.approx(losses["alone"], rel=1e-4)


def test_grey_images_keep_their_augmentations(cli):
    """What works on grey images works before they are repeated, and pictures of the first batch are drawn."""
    arrays(3, 8)
    assert cli(*TINY, *NETS["convnet"], "name=color")[0] == 0
    arrays(1, 8)
    words = (*TINY[:-1], *NETS["convnet"], "transfer.weights=outputs/color")
    words = (*words, "regularization=[mixup]", "log.tensorboard=true", "log.images=4")
    dull = ("augmentation.color_jitter.saturation=0", "augmentation.color_jitter.hue=0")
    code, _, err = cli(*words, "augmentation=[flip,crop,color_jitter,cutout]", *dull, "name=more")
    assert (code, err) == (0, "")
    events = EventAccumulator(str(only_run("more")), size_guidance={"images": 0}).Reload()
    assert {"train/first_batch", "train/augmentation"} <= set(events.Tags()["images"])
    code, _, err = cli(*words, "augmentation=[grayscale]", "name=none")
    assert code == 2 and "needs 3 channels, and the images have 1" in err
    words = ("task=preview", *TINY[:3], "transfer.weights=outputs/color", *NETS["convnet"], "augmentation=[flip]")
    assert cli(*words, "name=preview")[::2] == (0, "")


def test_color_images_in_a_network_for_grey(tmp_path):
    """The kernel is shared out over the channels: an image of equal channels gets the grey one's answer."""
    grey, state = network(), network().state_dict()
    torch.save(state, tmp_path / "grey.pth")
    color = copy.deepcopy(network(in_channels=3))
    Finetune(str(tmp_path / "grey.pth")).load(color, {}, ("a", "b", "c"))
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(color(images.expand(-1, 3, -1, -1)), grey(images))


def test_runs_of_other_normalization_share_no_batch():
    """One seed and the same images, but the one normalizes as its weights were trained."""
    data = splits()
    runs = [make(data=one) for one in (data, data.normalized_as((0.1,), (0.5,)), data.normalized_as((0.4,), (0.25,)))]
    first, other, same = same_batches(runs).values()
    assert first == same != other
