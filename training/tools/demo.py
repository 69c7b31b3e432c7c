# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo: writes clips of digits, trains a tiny ViT on their frames, freezes it, and fine-tunes MA-AVT on it.

    maavt demo
    maavt demo --quick --out /tmp/demo

Arguments that are not listed go to `train.py`, after `configs/demo.yaml`.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from processing.generate.demo_clips import DemoSettings, write_demo
from training.common.shipped_files import find_config, shipped_file
from training.tools.demo_backbone import BackboneSettings, train_backbone


# enough to see that every part works; the accuracies of such a run mean nothing
QUICK_CLIPS = DemoSettings(num_train=64, num_validation=32, num_test=32)
QUICK_BACKBONE = BackboneSettings(num_steps=20)
QUICK_TRAINING = ["--num_train_epochs", "1"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the three steps. Clips and backbone that are there already are used again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"), help="folder (default: outputs/demo)")
    parser.add_argument("--quick", action="store_true", help="128 clips and one epoch: a check of the installation")
    options, training = parser.parse_known_args(argv)

    clips, backbone = options.out / "clips", options.out / "backbone"
    write_demo(clips, QUICK_CLIPS if options.quick else None)
    measured = train_backbone(clips, backbone, QUICK_BACKBONE if options.quick else None)
    print(f"{backbone}: validation accuracy of single frames {measured['validation_accuracy']:.3f}")

    config = str(find_config("configs/demo.yaml"))
    places = ["--data", str(clips), "--model_name_or_path", str(backbone), "--output_dir", str(options.out / "run")]
    quick = QUICK_TRAINING if options.quick else []
    sys.argv = [sys.argv[0], config, *places, *quick, *training]
    runpy.run_path(str(shipped_file("train.py")))["main"]()


if __name__ == "__main__":
    main()
