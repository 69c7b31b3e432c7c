# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""mteb's video classification on a task made of local clips, through the encoder of training/tools/mteb_encoder.py."""

import pytest
import torch
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Video


mteb = pytest.importorskip("mteb", reason="mteb is not installed: pip install '.[mteb]'")
from mteb.abstasks.classification import AbsTaskClassification  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from transformers import AutoModel, AutoProcessor  # noqa: E402

from processing.clip_decoders import torchcodec_decoders  # noqa: E402
from training.tools.mteb_encoder import MtebEncoder  # noqa: E402


pytestmark = pytest.mark.skipif(torchcodec_decoders() is None, reason="torchcodec does not load: mteb decodes with it")

METADATA = {
    "description": "Clips whose class shows in color and pitch.",
    "reference": None,
    "type": "VideoClassification",
    "eval_splits": ["test"],
    "eval_langs": ["zxx-Zxxx"],
    "main_score": "accuracy",
    "date": None,
    "domains": None,
    "task_subtypes": None,
    "license": None,
    "annotations_creators": None,
    "dialect": None,
    "sample_creation": None,
    "bibtex_citation": None,
}


def local_task(folders, modalities: tuple[str, ...]) -> AbsTaskClassification:
    """A task of mteb on the clips of this folder, without its download."""

    class LocalClips(AbsTaskClassification):
        metadata = TaskMetadata(
            name="LocalClips",
            dataset={"path": "local/clips", "revision": "1"},
            category="va2c" if len(modalities) == 2 else f"{modalities[0][0]}2c",
            modalities=list(modalities),
            **METADATA,
        )
        input_column_name = modalities
        label_column_name = "label"
        samples_per_label = 5
        n_experiments = 2

        def load_data(self, **kwargs):
            media = {"video": Video(), "audio": Audio()}
            features = Features({"label": ClassLabel(names=["blue", "green", "red"])})
            features |= {name: media[name] for name in modalities}
            parts = {}
            for split, numbers in (("train", range(5)), ("test", range(5, 9))):
                clips = [clip for clip in folders.clips if int(clip.stem[-1]) in numbers]
                rows = {"label": [clip.stem[:-1] for clip in clips]}
                rows |= {name: [str(clip) for clip in clips] for name in modalities}
                parts[split] = Dataset.from_dict(rows, features=Features(features))
            self.dataset = DatasetDict(parts)
            self.data_loaded = True

    return LocalClips()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("system", ["maavt", "deepavfusion"])
def test_a_task_of_local_clips(folders, system):
    encoder = MtebEncoder(str(getattr(folders, system)), device="cpu")
    task = local_task(folders, ("video", "audio"))
    options = {"cache": None, "co2_tracker": False, "encode_kwargs": {"batch_size": 4}}
    result = mteb.evaluate(encoder, task, **options)
    assert 0 <= result.task_results[0].get_score() <= 1
    # The vectors are those of the model on the files.
    task.load_data()
    vectors = encoder.encode([{name: task.dataset["test"][:3][name] for name in ("video", "audio")}])
    model = AutoModel.from_pretrained(getattr(folders, system)).eval()
    clips = [str(clip) for clip in folders.clips if int(clip.stem[-1]) >= 5][:3]
    with torch.inference_mode():
        pooled = model(**AutoProcessor.from_pretrained(getattr(folders, system))(clips=clips)).pooler_output
    expected = pooled.view(3, -1, pooled.shape[-1]).mean(1)
    torch.testing.assert_close(vectors, expected, atol=2e-3, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_task_of_one_modality(folders, modality):
    task = local_task(folders, (modality,))
    options = {"cache": None, "co2_tracker": False, "encode_kwargs": {"batch_size": 4}}
    result = mteb.evaluate(MtebEncoder(str(folders.maavt), device="cpu"), task, **options)
    assert 0 <= result.task_results[0].get_score() <= 1


def test_a_task_of_text_is_refused(folders):
    with pytest.raises(ValueError, match="this model encodes video and audio"):
        MtebEncoder(str(folders.maavt), device="cpu").encode([{"text": ["a dog"]}])
