"""Exported graphs are lean, and compute what the modules compute."""

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from compress.families.unet.attention import channels_first
from compress.model.denoiser import example_inputs, predict
from compress.onnx_graph.export import to_onnx
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, assert_close_db, inputs_for, make_denoiser
from tests.onnx_graph.graphs import kinds, run


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_group_norms_and_attention_are_lean_and_equal(config: dict, batch: int | None) -> None:
    model = make_denoiser(config)
    norms = [m for path, m in model.net.named_modules() if isinstance(m, nn.GroupNorm)]
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    sample, timestep, conditions = inputs_for(model, batch=3)
    names = ["sample", "timestep", *conditions]
    with channels_first(model.net):
        exported = ir.to_proto(to_onnx(model.module, example_inputs(model, 3), names, batch, 20))
    onnx.checker.check_model(exported, full_check=True)
    with torch.no_grad():
        wanted = predict(model, sample, timestep, conditions).numpy()
    feeds = {name: value.numpy() for name, value in conditions.items()}
    got = run(exported, sample=sample.numpy(), timestep=timestep.numpy(), **feeds)[0]
    assert_close_db(wanted, got, 100)
    found = kinds(exported)
    folded = [path for path, _ in model.net.named_modules() if config is CLASS_CONFIG and path.endswith("group_norm")]
    assert found.count("InstanceNormalization") == len(norms)
    assert found.count("BatchNormalization") == len(norms) - len(folded)
    if config is CLASS_CONFIG:
        attention = len(folded)
        assert found.count("MatMul") == 2 * attention  # scores and values; the projections are convolutions
        assert found.count("Shape") <= 1  # of the timesteps, at any batch size
