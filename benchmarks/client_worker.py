"""One client draws from a bundle's folder: `python client_worker.py CLIENT FOLDER WORK` in the client's environment.

WORK holds noise.npy and asked.json (prompt, steps, guidance_scale); pictures [n,h,w,c] in
[0, 1] go to WORK/CLIENT.npy.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np


def optimum(folder: Path, _work: Path, noise: np.ndarray, asked: dict[str, Any]) -> np.ndarray:
    """ORTStableDiffusionPipeline reads the folder as it is."""
    import torch
    from optimum.onnxruntime import ORTStableDiffusionPipeline

    pipeline = ORTStableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pictures = [
        pipeline(
            asked["prompt"],
            num_inference_steps=asked["steps"],
            guidance_scale=asked["guidance_scale"],
            latents=torch.from_numpy(values[None]),
            output_type="np",
        ).images
        for values in noise
    ]
    return np.concatenate(pictures)


def openvino_genai(folder: Path, work: Path, noise: np.ndarray, asked: dict[str, Any]) -> np.ndarray:
    """Text2ImagePipeline, after OpenVINO's own conversion of every graph and of the tokenizer."""
    import openvino
    import openvino_genai as genai
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    converted = work / "converted"
    shutil.copytree(folder, converted, dirs_exist_ok=True)
    for part in ("unet", "text_encoder", "vae_decoder"):
        model = openvino.convert_model(folder / part / "model.onnx")
        openvino.save_model(model, converted / part / "openvino_model.xml", compress_to_fp16=False)
    tokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(folder / "tokenizer"), with_detokenizer=False)
    openvino.save_model(tokenizer, converted / "tokenizer" / "openvino_tokenizer.xml")
    pipeline = genai.Text2ImagePipeline(converted, "CPU", INFERENCE_PRECISION_HINT="f32")

    class Given(genai.Generator):
        def __init__(self, values: np.ndarray) -> None:
            super().__init__()
            self.values = values

        def next(self) -> float:
            raise AssertionError("noise is asked for as a whole")

        def randn_tensor(self, shape: Any) -> Any:
            return openvino.Tensor(self.values.reshape(list(shape)))

    size = json.loads((folder / "bundle.json").read_text())["decoder"]["pixels"]
    pictures = []
    for values in noise:
        drawn = pipeline.generate(
            asked["prompt"],
            height=size[1],
            width=size[2],
            num_inference_steps=asked["steps"],
            guidance_scale=asked["guidance_scale"],
            generator=Given(values[None]),
        )
        pictures.append(np.asarray(drawn.data)[0] / 255)
    return np.stack(pictures)


if __name__ == "__main__":
    client, folder, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    found = globals()[client](folder, work, np.load(work / "noise.npy"), json.loads((work / "asked.json").read_text()))
    np.save(work / f"{client}.npy", found)
