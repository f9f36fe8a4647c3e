"""From config to objects: every complaint in its words, what a `_target_` may name, the rehearsal."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from runner.build.check import check
from runner.build.complaints import Refused
from runner.core.devices import cores, threads
from runner.core.errors import ConfigError
from runner.core.schema import STACKS
from runner.core.targets import locate
from runner.core.text import shown
from runner.task.resources import Resources
from tests.shared.configs import composed

FEW = ("data.limit=200",)
TRUSTED = "runner, torch.optim, torch.nn, torchvision.models, torchvision.transforms, torchvision.ops"
OWN = ("model=custom", "trust=[tests]")


def complaints(*overrides):
    """The lines that `check`, or else the rehearsal, has about a combination."""
    try:
        Resources().preflight(check(composed(*overrides)))
    except Refused as error:
        return error.lines
    except ConfigError as error:
        return [str(error)]
    return []


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("seed=-1", "seed=-1: must be at least 0"),
        ("seed=1.5", "seed=1.5: must be a whole number"),
        ("epochs=0", "epochs=0: must be at least 1"),
        ("epochs=null", "epochs=null: must be a whole number"),
        ("batch_size=x", "batch_size=x: must be a whole number"),
        ("accumulate=true", "accumulate=true: must be a number, not true"),
        ("lr_scale=0", "lr_scale=0: must be above 0"),
        ("lr_scale=inf", "lr_scale=inf: must be a finite number"),
        ("device=gpu", "device=gpu: must be auto, cpu, cuda, cuda:N or mps"),
        ("precision=fp8", "precision=fp8: must be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("threads=0", "threads=0: must be 'auto' or must be at least 1"),
        ("compile=3", "compile=3: must be 'auto' or must be true or false"),
        ("clip_grad_norm=0", "clip_grad_norm=0: must be above 0"),
        ("name=a/../b", "name=a/../b: must be a folder name: letters, digits and . _ - + = (a / nests it)"),
        ("early_stopping=3", "early_stopping=3: has keys of its own: type them one by one"),
        ("early_stopping.patience=1.5", "early_stopping.patience=1.5: must be a whole number"),
        ("checkpoint.select=bst", "checkpoint.select=bst: must be 'auto', 'best' or 'last'"),
        ("+bogus=1", "bogus: no such key"),
        ("+epoch=1", "epoch: no such key; did you mean 'epochs'?"),
        ("trust=os", "trust=os: must be a list, [A,B]"),
        ("data.limit=0", "data.limit=0: must be at least 1"),
        ("data.val_fraction=1", "data.val_fraction=1: must be below 1"),
        ("data.classes=3", "data.classes=3: must be a list, [A,B]"),
        ("optimizer.lr=abc", "optimizer.lr=abc: must be a number"),
        ("optimizer.lr=true", "optimizer.lr=true: must be a number, not true"),
        ("optimizer.lr=-1", "optimizer.lr=-1: must be above 0"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: has too few values"),
        ("optimizer.betas=[0.9,2]", "optimizer.betas=2: must be below 1"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1: must be at least 0"),
        ("optimizer=sgd +optimizer.foreach=3", "optimizer.foreach=3: must be true or false"),
        ("model.hidden=2.5", "model.hidden=2.5: must be a whole number"),
        ("model.channels=3", "model.channels=3: must be a list, [A,B]"),
        ("model.channels=[3,x]", "model.channels=[3,x]: must be a whole number"),
        ("+model.wdith=3", "model.wdith=3: no such key; it has channels, hidden"),
        ("+model.chanels=[3]", "model.chanels=[3]: no such key; it has channels, hidden; did you mean 'channels'?"),
        ("schedule.floor=x", "schedule.floor=x: must be a number"),
        (
            "model._target_=null",
            "model._target_ is missing: give the dotted path of a class, model._target_=PACKAGE.CLASS",
        ),
        (
            "+regularization.dropout.p=0.1",
            "regularization.dropout: 'dropout' is not in the stack; add it ('regularization=[dropout]') "
            "or leave its keys out",
        ),
    ],
)
def test_complaints(words, line):
    """A wrong value or key is answered by one line: the key, the value as typed, what is allowed."""
    assert complaints(*words.split()) == [line]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer.lr=null",), "optimizer.lr=null: must be a number"),
        (("~optimizer.lr",), "optimizer.lr is missing: optimizer.lr=VALUE"),
    ],
)
def test_a_rate_is_needed(words, line):
    """An optimizer without a rate is refused in the user's words."""
    assert complaints(*FEW, *words) == [line]


