# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A bfloat16 training step when tokens enter at block 8 of 12, from states that were kept, beside the usual step.

python -m benchmarks.late_prompts
"""

import argparse
import json

import torch

from .speed import check_equal
from .workload import BATCH, Step, build_batch, build_model, inputs_of, interleaved, median, ratio


def measure(clips: int = BATCH, blocks: int = 12, repeats: int = 5) -> dict[str, float]:
    """`late_prompts.speedup`: against tokens that enter at once; `.from_frames`: without kept states."""
    start = blocks * 2 // 3
    batch = build_batch(clips, dtype=torch.bfloat16)
    model = build_model(torch.bfloat16, blocks=blocks)
    late = build_model(torch.bfloat16, blocks=blocks, prompt_start_layer=start)
    video, audio = late.eval().maavt.block_states(**inputs_of(batch))
    kept = {name: value for name, value in batch.items() if name not in inputs_of(batch)}
    kept |= {"video_block_states": video, "audio_block_states": audio}
    with torch.no_grad():
        difference = check_equal("logits from kept states", late(**kept).logits, late(**batch).logits, 1e-2)
    steps = {
        "usual": Step(model, lambda model: model(**batch).loss),
        "kept": Step(late, lambda model: model(**kept).loss),
        "frames": Step(late, lambda model: model(**batch).loss),
    }
    seconds = interleaved(steps, repeats)
    return {
        "late_prompts.speedup": ratio(seconds, "usual", "kept"),
        "late_prompts.speedup.from_frames": ratio(seconds, "usual", "frames"),
        "late_prompts.seconds": median(seconds["kept"]),
        "late_prompts.mib_per_clip": (video.nbytes + audio.nbytes) / clips / (1 << 20),
        "late_prompts.start_layer": start,
        "equality.late_prompts.logits": difference,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=BATCH)
    parser.add_argument("--blocks", type=int, default=12)
    print(json.dumps(measure(**vars(parser.parse_args()))))
