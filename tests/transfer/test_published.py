"""Published weights under their published names: our networks answer as torchvision's own."""

import re
from pathlib import Path

import pytest
import torch
from torchvision import models

from runner.core.errors import ConfigError
from runner.model import torchvision_model
from runner.transfer import read_weights
from runner.transfer.finetune import Finetune
from tests.shared.published import published, theirs

ALL = models.list_models(module=models)

# The smallest member of each family, and the pixels that it can do with.
SMALLEST = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "wide_resnet50_2": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vgg11_bn": 32,
    "vit_b_32": 224,
}


def ours(name: str, source: str, size: int) -> torch.nn.Module:
    """The network with a file's weights; what did not come from the file is NaN."""
    node = {"_target_": "runner.model.torchvision_model.build", "name": name, "small_images": False}
    with torch.device("meta"):
        model = torchvision_model.build(name, False, in_channels=3, num_classes=1000, image_size=size)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    Finetune(source).load(model, node, tuple(map(str, range(1000))))
    return model.eval()


@torch.no_grad()
def agree(name: str, size: int, folder: Path, monkeypatch) -> None:
    """Assert that both networks give the same logits for the same normalized images."""
    images, path = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)), folder / f"{name}.pth"
    reference = theirs(name, images, monkeypatch)
    torch.save(published(name, reference.state_dict()), path)
    try:
        model = ours(name, str(path), size)
    finally:
        path.unlink()
        read_weights._read.cache_clear()  # some are half a gigabyte
    found, wanted = model(images), reference(images)
    assert (wanted[0] - wanted[1]).norm() > 0.003 * wanted.norm()  # the images matter
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("name", SMALLEST)
def test_a_published_file_gives_torchvisions_answers(name, tmp_path, monkeypatch):
    """The smallest member of each family, under the names of its published file."""
    agree(name, SMALLEST[name], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name not in SMALLEST])
def test_every_published_file_gives_torchvisions_answers(name, tmp_path, monkeypatch):
    """All other classifiers, one at a time."""
    sizes = models.get_model_weights(name).DEFAULT
    least = sizes.transforms().crop_size[0] if name.startswith("vit") else max(64, *sizes.meta["min_size"])
    agree(name, least, tmp_path, monkeypatch)


# -- files of another network ---------------------------------------------------------------------------------------


def fits(model: str, state: dict[str, torch.Tensor], folder: Path) -> int:
    """How many tensors of a state come into a network of torchvision."""
    torch.save(state, folder / "other.pth")
    with torch.device("meta"):
        target = torchvision_model.build(model, False, in_channels=3, num_classes=2, image_size=64)
    transfer = Finetune(str(folder / "other.pth"))
    transfer.load(target.to_empty(device="cpu"), {}, ("a", "b"))
    return len(transfer.audit.loaded)


def state_of(name: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
    return model.to_empty(device="cpu").state_dict()


@pytest.mark.parametrize(
    ("model", "file"), [("resnet18", "resnet50"), ("resnet50", "resnet18"), ("resnet50", "wide_resnet50_2")]
)
def test_a_file_of_another_network_is_refused(tmp_path, model, file):
    """Tensors that fit by chance are no transfer; one line, with the way out."""
    with pytest.raises(ConfigError) as caught:
        fits(model, state_of(file), tmp_path)
    assert re.fullmatch(
        r"transfer.weights: \d+ of \d+ kernels of other.pth fit this model, .* of their own", str(caught.value)
    )


def test_a_part_that_is_meant_is_taken(tmp_path):
    """A deeper network of the same kind, a shallower one, and a file of chosen tensors."""
    small, stem = state_of("resnet18"), {}
    assert fits("resnet34", small, tmp_path) > 100
    assert fits("resnet18", state_of("resnet34"), tmp_path) > 100
    stem = {name: value for name, value in state_of("resnet50").items() if name.startswith(("conv1", "bn1"))}
    assert fits("resnet18", stem, tmp_path) == 6


def test_old_names_that_we_do_not_know_are_refused(tmp_path):
    """A DenseNet whose layers have other names: not trained on random weights in silence."""
    state = {name.replace("denselayer", "layer"): value for name, value in state_of("densenet121").items()}
    with pytest.raises(ConfigError, match="of other.pth fit this model"):
        fits("densenet121", state, tmp_path)
