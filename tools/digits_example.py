# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes examples/digits: the demo's model with its processor, code and card, four test clips, and what was measured.

make demo
python tools/digits_example.py --out examples/digits
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import torch

from modeling_maavt import MAAVTForAudioVisualClassification
from processing import MAAVTProcessor
from processing.data.atomic_writing import atomic_folder
from training.maavt.card import write_card


NUM_CLIPS = 4


def first_clips(folder: Path) -> list[dict]:
    """Rows of the demo's table: the first test clips, each of another digit."""
    with open(folder / "metadata.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    by_digit = {}
    for row in rows:
        by_digit.setdefault(row["label"], row)
    return list(by_digit.values())[:NUM_CLIPS]


@torch.inference_mode()
def figures(folder: Path, clips: list[str]) -> list[dict]:
    """What the model in `folder` says of each clip."""
    model = MAAVTForAudioVisualClassification.from_pretrained(folder).eval()
    processor = MAAVTProcessor.from_pretrained(folder)
    records = []
    for clip in clips:
        outputs = model(**processor(clips=[folder / clip], return_tensors="pt"))
        logits = [round(value, 5) for value in outputs.logits[0].tolist()]
        records.append({"logits": logits, "match_logit": round(outputs.match_logits[0].item(), 5)})
    return records


def write_example(demo: Path, out: Path, name: str) -> None:
    """Writes the folder; `name` is what the card's snippet loads."""
    results = json.loads((demo / "run" / "results.json").read_text(encoding="utf-8"))
    with atomic_folder(out) as temporary:
        shutil.copytree(demo / "run" / "model", temporary, dirs_exist_ok=True)
        (temporary / "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone
        shutil.copy(demo / "run" / "results.json", temporary)
        # Clips are named by their digit; the table says which test clip each one is.
        (temporary / "clips").mkdir()
        records = []
        for row in first_clips(demo / "clips"):
            clip = f"clips/digit_{row['label']}.mp4"
            shutil.copy(demo / "clips" / row["file_name"], temporary / clip)
            records.append({"file_name": clip, "label": row["label"], "test_clip": Path(row["file_name"]).name})
        write_card(temporary, results, name=name, clip=f"{name}/{records[0]['file_name']}")
        for record, measured in zip(records, figures(temporary, [r["file_name"] for r in records]), strict=True):
            record |= measured
        (temporary / "clips.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="folder of `make demo`")
    parser.add_argument("--out", type=Path, default=Path("examples/digits"), help="folder to write anew")
    options = parser.parse_args()
    write_example(options.demo, options.out, "examples/digits")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
