# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What starting costs: the import, an adapter on a loaded backbone, the memory that loading a checkpoint takes.

python -m benchmarks.startup
"""

import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from .fresh import in_fresh_process, memory_mib


def imports() -> dict[str, float]:
    """Seconds of the imports that everybody pays, and of ours after them."""
    start = time.perf_counter()
    import torch  # noqa: F401
    from transformers import AutoModel, AutoProcessor, PreTrainedModel, ViTModel  # noqa: F401

    middle = time.perf_counter()
    import modeling_maavt  # noqa: F401

    return {"theirs": middle - start, "ours": time.perf_counter() - middle}


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
    for (
        value
    ) in model.state_dict().values():  # weights are mapped from the file: they are in memory once they are read
        value.sum()
    peak = memory_mib(peak=True) - before
    size = sum(value.nbytes for value in model.state_dict().values()) / (1 << 20)
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
    taken = [in_fresh_process(__spec__.name, "imports") for _ in range(6)][1:]
    results = {
        "import.overhead": statistics.median(one["ours"] / one["theirs"] for one in taken),
        "import.seconds": statistics.median(one["theirs"] + one["ours"] for one in taken),
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in ("write_checkpoint", "load_memory", "adapter"):
            results |= in_fresh_process(__spec__.name, part, folder)
    return results


PARTS = {part.__name__: part for part in (imports, write_checkpoint, load_memory, adapter)}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
    else:
        print(json.dumps(measure(), indent=1))
