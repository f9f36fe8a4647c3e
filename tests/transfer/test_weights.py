"""Weights that are loaded into a network, and the audit of every tensor."""

import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d

from runner.core.errors import ConfigError
from runner.store import checkpoint
from runner.transfer import read_weights
from runner.transfer.read_weights import read
from runner.transfer.weights import channels
from tests.shared.training import make
from tests.shared.transfer import NET, NORM, finished, network, refusal, saved, values


def test_the_audit_tells_what_became_of_every_tensor(tmp_path):
    """Loaded, of another shape, not in the file, not in the network: each tensor is in one list, and in the values."""
    state = network(classes=5).state_dict()
    del state["hidden.bias"]
    state["extra.weight"] = torch.ones(2)
    run, fresh = make(*NET, saved(tmp_path, state)), values(make(*NET))
    audit, found = run.transfer.audit, values(run)
    assert audit.loaded == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "hidden.weight"}
    assert audit.unfit == {
        "head.weight": "[5, 8] in the file, [3, 8] here",
        "head.bias": "[5] in the file, [3] here",
    }
    assert (audit.missing, audit.unused, audit.adapted) == (["hidden.bias"], ["extra.weight"], {})
    for name, value in found.items():
        assert torch.equal(value, state[name] if name in audit.loaded else fresh[name])
    assert audit.line == (
        "5 tensors from weights.pth; new: head.weight, head.bias, hidden.bias; not used: extra.weight"
    )


def test_the_same_number_of_classes_keeps_a_files_head(tmp_path):
    """A file says nothing of its classes: a head that fits is taken."""
    state = network().state_dict()
    found = values(make(*NET, saved(tmp_path, state)))
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_other_classes_of_a_run_get_a_new_head(tmp_path):
    """A run knows its classes: the rows for others start anew, as many as they are; those for the same ones stay."""
    state, fresh = network().state_dict(), values(make(*NET))
    other = make(*NET, finished(tmp_path / "other", state, ("a", "b", "x")))
    assert other.transfer.audit.unfit == {"head.weight": "other classes", "head.bias": "other classes"}
    assert torch.equal(values(other)["head.weight"], fresh["head.weight"])
    assert torch.equal(values(other)["hidden.weight"], state["hidden.weight"])
    same = make(*NET, finished(tmp_path / "same", state))
    assert torch.equal(values(same)["head.weight"], state["head.weight"]) and not same.transfer.audit.unfit


@pytest.mark.parametrize(("have", "count"), [(3, 1), (1, 3), (3, 4), (3, 2), (3, 6), (4, 3)])
def test_an_adapted_kernel_answers_grey_images_as_before(have, count):
    """Summed to fewer channels, shared out among more: images whose channels are equal get the same answer."""
    draws = torch.Generator().manual_seed(0)
    kernel, grey = torch.randn(5, have, 3, 3, generator=draws), torch.randn(2, 1, 8, 8, generator=draws)
    found = channels(kernel, count)
    assert found.shape == (5, count, 3, 3)
    wanted = conv2d(grey.expand(-1, have, -1, -1), kernel)
    torch.testing.assert_close(conv2d(grey.expand(-1, count, -1, -1), found), wanted)


def test_a_first_layer_is_adapted_and_said_so(tmp_path):
    """Weights for three channels in a network for one."""
    state = network(in_channels=3).state_dict()
    run = make(*NET, saved(tmp_path, state))
    assert run.transfer.audit.adapted == {"conv1.weight": "adapted from 3 channels to 1"}
    assert "conv1.weight adapted from 3 channels to 1" in run.transfer.audit.line
    found = values(run)["conv1.weight"].numpy()
    np.testing.assert_allclose(found, state["conv1.weight"].numpy().sum(1, keepdims=True), rtol=1e-6)


def test_only_the_first_layer_is_adapted(tmp_path):
    """Another width further in is another network: those layers stay new."""
    state = network().state_dict()
    state["conv2.weight"] = torch.zeros(4, 6, 3, 3)
    audit = make(*NET, saved(tmp_path, state)).transfer.audit
    assert audit.unfit == {"conv2.weight": "[4, 6, 3, 3] in the file, [4, 4, 3, 3] here"} and not audit.adapted


def test_tensors_of_the_stack_come_too(tmp_path):
    """The batch norms of a run with `regularization=[batchnorm]` go into those of a run with the same stack."""
    state = values(make(*NET, NORM))
    state["conv1.norm.running_mean"] += 3
    run = make(*NET, NORM, saved(tmp_path, state), "transfer.freeze_depth=1")
    assert run.transfer.audit.unused == [] and "conv1.norm.running_mean" in run.transfer.audit.loaded
    assert torch.equal(values(run)["conv1.norm.running_mean"], state["conv1.norm.running_mean"])
    without = make(*NET, saved(tmp_path, state)).transfer.audit
    assert "conv1.norm.running_mean" in without.unused


