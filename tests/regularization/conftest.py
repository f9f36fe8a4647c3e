"""Networks for the items of the regularization stack."""

import pytest

from tests.shared.noise_structure import NODES, built


@pytest.fixture(scope="module")
def option_models():
    """The network of every file in conf/model but the two that leave it to the user, on the meta device, for images
    of 96 pixels."""
    return {name: built(node, 96) for name, node in NODES.items()}