def test_a_key_of_a_part_has_a_neighbour():
    """A slip in a key below `log` is answered with the key meant."""
    assert complaints("+log.evry=1") == ["log.evry: no such key; did you mean 'every'?"]


def test_all_complaints_at_once():
    """Everything wrong with a combination is said together, in the order of the schema."""
    assert complaints("seed=1.5", "epochs=0", "checkpoint.select=bst", "optimizer.lr=-1", "data.limit=x") == [
        "seed=1.5: must be a whole number",
        "epochs=0: must be at least 1",
        "checkpoint.select=bst: must be 'auto', 'best' or 'last'",
        "data.limit=x: must be a whole number",
        "optimizer.lr=-1: must be above 0",
    ]
    stack = ("regularization=[dropout,l2]", "regularization.dropout.p=x", "+regularization.l2.wait=1")
    assert complaints(*stack, "+model.a=1", "model.hidden=x") == [
        "model.hidden=x: must be a whole number",
        "model.a=1: no such key; it has channels, hidden",
        "regularization.dropout.p=x: must be a number",
        "regularization.l2.wait=1: no such key; it has weight; did you mean 'weight'?",
    ]


def test_refused_is_a_config_error_with_lines():
    """`Refused` carries its lines and, as one text, joins them."""
    error = Refused(["a", "b"])
    assert isinstance(error, ConfigError) and (str(error), error.lines) == ("a; b", ["a", "b"])


def test_values_become_exact():
    """Whole numbers typed for real ones become real, so that `lr=1` and `lr=1.0` are one run."""
    config = check(composed("optimizer.lr=1", "lr_scale=2", "name=2024"))
    assert [type(v) for v in (config["optimizer"]["lr"], config["lr_scale"], config["name"])] == [float, float, str]
    assert config == check(composed("optimizer.lr=1.0", "lr_scale=2.0", "name='2024'"))
    assert check(config) == config


def test_checking_keeps_the_order_of_stacks():
    """The order typed is the order checked: it is part of what a stack does."""
    for names in (["dropout", "l2"], ["l2", "dropout"]):
        assert list(check(composed(f"regularization=[{','.join(names)}]"))["regularization"]) == names
    assert set(STACKS) == {"regularization", "augmentation"}


def test_shown():
    """Values are shown as they are typed."""
    assert shown([None, True, 0.5, "a"]) == "[null,true,0.5,a]"


# -- trust ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "torch.load",
        "torch.hub.load",
        "subprocess.run",
        "torchvision.io.x",
    ],
)
def test_packages_that_are_not_trusted(target):
    """A `_target_` outside the trusted packages is refused by its name, before anything is imported."""
    first = target.partition(".")[0]
    assert complaints(f"model._target_={target}") == [
        f"model._target_={target}: not from a trusted package ({TRUSTED}); if you trust it, add trust=[{first}]"
    ]


@pytest.mark.parametrize(
    ("target", "home"),
    [
        ("runner.build.data.json.loads", "json"),
        ("runner.store.files.os.system", "posix"),
        ("runner.core.targets.pkgutil.resolve_name", "pkgutil"),
        ("runner.store.checkpoint.torch.load", "torch.serialization"),
        ("torch.nn.functional.torch.hub.load", "torch.hub"),
        ("runner.model.mlp", "builtins"),
    ],
)
def test_ways_out_of_trusted_packages(target, home):
    """A path that begins in a trusted package and leads elsewhere, or to no class, is refused."""
    assert complaints(f"model._target_={target}") == [
        f"model._target_={target}: leads to {home}, which is not from a trusted package"
    ]