@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_wrapped_and_prefixed_files_are_read(tmp_path, wrap):
    """A `state_dict` inside of a training script's checkpoint, the names of `DataParallel`."""
    state = network().state_dict()
    told = {f"module.{name}": value for name, value in state.items()}
    found = values(make(*NET, saved(tmp_path, {wrap: told, "epoch": 3} if wrap else told)))
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_safetensors_are_read(tmp_path):
    """The same tensors come out of a .safetensors file."""
    state = network().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    found = values(make(*NET, f"transfer.weights={tmp_path / 'weights.safetensors'}"))
    assert all(torch.equal(found[name], state[name]) for name in state)


class _Planted:
    def __init__(self, mark: str):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def test_a_pickle_with_code_does_not_run(tmp_path):
    """A file that would run code is refused in a line, and the code is not run."""
    mark = tmp_path / "mark"
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Planted(str(mark))))
    torch.save({"conv1.weight": _Planted(str(mark))}, tmp_path / "zip.pth")
    for name in ("bare.pth", "zip.pth"):
        line = refusal(f"transfer.weights={tmp_path / name}")
        assert "nothing of it was run" in line and name in line and "save the state_dict alone" in line
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path, name, kept):
    """Cut short anywhere, a file is refused in a line that names it."""
    state, path = network().state_dict(), tmp_path / name
    torch.save(state, path) if name.endswith("pth") else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ConfigError, match="damaged") as caught:
        read(str(path), {})
    assert str(caught.value).startswith(f"transfer.weights={path}: ")


def test_files_without_weights_are_refused(tmp_path):
    """Another architecture, no mapping at all, names that do not exist."""
    other = {"layer1.0.conv1.weight": torch.ones(4, 4)}
    line = refusal(saved(tmp_path, other))
    assert "nothing of weights.pth fits this model" in line and "layer1.0.conv1.weight" in line
    assert "conv1.weight" in line and "choose the model" in line
    counter = {"bn1.num_batches_tracked": torch.tensor(5)}  # of every network with such a norm: no weight
    assert "nothing of" in refusal("model=resnet18", saved(tmp_path, counter))
    for state in ([torch.ones(2)], {"epoch": 3}, {}, torch.ones(2)):
        assert "holds no mapping of names to tensors" in refusal(saved(tmp_path, state))
    assert "no such file or folder" in refusal("transfer.weights=nowhere.pth")
    line = refusal("model=squeezenet1_1", "transfer.weights=imagenet_v1", "data.limit=20")
    assert "squeezenet1_1 has the weights default, IMAGENET1K_V1" in line


def test_weights_that_cannot_be_fetched_are_asked_for_once(monkeypatch):
    """Without a network a sweep waits for one attempt, not for one a combination; each is refused."""
    asked = []

    def fetch(url, **options):
        asked.append(url)
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    read_weights._fetched.cache_clear()
    for _ in range(2):
        assert "cannot be fetched (<urlopen error no network>); give the path" in refusal(
            "model=squeezenet1_1", "transfer.weights=default", "data.limit=20"
        )
    read_weights._fetched.cache_clear()
    assert len(asked) == 1


def test_folders_that_are_no_finished_run_are_refused(tmp_path):
    """No run, one that is not finished, an ensemble, several runs; the only run of a folder is taken."""
    state = network().state_dict()
    (tmp_path / "empty").mkdir()
    assert "a folder without checkpoint.pt" in refusal(f"transfer.weights={tmp_path / 'empty'}")
    assert "not finished" in refusal(finished(tmp_path / "open", state, members=[]))
    assert "an ensemble of 2 networks" in refusal(finished(tmp_path / "two", state, members=[state, state]))
    finished(tmp_path / "runs" / "only", state)
    folder = f"transfer.weights={tmp_path / 'runs'}"
    assert torch.equal(values(make(*NET, folder))["hidden.weight"], state["hidden.weight"])
    finished(tmp_path / "runs" / "second", state)
    line = refusal(folder)
    assert "2 runs are in this folder" in line and f"\"transfer.weights='{tmp_path / 'runs' / 'only'}'\"" in line


def test_the_checkpoint_of_a_run_is_as_good_as_its_folder(tmp_path):
    """Named as a file, it is read as the run that it is, checksum and all."""
    finished(tmp_path / "run", network().state_dict())
    path = tmp_path / "run" / checkpoint.FILE
    assert read(str(path), {}).classes == ("a", "b", "c")
    assert read(str(path), {}).digest == read(str(path.parent), {}).digest
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "checksum" in refusal(f"transfer.weights={path.parent}")
