"""How nets compute while they are trained: it changes little or nothing of what is learned, and none of it stays."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from compress.errors import PassError
from compress.model.denoiser import Denoiser
from compress.passes import distill
from compress.training import TrainingConfig
from compress.training import config as training_config
from compress.training.computing import PRODUCTS, autocast, computing
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, make_context, make_denoiser
from tests.families.dit.models import transformer
from tests.families.unet.test_unet1d import sound  # noqa: F401

MODELS: dict[str, Callable[[], Denoiser]] = {
    "class": partial(make_denoiser, CLASS_CONFIG),
    "text": partial(make_denoiser, TEXT_CONFIG),
    "dit": transformer,
}


def distilled(model: Denoiser, folder: Path, **settings: object) -> dict[str, torch.Tensor]:
    config = distill.Config.model_validate({"steps": 3, "batch_size": 4, "learning_rate": 1e-3, **settings})
    result = distill.run(model, config, make_context(model, folder)).model.net
    assert not any("forward" in vars(module) for module in result.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in result.modules())
    return result.state_dict()


@pytest.mark.parametrize("setting", ["recompute", "compile"])
@pytest.mark.parametrize("kind", MODELS)
def test_weights_are_the_same_however_blocks_run(kind: str, setting: str, tmp_path: Path) -> None:
    plain = distilled(MODELS[kind](), tmp_path / "plain")
    with torch.compiler.set_stance("force_eager"):  # what is compiled, without the minutes of compiling it
        other = distilled(MODELS[kind](), tmp_path / "other", **{setting: True})
    for name, tensor in plain.items():
        torch.testing.assert_close(other[name], tensor, msg=name)
        assert other[name].is_contiguous()


def test_blocks_are_computed_again(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    student = distill.training.student_of(model)
    calls: list[int] = []
    student.net.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with computing([student], TrainingConfig(recompute=True), make_context(model, tmp_path)):
        sample = torch.randn(2, *model.sample_shape)
        student.module(sample, torch.tensor([5, 5]), torch.tensor([1, 2])).sum().backward()
    assert len(calls) == 2


def test_frozen_products_alone_are_cast_and_come_back(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    student = distill.training.student_of(teacher)
    before = {name: tensor.clone() for name, tensor in teacher.net.state_dict().items()}
    with computing([student, teacher], TrainingConfig(precision="bf16"), make_context(teacher, tmp_path)):
        assert all(weight.dtype == torch.float32 for weight in student.net.parameters())
        for module in teacher.net.modules():
            wanted = torch.bfloat16 if isinstance(module, PRODUCTS) else torch.float32
            assert all(weight.dtype == wanted for weight in module.parameters(recurse=False))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.net.state_dict().items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_float_learns(precision: str, tmp_path: Path) -> None:
    plain = distilled(make_denoiser(CLASS_CONFIG), tmp_path / "plain")
    stop = {"every": 2, "images": 8}  # held-out images are asked about in that precision too
    half = distilled(make_denoiser(CLASS_CONFIG), tmp_path / "half", precision=precision, early_stop=stop)
    assert all((half[name] - tensor).abs().max() <= 3e-3 for name, tensor in plain.items())


def test_a_net_that_cannot_recompute_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    student = distill.training.student_of(request.getfixturevalue("sound"))
    with (
        pytest.raises(PassError, match="recompute: a UNet1DModel cannot"),
        computing([student], TrainingConfig(recompute=True), make_context(make_denoiser(CLASS_CONFIG), tmp_path)),
    ):
        pass


@pytest.mark.parametrize("setting", ["recompute", "compile"])
def test_what_has_no_stages_to_run_as_a_whole_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"losses\.attention reads within blocks"):
        distill.Config.model_validate({"losses": {"attention": 1}, setting: True})
    config = TrainingConfig.model_validate({setting: True})
    context = make_context(make_denoiser(CLASS_CONFIG), tmp_path)
    wanted = "compile, recompute and lora are for passes that train a denoiser"
    with pytest.raises(PassError, match=wanted), computing([], config, context):
        pass


def test_compiling_is_left_to_long_runs_on_a_gpu() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    long, short = TrainingConfig(steps=50_000), TrainingConfig(steps=300)
    assert long.compiled(cuda) and not long.compiled(cpu) and not short.compiled(cuda)
    assert TrainingConfig(steps=1, compile=True).compiled(cpu)
    assert not distill.Config.model_validate({"steps": 50_000, "losses": {"attention": 1}}).compiled(cuda)


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [({"avx2"}, None), ({"avx512f", "amx_bf16"}, torch.bfloat16), ({"asimd", "bf16"}, torch.bfloat16), (set(), None)],
    ids=["AVX2", "AMX", "Arm", "unknown"],
)
def test_auto_is_bf16_where_it_is_multiplied_in_hardware(
    flags: set[str], wanted: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_config, "_processor_flags", lambda: flags)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 5) if wanted is None else (8, 0))
    auto = TrainingConfig(precision="auto")
    for device in ("cpu", "cuda"):
        assert auto.arithmetic(torch.device(device)) == wanted
    with autocast(auto, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (wanted or torch.float32)