@pytest.mark.parametrize(
    ("group", "target", "keys"),
    [
        ("transfer", "runner.store.files.write_atomic", {"path": "PATH", "write": "x"}),
        ("evaluation", "runner.store.files.write_json", {"path": "PATH", "value": "x"}),
        ("ensemble", "runner.store.checkpoint.save", {"path": "PATH", "state": {"a": 1}}),
        ("task", "runner.__main__.main", {"argv": ["hydra.run.dir=PATH"]}),
    ],
)
def test_helpers_are_no_options(tmp_path, group, target, keys):
    """The runner's own helpers are no options: a config that names one is refused and writes nothing."""
    config = composed(*FEW)
    path = str(tmp_path / "written")
    config[group] = {"_target_": target} | {k: path if v == "PATH" else v for k, v in keys.items()}
    with pytest.raises(ConfigError, match=f"{group}._target_={target}"):
        Resources().preflight(check(config))
    assert not list(tmp_path.iterdir())


def test_inner_targets_are_looked_at():
    """A `_target_` at any depth of a node, in mappings and lists, has to be trusted too."""
    assert "model.inner._target_=os.system: not from" in complaints("+model.inner._target_=os.system")[0]
    config = composed()
    config["model"]["channels"] = [{"deep": [{"_target_": "os.system"}]}]
    with pytest.raises(Refused, match=r"^model.channels.0.deep.0._target_=os.system: not from a trusted package"):
        check(config)


def test_a_target_that_is_not_there():
    """A trusted path without an object is refused with the reason."""
    assert complaints("model._target_=torch.nn.Nope") == [
        "model._target_=torch.nn.Nope: cannot be imported (module 'torch.nn' has no attribute 'Nope')"
    ]
    assert complaints("model._target_=runner.nope.Thing") == [
        "model._target_=runner.nope.Thing: cannot be imported (module 'runner' has no attribute 'nope')"
    ]


def test_prefixes_are_whole_words():
    """`runner_x` is not `runner`."""
    with pytest.raises(ConfigError, match="not from a trusted package"):
        locate("model", "runners.Thing", [])


def test_trust_opens_a_package(tmp_path: Path, monkeypatch):
    """A package of the user's own is refused until `trust` names it; then its network is built and rehearsed."""
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, width: int, num_classes: int):\n"
        "        super().__init__(nn.Flatten(), nn.LazyLinear(width) if width < 0 else nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = (*FEW, "model=custom", "model._target_=my_nets.Net", "+model.width=3")
    assert complaints(*words) == [
        f"model._target_=my_nets.Net: not from a trusted package ({TRUSTED}); if you trust it, add trust=[my_nets]"
    ]
    assert "my_nets" not in sys.modules
    assert complaints(*words, "trust=[my_nets]") == []
    assert complaints(*words, "trust=[my_nets]", "model.width=x") == ["model.width=x: must be a whole number"]
    sys.modules.pop("my_nets")


# -- networks of one's own, for the rehearsal -----------------------------------------------------------------------


class Plain(nn.Sequential):
    """Takes what it needs of what the builder gives."""

    def __init__(self, image_size: int, outputs: int = 10):
        super().__init__(nn.Flatten(), nn.Linear(image_size**2, outputs))


class Stubborn(Plain):
    """Reads a value while it is made, which the meta device does not have."""

    def __init__(self, image_size: int):
        super().__init__(image_size)
        with torch.no_grad():
            self[1].weight.mul_(1 / self[1].weight.abs().max().item())


