# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What starting costs: the import, `maavt --help`, the first prediction, an adapter, the memory to load a checkpoint.

python -m benchmarks.startup
"""

import copy
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .fresh import in_fresh_process, memory_mib


def imports() -> dict[str, float]:
    """Seconds to import PyTorch and Transformers, and then MA-AVT."""
    start = time.perf_counter()
    import torch  # noqa: F401
    from transformers import AutoModel, AutoProcessor, PreTrainedModel, ViTModel  # noqa: F401

    middle = time.perf_counter()
    import modeling_maavt  # noqa: F401

    return {"libraries": middle - start, "maavt": time.perf_counter() - middle}


def first_prediction(folder: str) -> dict[str, float]:
    """Seconds from the start of the imports to the first logits of a clip, with weights from a checkpoint."""
    start = time.perf_counter()
    import torch

    from modeling_maavt import MAAVTForAudioVisualClassification

    model = MAAVTForAudioVisualClassification.from_pretrained(folder, num_labels=309).eval()
    with torch.inference_mode():
        model(pixel_values_videos=torch.zeros(1, 1, 3, 224, 224), input_features=torch.zeros(1, 1, 224, 224))
    return {"startup.first_prediction_seconds": time.perf_counter() - start}


def command_help() -> dict[str, float]:
    """Seconds of `maavt --help`, the fastest of 3; nothing where the command is not installed."""
    command = shutil.which("maavt", path=str(Path(sys.executable).parent)) or shutil.which("maavt")
    if command is None:
        return {}
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return {"startup.help_seconds": min(seconds)}


def write_checkpoint(folder: str) -> dict[str, float]:
    """A ViT-B/16 with random weights, as a stock checkpoint."""
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(layer_norm_eps=1e-6), add_pooling_layer=False).save_pretrained(folder)
    return {}


def load_memory(folder: str) -> dict[str, float]:
    """Peak memory of loading the checkpoint over the size of its file."""
    from modeling_maavt import MAAVTForAudioVisualClassification

    before = memory_mib()
    start = time.perf_counter()
    model = MAAVTForAudioVisualClassification.from_pretrained(
        folder, contrastive=None, token_self_attention=False, num_labels=309
    )
    seconds = time.perf_counter() - start
    # the weights are mapped from the file, and come into memory when they are read
    for weight in model.state_dict().values():
        weight.sum()
    peak = memory_mib(peak=True) - before
    size = sum(weight.nbytes for weight in model.state_dict().values()) / (1 << 20)
    return {"load.peak_over_size": peak / size, "load.seconds": seconds}


def adapter(folder: str) -> dict[str, float]:
    """Seconds to put an exported adapter on a backbone that is loaded: median of 5, each on a fresh copy."""
    from peft import PeftModel, get_peft_model

    from modeling_maavt import MAAVTForAudioVisualClassification, export_adapter, maavt_peft_config

    model = MAAVTForAudioVisualClassification.from_pretrained(folder, num_labels=309)
    exported = Path(folder) / "adapter"
    export_adapter(get_peft_model(model, maavt_peft_config(model)), exported)
    base = MAAVTForAudioVisualClassification.from_pretrained(
        folder, contrastive=None, token_self_attention=False, num_labels=309
    )
    seconds = []
    for _ in range(6):
        target = copy.deepcopy(base)
        start = time.perf_counter()
        PeftModel.from_pretrained(target, exported)
        seconds.append(time.perf_counter() - start)
    return {"adapter.load_seconds": statistics.median(seconds[1:])}


def measure() -> dict[str, float]:
    runs = [in_fresh_process("benchmarks.startup", "imports") for _ in range(4)][1:]
    results = {
        "import.overhead": statistics.median(run["maavt"] / run["libraries"] for run in runs),
        "import.seconds": statistics.median(run["libraries"] + run["maavt"] for run in runs),
    }
    results |= command_help()
    with tempfile.TemporaryDirectory() as folder:
        for part in ("write_checkpoint", "load_memory", "first_prediction", "adapter"):
            results |= in_fresh_process("benchmarks.startup", part, folder)
    return results


PARTS = {part.__name__: part for part in (imports, write_checkpoint, load_memory, first_prediction, adapter)}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
    else:
        print(json.dumps(measure(), indent=1))
