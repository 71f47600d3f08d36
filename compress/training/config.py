"""Settings of training, and what follows from them alone."""

import math
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from compress.contract import Context, PassConfig

LARGEST_BATCH = 65_536
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BF16_CARDS = (8, 0)  # least compute capability
COMPILE_FROM = 5000  # steps that win back on a GPU what compiling takes


class EarlyStop(PassConfig):
    """When to end before the last step."""

    every: int = Field(100, ge=1, description="steps from one held-out probe to the next")
    patience: int = Field(3, ge=1, description="probes without a new best after which training ends")
    images: int = Field(256, ge=1, description="held-out images of a probe")


class TrainingConfig(PassConfig):
    """Settings that every training pass has."""

    together = True
    steps: int = Field(600, ge=1, description="optimizer steps")
    batch_size: int = Field(64, ge=1, le=LARGEST_BATCH, description="images a step, of all processes together")
    accumulate: int = Field(1, ge=1, description="parts that a batch is computed in, for little memory")
    learning_rate: float = Field(4e-4, gt=0, description="peak learning rate of AdamW; decays to 0 by a cosine")
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the weight average, which is the result; 0: none")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        "fp32", description="arithmetic of the forward pass; auto: bf16 where the device multiplies it in hardware"
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit: its two averages a weight take 2 bytes instead of 8 (torchao)"
    )
    recompute: bool = Field(
        False, description="compute activations again for the backward pass: far less memory, a third more time"
    )
    compile: bool | None = Field(
        None,
        description="fuse kernels by torch.compile, which takes minutes at the start; default: on CUDA from "
        f"{COMPILE_FROM} steps on",
    )
    shard: bool = Field(
        False,
        description="split weights, gradients and averages among the processes (FSDP), for nets that one device cannot "
        "hold; with one process nothing is split",
    )
    lora: int | None = Field(
        None,
        ge=1,
        description="train additions of this rank to the weights instead of the weights (LoRA), for little memory; "
        "the result has them added, and the pass's files hold them as lora.safetensors",
    )
    early_stop: EarlyStop | None = Field(
        None, description="end when the losses of held-out images get no better, with the best weights so far"
    )

    @model_validator(mode="after")
    def _parts(self) -> "TrainingConfig":
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch_size: {self.batch_size}")
        if self.lora and self.shard:
            raise ValueError("lora: additions are too small to be split; leave shard away")
        if self.shard and (self.compile or self.precision == "fp16" or self.optimizer != "adamw"):
            raise ValueError("shard: takes no compile, no precision: fp16 and no adamw_8bit; leave it away, or those")
        return self

    def arithmetic(self, device: torch.device) -> torch.dtype | None:
        """Type that products are computed in on this device; None: as weights are, in float32."""
        if self.precision == "auto":
            return torch.bfloat16 if _multiplies_bf16(device) else None
        return TYPES.get(self.precision)

    def compiled(self, device: torch.device) -> bool:
        """Whether nets are compiled on this device."""
        pays = device.type == "cuda" and self.steps >= COMPILE_FROM and not self.shard
        return pays if self.compile is None else self.compile

    def lighter(self, stages: bool) -> str:
        """What to do so that training takes less memory. stages: whether what is trained has some, to compute again."""
        half = 2 * self.accumulate
        ways = {
            "recompute: true": stages and not self.recompute,
            "optimizer: adamw_8bit": self.optimizer == "adamw",
            f"accumulate: {half}": self.batch_size % half == 0,
            "precision: bf16": self.precision in ("fp32", "auto"),
        }
        left = [way for way, is_left in ways.items() if is_left]
        return f"set {' or '.join(left)}" if left else "take a smaller batch_size"


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate at `step`: linear warm-up, then half a cosine to 0."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(config.steps - warmup, 1)))


def say_slow(config: TrainingConfig, context: Context) -> None:
    """Log that bf16 is asked of a processor, or of a card, that computes it piece by piece."""
    if config.precision != "bf16" or _multiplies_bf16(context.device) is not False:
        return
    if context.device.type == "cuda":
        context.log(f"{context.name}: precision: bf16 is slow on this card, which has no bf16 arithmetic; use fp16")
    else:
        context.log(
            f"{context.name}: precision: bf16 is tens of times slower than fp32 on this processor, which has no bf16 "
            "arithmetic; use precision: fp32, or auto"
        )


def _multiplies_bf16(device: torch.device) -> bool | None:
    """Whether bf16 is multiplied in hardware: by tensor cores, AVX-512, AMX or Arm's extension. None: unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= BF16_CARDS
    flags = _processor_flags() if device.type == "cpu" else set()
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}) if flags else None


def _processor_flags() -> set[str]:
    """What Linux says the processor can do; empty where there is no Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":", 1)[-1].split()}