class StubbornForward(Plain):
    """Reads a value while it runs."""

    def forward(self, x):
        return super().forward(x) * (1 if x.sum().item() == 0 else 2)


class WrongSize(Plain):
    """Its shapes do not fit."""

    def __init__(self):
        super().__init__(image_size=9)


@pytest.mark.parametrize("model", ["mlp", "convnet", "resnet20", "mobilenet_v3_small"])
def test_rehearsal_counts_the_real_parameters(model):
    """The count from the meta device is that of the network that is trained, and no real memory is taken for it."""
    config = check(composed(*FEW, f"model={model}", "batch_size=16"))
    builder = Resources()
    facts = builder.preflight(config)
    splits = builder.splits(config)
    real = builder.parts(config, splits, torch.device("cpu"), None).model
    assert facts.parameters == facts.trainable == sum(p.numel() for p in real.parameters())
    assert (facts.train_size, facts.steps) == (180, 20 * (180 // 16)) and facts.identity == splits.identity
    assert all(not p.is_meta for p in real.parameters())


def test_rehearsal_counts_operations():
    """The forward pass of one image through an MLP takes two operations a weight."""
    facts = Resources().preflight(check(composed(*FEW, "model=mlp", "model.hidden=[12]")))
    assert facts.flops == 2 * (64 * 12 + 12 * 10)


@pytest.mark.parametrize("name", ["Plain", "Stubborn", "StubbornForward"])
def test_networks_that_cannot_be_on_the_meta_device(name):
    """A network that reads values while it is made, or while it runs, is rehearsed on the CPU."""
    config = check(composed(*FEW, *OWN, f"model._target_=tests.build.test_check.{name}"))
    assert Resources().preflight(config).parameters == 650


def test_logits_of_the_wrong_shape():
    """A network with another number of outputs than classes is refused."""
    assert complaints(*FEW, *OWN, "model._target_=tests.build.test_check.Plain", "+model.outputs=7") == [
        "model: gives (2, 7) for 2 images, not (2, 10), a logit for each class"
    ]


def test_a_network_that_does_not_fit_the_images():
    """Shapes that do not fit are one line."""
    (line,) = complaints(*FEW, *OWN, "model._target_=tests.build.test_check.WrongSize")
    assert line.startswith("this combination cannot be built: ") and "\n" not in line


def test_rehearsal_leaves_torchs_generator_alone():
    """Rehearsing, on the meta device or the CPU, draws nothing from the global generator."""
    for words in (("model=mlp",), (*OWN, "model._target_=tests.build.test_check.Stubborn")):
        config = check(composed(*FEW, *words))
        state = torch.get_rng_state()
        Resources().preflight(config)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ("batch_size=500",),
            ["batch_size=500: larger than the training split of 180 images; use batch_size=180 or less"],
        ),
        (("batch_size=500", "optimizer.full_batch=true"), []),
        (
            ("accumulate=65",),
            ["accumulate=65: more micro-batches than images (batch_size=64)"],
        ),
        (
            ("data.val_fraction=0", "checkpoint.select=best", "early_stopping.patience=2"),
            [
                "checkpoint.select=best needs validation data, and data.val_fraction is 0",
                "early_stopping.patience=2 needs validation data, and data.val_fraction is 0",
            ],
        ),
        (("data.val_fraction=0",), []),
        (("data.size=5",), ["data.size=5: data=digits has no use for it; leave it out"]),
        (
            ("data.resize=50", "data.size=60"),
            ["data.size=60 is larger than data.resize=50, of which it is a cut"],
        ),
        (
            ("model.channels=[4,4,4,4]",),
            [
                "model.channels=[4, 4, 4, 4] halves the image 4 times and needs at least 16 pixels a side, not 8: "
                "give fewer channels or larger images"
            ],
        ),
        (("schedule=cosine", "schedule.warmup=30"), ["schedule.warmup=30: 60 steps of a run of 40; make it shorter"]),
    ],
)
def test_combinations_that_cannot_work(words, lines):
    """What only the combination shows is refused before anything runs, with the way out."""
    assert complaints(*FEW, *words) == lines


