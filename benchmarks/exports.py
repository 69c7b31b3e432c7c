# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a lean or exported model costs in accuracy, and how fast it is: bfloat16, int8 weights (torchao), ONNX.

    python -m benchmarks.exports

Accuracy: a small model trained here on the demo's clips, judged on held-out ones. Speed: ViT-B/16. A variant whose package
is not installed is skipped and says so.
"""

import copy
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from modeling_maavt import MAAVTConfig, MAAVTForAudioVisualClassification
from processing import MAAVTProcessor
from processing.data.clip_tables import build_clip_table
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.demo_clips import DemoSettings, write_demo
from processing.video_processing_maavt import MAAVTVideoProcessor
from training.tools.export_onnx import export_onnx

from .workload import build_batch, build_model, for_inference, inputs_of, interleaved, ratio


Inputs = dict[str, torch.Tensor]
NEEDED = {"int8": ("torchao",), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def demo_tensors(folder: str) -> dict[str, tuple[Inputs, torch.Tensor]]:
    """Inputs and labels of the demo's training and test clips."""
    demo = write_demo(Path(folder) / "demo", DemoSettings(num_train=320, num_validation=20, num_test=160))
    extractor = MAAVTFeatureExtractor(num_bins=32, num_frames=48)
    processor = MAAVTProcessor(extractor, MAAVTVideoProcessor(frames_per_clip=4, size={"height": 32, "width": 32}))
    tables, _ = build_clip_table(demo, check="none")
    tensors = {}
    for split in ("train", "test"):
        batch = processor(clips=[row["video"]["path"] for row in tables[split]])
        tensors[split] = ({name: batch[name] for name in NAMES}, torch.tensor(tables[split]["label"]))
    return tensors


NAMES = ("pixel_values_videos", "input_features")


def small_model(inputs: Inputs, labels: torch.Tensor, steps: int = 200) -> MAAVTForAudioVisualClassification:
    """A ViT of 4 blocks and width 192, trained from random weights."""
    torch.manual_seed(0)
    vision = {"model_type": "vit", "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision |= {"intermediate_size": 384, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-6}
    model = MAAVTForAudioVisualClassification(
        MAAVTConfig(vision_config=vision, num_labels=10, contrastive=None, freeze_backbone=False)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        rows = torch.randint(len(labels), (32,))
        loss = model(**{name: value[rows] for name, value in inputs.items()}, labels=labels[rows]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.freeze_backbone()
    return model.eval()


def variants(model: MAAVTForAudioVisualClassification, folder: str, example: Inputs) -> dict[str, Callable]:
    """Functions from inputs to logits."""
    lean = copy.deepcopy(model)
    for module in (lean.maavt.embeddings, lean.maavt.encoder, lean.maavt.layernorm):
        module.bfloat16()
    functions = {
        "float32": lambda inputs: model(**inputs).logits,
        "bfloat16": lambda inputs: lean(**{name: value.bfloat16() for name, value in inputs.items()}).logits,
    }
    if installed("int8"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantized = copy.deepcopy(lean)
        quantize_(quantized.maavt.encoder, Int8WeightOnlyConfig())
        functions["int8"] = lambda inputs: (
            quantized(**{name: value.bfloat16() for name, value in inputs.items()}).logits
        )
    if installed("onnx"):
        import onnxruntime

        path = export_onnx(model, Path(folder) / "model.onnx", example)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        functions["onnx"] = lambda inputs: torch.from_numpy(
            session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})[0]
        )
    return functions


def installed(variant: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in NEEDED[variant])


def measure(clips: int = 4, blocks: int = 4) -> dict[str, float | str]:
    results: dict[str, float | str] = {
        f"exports.{variant}": f"skipped: {', '.join(names)} not installed"
        for variant, names in NEEDED.items()
        if not installed(variant)
    }
    with tempfile.TemporaryDirectory() as folder:
        data = demo_tensors(folder)
        model = small_model(*data["train"])
        inputs, labels = data["test"]
        with torch.inference_mode():
            functions = variants(model, folder, inputs)
            classes = {name: function(inputs).float().argmax(-1) for name, function in functions.items()}
        for name, predicted in classes.items():
            results[f"exports.top1.{name}"] = float((predicted == labels).float().mean())
            results[f"exports.agreement.{name}"] = float((predicted == classes["float32"]).float().mean())
        large = for_inference(build_model(blocks=blocks))
        batch = inputs_of(build_batch(clips))
        with torch.inference_mode():
            functions = variants(large, folder, batch)
            seconds = interleaved({name: lambda f=function: f(batch) for name, function in functions.items()}, 5)
        for name in seconds:
            results[f"exports.speedup.{name}"] = ratio(seconds, "float32", name)
    return results


if __name__ == "__main__":
    print(json.dumps(measure()))
