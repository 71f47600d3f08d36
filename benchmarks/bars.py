"""The bars that the project holds itself to: names and limits, in one place."""

import sys
from pathlib import Path
from typing import Literal

from compress.files import write_text

Kind = Literal["min", "max"]

BARS: dict[str, tuple[Kind, float]] = {
    "teacher_class_accuracy": ("min", 0.98),
    "classifier_accuracy": ("min", 0.97),
    "edge_macs_ratio": ("max", 0.5),
    "edge_bytes_ratio": ("max", 0.2),
    "edge_call_speedup": ("min", 8.0),
    "edge_class_agreement": ("min", 0.97),
    "edge_gates_held": ("min", 1.0),
    "power_caught": ("min", 0.95),
    "power_blamed": ("min", 0.95),
    "power_false_alarms": ("max", 0.05),
    "digits_structure_macs": ("max", 0.55),
    "digits_structure_frechet_ratio": ("max", 1.15),
    "digits_structure_ssim": ("min", 0.95),
    "digits_slim_params": ("max", 0.4),
    "digits_slim_frechet_ratio": ("max", 1.2),
    "digits_structure_distill_cost": ("max", 1.15),
    "digits_edge_distill_cost": ("max", 1.15),
    "gpu_sd15_eager_cost": ("max", 1.15),
    "gpu_sd15_compiled_cost": ("max", 1.15),
    "gpu_sd15_gigabytes": ("max", 16.0),
    "gpu_sdxl_eager_cost": ("max", 1.15),
    "gpu_sdxl_compiled_cost": ("max", 1.15),
    "gpu_sdxl_gigabytes": ("max", 40.0),
    "gpu_dit_eager_cost": ("max", 1.15),
    "gpu_dit_compiled_cost": ("max", 1.15),
    "emoji_edge_bytes": ("max", 0.25),
    "emoji_edge_image_speedup": ("min", 8.0),
    "emoji_edge_image_speedup_over_onnxruntime": ("min", 3.0),
    "emoji_edge_accuracy_lost": ("max", 0.02),
    "emoji_edge_alignment_lost": ("max", 0.02),
    "flagship_over_pytorch_50": ("min", 400.0),
    "flagship_over_pytorch_1000": ("min", 10_000.0),
    "flagship_over_onnxruntime": ("min", 20.0),
    "flagship_frechet_ratio": ("max", 1.15),
    "flagship_accuracy_lost": ("max", 0.01),
    "adaptive_evaluations_saved": ("min", 0.45),
    "anystep_ssim_lost": ("max", 0.03),
    "anystep_steps_back": ("max", 0.0),
    "int8_auto_over_float": ("max", 1.0),
    "int8_auto_sqnr_db": ("min", 29.0),
    "int8_cifar10_over_float": ("max", 0.35),
    "int8_digits_psnr_db": ("min", 30.0),
    "int8_digits_bytes": ("max", 0.27),
    "int8_trained_gain_db": ("min", 0.0),
    "configs_failed": ("max", 0.0),
    "candidates_misjudged": ("max", 0.0),
    "devices_lost_db": ("max", 1.0),
    "devices_images_psnr": ("min", 30.0),
    "devices_own_psnr": ("min", 80.0),
    "hostile_failed": ("max", 0.0),
    "streaming_growth_mb": ("max", 200.0),
    "streaming_same_batch": ("min", 1.0),
    "peers_digits_1": ("max", 1.0),
    "peers_digits_8": ("max", 1.0),
    "peers_cifar10_1": ("max", 1.0),
    "peers_cifar10_8": ("max", 1.0),
    "peers_text_1": ("max", 1.0),
    "peers_text_8": ("max", 1.0),
    "peers_dit_1": ("max", 1.0),
    "peers_dit_8": ("max", 1.0),
}


def finish(values: dict[str, float]) -> None:
    """Print one line a bar and exit with 1 if any is short."""
    short = False
    for name, value in values.items():
        kind, limit = BARS[name]
        held = value >= limit if kind == "min" else value <= limit
        short |= not held
        print(f"{name}: {value:.4f} (bar: {'≥' if kind == 'min' else '≤'} {limit:g}) {'ok' if held else 'short'}")
    sys.exit(int(short))


def rewrite_between(file: Path, name: str, text: str) -> None:
    """Put `text` between the comments <!-- name --> and <!-- /name --> of a Markdown file."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = file.read_text(encoding="utf-8").partition(begin)
    write_text(file, f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
