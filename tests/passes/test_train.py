"""A new model is tried before it is trained."""

from pathlib import Path

import pytest
import torch

from compress.errors import PassError
from compress.model.denoiser import Denoiser
from compress.passes import train
from tests.conftest import CLASS_CONFIG, make_context


def built(changes: dict, model: Denoiser, folder: Path) -> Denoiser:
    return train.build(train.Config(model={**CLASS_CONFIG, **changes}), make_context(model, folder))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers_per_block": 2000}, "too large"),
        ({"out_channels": 3}, "channels"),
        ({"sample_size": 7}, "no multiple of 2"),
        ({"norm_eps": -1.0}, "norm_eps"),
        ({"down_block_types": ["No", "Such"]}, "cannot be built"),
    ],
)
def test_a_net_that_cannot_work_is_refused(class_model: Denoiser, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(PassError, match=rf"^pass: model: .*{said}"):
        built(changes, class_model, tmp_path)


def test_weights_depend_on_the_seed_alone(class_model: Denoiser, tmp_path: Path) -> None:
    torch.manual_seed(5)
    one = built({}, class_model, tmp_path).net.state_dict()
    torch.manual_seed(6)
    other = built({}, class_model, tmp_path).net.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
