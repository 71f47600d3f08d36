"""Configs of every kind through every pass; `python -m benchmarks.configs` tries many more."""

from pathlib import Path

import pytest

from benchmarks import configs


@pytest.mark.parametrize("seed", [0, 4, 5, 10, 13, 29])
def test_every_pass_gives_a_model_that_runs_reloads_and_exports(seed: int, tmp_path: Path) -> None:
    found = configs.check(seed, tmp_path, export=seed in (5, 10))
    done = [kind for kind, outcome in found.items() if outcome == "changed"]
    assert len(done) >= 7, found
    assert not [outcome for outcome in found.values() if not outcome.startswith(("changed", "idle", "refused: "))]


def test_configs_are_of_every_kind() -> None:
    found = [configs.config(seed) for seed in range(60)]
    for key, least in (("resnet_time_scale_shift", 2), ("class_embed_type", 4), ("attention_head_dim", 4)):
        assert len({config.get(key) for config in found}) >= least, key
    assert any("ResnetDownsampleBlock2D" in config["down_block_types"] for config in found)
    assert any(config.get("use_linear_projection") for config in found)


def test_a_failure_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sceptic's test: a pass that breaks the model does not go unnoticed."""
    from compress.passes import factorize

    true_run = factorize.run

    def broken(model, config, context):  # type: ignore[no-untyped-def]
        result = true_run(model, config, context)
        result.model.net.conv_out.bias.fill_(float("nan"))
        return result

    monkeypatch.setattr(factorize, "run", broken)
    with pytest.raises(AssertionError, match="not finite"):
        configs.check(4, tmp_path, export=False)
