"""Nodes of a config that a stranger might write."""

import functools

COPY = {"src": "MARK.pickle", "dst": "MARK"}  # leaves the mark; Hydra itself refuses os.system
NODE = {"_target_": "shutil.copyfile", **COPY}
RELU = {"_target_": "torch.nn.ReLU"}
CREATED = '${oc.create:"{_target_: shutil.copyfile, src: MARK.pickle, dst: MARK}"}'


def deep(levels):
    return functools.reduce(lambda inner, _: {"a": inner}, range(levels), NODE)


FETCH = "torchvision.models._api.WeightsEnum.get_state_dict"
