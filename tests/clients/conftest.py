# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of both systems in folders, as a user downloads them, and one process without this package that calls them."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_deepavfusion
import tiny_models
import torch
from clip_factory import write_numbered
from toy_run import write_clips
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import logging as transformers_logging

from modeling_deepavfusion import DeepAVFusionForAudioVisualClassification
from processing import (
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    MAAVTFeatureExtractor,
    MAAVTProcessor,
    MAAVTVideoProcessor,
)


CLASSES = ["blue", "green", "red"]
SIZE = {"height": 32, "width": 32}


def save_maavt(folder: Path, **config) -> None:
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    tiny_models.tiny_model(num_labels=3, **labels, **config).save_pretrained(folder)
    processor = MAAVTProcessor(
        MAAVTFeatureExtractor(num_bins=32, num_frames=48), MAAVTVideoProcessor(size=SIZE, frames_per_clip=2)
    )
    processor.save_pretrained(folder)


def save_deepavfusion(folder: Path) -> None:
    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "num_mel_bins": 16,
        "audio_num_frames": 16,
        "audio_mask_ratio": 0.5,
        "num_labels": 3,
    }
    model = tiny_deepavfusion.tiny_model(DeepAVFusionForAudioVisualClassification, **sizes)
    model.config.id2label = dict(enumerate(CLASSES))
    model.config.label2id = {name: i for i, name in enumerate(CLASSES)}
    model.save_pretrained(folder)
    extractor = DeepAVFusionFeatureExtractor(
        segment_seconds=0.5, n_fft=512, win_length=512, hop_length=500, num_bins=16, num_frames=16
    )
    DeepAVFusionProcessor(extractor, DeepAVFusionVideoProcessor(size=SIZE)).save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> SimpleNamespace:
    """`maavt`, `multi_label`, `deepavfusion`: saved models with their processors; `clips`: mp4 files; `root`."""
    root = tmp_path_factory.mktemp("clients")
    save_maavt(root / "maavt")
    save_maavt(root / "multi_label", problem_type="multi_label_classification")
    save_deepavfusion(root / "deepavfusion")
    write_clips(root / "data")
    write_numbered(root / "silent.mp4", seconds=0.5, sound=False)
    clips = sorted((root / "data" / "clips").glob("*.mp4"))
    paths = {name: root / name for name in ("maavt", "multi_label", "deepavfusion")}
    return SimpleNamespace(root=root, clips=clips, **paths)


@pytest.fixture(scope="session")
def answers(folders) -> dict:
    """What each function of first_calls.py returned in a process that cannot import this package, or its error."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("HF_")}
    clean |= {"HF_MODULES_CACHE": str(folders.root / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("first_calls.py")
    output = folders.root / "answers.json"
    command = [sys.executable, "-I", str(script), str(folders.root), str(output)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=240, cwd=folders.root)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.fixture
def warned(caplog):
    """The warnings of transformers, each as if it were the first."""
    logging.getLogger("transformers").propagate = True
    transformers_logging.warning_once.cache_clear()
    return caplog


@pytest.fixture(scope="session")
def remote():
    """`remote(folder)`: the classifier of a saved folder, by the code in that folder, whatever this process has imported."""

    def load(folder: Path, **kwargs) -> torch.nn.Module:
        reference = json.loads((Path(folder) / "config.json").read_text())["auto_map"][
            "AutoModelForVideoClassification"
        ]
        model_class = get_class_from_dynamic_module(reference, str(folder))
        model_class.register_for_auto_class("AutoModelForVideoClassification")
        return model_class.from_pretrained(folder, **kwargs)

    return load
