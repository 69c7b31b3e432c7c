# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo: writes clips of digits, trains a tiny ViT on their frames, freezes it, and fine-tunes MA-AVT on it.

    maavt demo
    maavt demo --quick                      # trains nothing: what such a model says of four clips; on a terminal, its page
    maavt demo --small --out /tmp/demo

Arguments that are not listed go to `train.py`, after `configs/demo.yaml`.
"""

import argparse
import importlib.util
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from training.common.map_pictures import can_draw
from training.common.shipped_files import find_config, shipped_file


EXAMPLE = "examples/digits"  # what an earlier run of this demo has left


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the three steps. Clips and backbone that are there already are used again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder (default: outputs/demo)")
    parser.add_argument(
        "--quick", action="store_true", help="no training: classify and show the clips of examples/digits"
    )
    parser.add_argument("--small", action="store_true", help="128 clips and one epoch: a check that training works")
    options, training = parser.parse_known_args(argv)
    if options.quick:
        folder = shipped_file(EXAMPLE)
        show_example(folder, options.out / "pictures")
        if sys.stdout.isatty() and importlib.util.find_spec("gradio"):
            subprocess.run([sys.executable, "-m", "training.command_line", "page", str(folder)], check=True)
        return
    run_demo(options.out, options.small, training)


def show_example(folder: Path, pictures: Path) -> None:
    """Classifies the clips beside the checkpoint in `folder`, and draws what the model sees where matplotlib is there."""
    from training.maavt.prediction import classify

    clips = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
    drawn = can_draw(pictures)
    files = [folder / clip["file_name"] for clip in clips]
    records = classify(folder, files, top_k=1, pictures=pictures if drawn else None)
    print("clip           digit  predicted  probability  match probability")
    for clip, record in zip(clips, records, strict=True):
        (best,) = record["predictions"]
        name, match = Path(clip["file_name"]).name, record["match_probability"]
        print(f"{name:13} {clip['label']:>6} {best['label']:>10} {best['probability']:12.2f} {match:18.2f}")
    if drawn:
        print(f"What the model sees: {pictures}/*.png")
    print(f"In a browser: maavt page {folder}")


def run_demo(out: Path, small: bool, training: Sequence[str]) -> None:
    """Writes clips, trains the backbone, and runs the recipe with the options `training`."""
    from processing.generate.demo_clips import DemoSettings, write_demo
    from training.tools.demo_backbone import BackboneSettings, train_backbone

    clips, backbone = out / "clips", out / "backbone"
    settings, of_backbone, of_training = DemoSettings(), BackboneSettings(), []
    if small:  # the accuracies of such a run mean nothing
        settings = DemoSettings(num_train=64, num_validation=32, num_test=32)
        of_backbone = BackboneSettings(num_steps=20)
        of_training = ["--num_train_epochs", "1"]
    write_demo(clips, settings)
    measured = train_backbone(clips, backbone, of_backbone)
    print(f"{backbone}: validation accuracy of single frames {measured['validation_accuracy']:.3f}")

    config = str(find_config("configs/demo.yaml"))
    places = ["--data", str(clips), "--model_name_or_path", str(backbone), "--output_dir", str(out / "run")]
    sys.argv = [sys.argv[0], config, *places, *of_training, *training]
    runpy.run_path(str(shipped_file("train.py")))["main"]()


if __name__ == "__main__":
    main()