def test_device_that_is_not_here(monkeypatch):
    """A GPU that is not there is refused; `auto` takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert complaints("device=cuda:1") == ["device=cuda:1: no CUDA device is here; use device=auto or device=cpu"]
    assert complaints(*FEW, "device=auto") == []


# -- objects --------------------------------------------------------------------------------------------------------


def test_weights_depend_on_the_seed_only():
    """Networks of one seed start alike whatever was drawn before or is configured beside; other seeds differ."""
    builder = Resources()
    found = []
    for words in (("seed=3",), ("seed=3", "optimizer=sgd", "regularization=[dropout]"), ("seed=4",)):
        config = check(composed(*FEW, "model=mlp", *words))
        torch.manual_seed(len(found))
        parts = builder.parts(config, builder.splits(config), torch.device("cpu"), torch.Generator())
        found.append(parts.model.head.weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_optimizer_gets_its_keys_and_scaled_rate():
    """lr_scale multiplies the option's rate; no_decay spares vectors; other keys reach torch's class."""
    words = ("optimizer=adamw", "optimizer.lr=0.01", "lr_scale=3", "optimizer.betas=[0.8,0.9]")
    for no_decay in (True, False):
        config = check(composed(*FEW, "model=mlp", *words, f"optimizer.no_decay={str(no_decay).lower()}"))
        builder = Resources()
        parts = builder.parts(config, builder.splits(config), torch.device("cpu"), None)
        assert type(parts.optimizer) is torch.optim.AdamW
        for group in parts.optimizer.param_groups:
            assert group["lr"] == pytest.approx(0.03) and tuple(group["betas"]) == (0.8, 0.9)
            vectors = all(p.ndim == 1 for p in group["params"])
            assert group["weight_decay"] == (0.0 if no_decay and vectors else 0.01)
        assert len(parts.optimizer.param_groups) == (2 if no_decay else 1)
        assert config["optimizer"]["lr"] == 0.01  # building leaves the config as it is


def test_data_is_loaded_once():
    """Configs that share their data share its splits; another cut is another split of the same images."""
    builder = Resources()
    first, same, other = (
        builder.splits(check(composed(*words))) for words in ((), ("seed=5", "model=mlp"), ("data.split_seed=1",))
    )
    assert first is same and other is not first
    assert other.test is first.test


def test_threads():
    """`auto` is one thread for small steps, a run's share of the cores for large ones; a number is that number."""
    builder = Resources()
    for words, expected in (
        (("model=mlp",), 1),
        (("threads=3", "model=mlp"), 3),
    ):
        config = check(composed(*FEW, *words))
        assert threads(config, builder.preflight(config).flops, 1) == expected
    config = check(composed(*FEW, "model=resnet56"))
    facts = builder.preflight(config)
    shares = [threads(config, facts.flops, at_once) for at_once in (0, 1, 2, 1000)]
    assert shares == [cores(), cores(), max(1, cores() // 2), 1]


class TinyTransformer(nn.Module):
    """Rows of pixels as tokens."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int):
        super().__init__()
        self.enter = nn.Linear(in_channels * image_size, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.leave = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.layer(self.enter(x.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize(
    "words",
    [
        ("model=mlp",),
        ("model=convnet",),
        ("model=resnet20",),
        (*OWN, "model._target_=tests.build.test_check.TinyTransformer"),
    ],
)
def test_small_networks_count_alike_on_real_numbers(words, monkeypatch):
    """The rehearsal counts the operations of a network that is too large for numbers, by shapes alone."""
    config = check(composed(*words, *FEW))
    real = Resources().preflight(config)
    monkeypatch.setattr("runner.task.preflight.SMALL", 0)
    shapes = Resources().preflight(config)
    assert real == shapes and real.flops > 0
