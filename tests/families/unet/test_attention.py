"""The lean form of attention is the same function as diffusers' own."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention

from compress.families import FAMILIES
from compress.families.unet.attention import ChannelsFirst, channels_first
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_equals_diffusers(heads: int, bias: bool, residual: bool) -> None:
    torch.manual_seed(0)
    block = Attention(
        12,
        heads=heads,
        dim_head=4,
        norm_num_groups=4,
        bias=bias,
        residual_connection=residual,
        rescale_output_factor=2.0,
    )
    torch.nn.init.normal_(block.group_norm.weight)
    torch.nn.init.normal_(block.group_norm.bias)
    x = torch.randn(2, 12, 5, 7)
    with torch.no_grad():
        wanted = block(x)
        with channels_first(block):
            assert isinstance(block.processor, ChannelsFirst)
            torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-5)
    assert not isinstance(block.processor, ChannelsFirst)


def test_what_it_cannot_do_is_left_alone() -> None:
    net = FAMILIES["UNet2DConditionModel"].build(copy.deepcopy(TEXT_CONFIG))
    cross = Attention(8, cross_attention_dim=6, norm_num_groups=4, residual_connection=True)
    normed = Attention(8, qk_norm="layer_norm", norm_num_groups=4, residual_connection=True)
    narrow = Attention(8, norm_num_groups=4, heads=2, dim_head=4, residual_connection=True)
    narrow.to_v = torch.nn.Linear(8, 4)  # pruned otherwise than queries and keys
    for module in (net, cross, normed, narrow):
        with channels_first(module):
            assert not any(isinstance(getattr(m, "processor", None), ChannelsFirst) for m in module.modules())


def test_blocks_change_back_after_an_error() -> None:
    net = FAMILIES["UNet2DModel"].build(copy.deepcopy(CLASS_CONFIG))
    modules = [path for path, _ in net.named_modules()]
    before = {path: type(m.processor) for path, m in net.named_modules() if isinstance(m, Attention)}
    with pytest.raises(ZeroDivisionError), channels_first(net):
        raise ZeroDivisionError
    assert {path: type(m.processor) for path, m in net.named_modules() if isinstance(m, Attention)} == before
    assert [path for path, _ in net.named_modules()] == modules
    assert ChannelsFirst not in before.values() and before


def test_queries_keys_and_values_share_a_range() -> None:
    torch.manual_seed(0)
    block = Attention(32, heads=2, dim_head=16, norm_num_groups=4, residual_connection=True)
    for layer, size in ((block.to_q, 5.0), (block.to_k, 0.02), (block.to_v, 0.3)):
        torch.nn.init.normal_(layer.weight, std=size)
    seen = {}
    x = torch.randn(4, 32, 8, 8)
    with torch.no_grad(), channels_first(block):
        block.stacked.register_forward_hook(lambda module, inputs, output: seen.update(all=output))
        block(x)
    sizes = torch.stack([part.square().mean().sqrt() for part in seen["all"].chunk(3, dim=1)])
    assert sizes.max() / sizes.min() < 1.1


def test_values_of_zero_stay_zero() -> None:
    block = Attention(8, heads=2, dim_head=4, norm_num_groups=4, residual_connection=True)
    for layer in (block.to_q, block.to_v):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias) if layer.bias is not None else None
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        wanted = block(x)
        with channels_first(block):
            torch.testing.assert_close(block(x), wanted)
