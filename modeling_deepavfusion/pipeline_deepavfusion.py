# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The pipeline that `transformers.pipeline("video-classification", model=folder, trust_remote_code=True)` builds."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, Pipeline


# The Auto class that loads the model of a task, as `custom_pipelines` of a saved config.json names it.
TASKS = {
    "video-classification": "AutoModelForVideoClassification",
    "audio-classification": "AutoModelForAudioClassification",
}


# Copied from modeling_maavt.pipeline_maavt.custom_pipelines
def custom_pipelines(module: str) -> dict[str, dict]:
    """The field of config.json from which `transformers.pipeline` finds the class below in the file `module`."""
    return {task: {"impl": f"{module}.AudioVisualClassificationPipeline", "pt": [TASKS[task]]} for task in TASKS}


# Copied from modeling_maavt.pipeline_maavt.is_audio
def is_audio(inputs: Any) -> bool:
    """Whether an input holds audio alone, a waveform or its decoder; anything else names a clip.

    Raises:
        ValueError: frames.
    """
    if isinstance(inputs, dict):
        return "array" in inputs or "raw" in inputs
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        if inputs.ndim > 2:
            raise ValueError(
                f"input of shape {tuple(inputs.shape)}: a pipeline takes files and waveforms [n]; for frames call "
                "model(**processor(videos=frames))"
            )
        return True
    return hasattr(inputs, "get_samples_played_in_range")


# Copied from modeling_maavt.pipeline_maavt.AudioVisualClassificationPipeline
class AudioVisualClassificationPipeline(Pipeline):
    """Classifies clips by their video and audio ("video-classification") or by their audio alone ("audio-classification").

    A clip without one of the modalities is classified by the other.

    Args of a call:
        inputs: one or a list of: file (a path, bytes, a file object, a row of `datasets.Video(decode=False)`), `(file, start,
            end)` in seconds, or audio alone (a waveform `[n]`, `{"array", "sampling_rate"}` or `{"raw", "sampling_rate"}`).
        top_k: classes that are returned, the best first; 5 unless given.
        function_to_apply: "softmax", "sigmoid" or "none"; "sigmoid" for multi-label models, else "softmax".
        num_frames: frames of a clip; the processor's unless given.
        allow_remote: let FFmpeg open URLs and protocol strings.
        batch_size, num_workers: as in other pipelines.

    Returns:
        `[{"score": 0.9, "label": "dog"}, ...]`, or one such list a clip.

    Raises:
        ClipError, ValueError: a file that cannot be read, or that has nothing to classify.
    """

    _load_processor = True
    _load_image_processor = _load_video_processor = _load_feature_extractor = _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokenizer = None  # the base class would ask it for a padding token
        # `pipeline` has put classes into the config, which no JSON file can hold.
        for entry in (getattr(self.model.config, "custom_pipelines", None) or {}).values():
            entry["pt"] = [getattr(auto_class, "__name__", auto_class) for auto_class in entry["pt"]]

    def _sanitize_parameters(self, top_k=None, function_to_apply=None, num_frames=None, allow_remote=None):
        if function_to_apply not in (None, "softmax", "sigmoid", "none"):
            raise ValueError(f'function_to_apply={function_to_apply!r}; use "softmax", "sigmoid" or "none"')
        after = {"top_k": top_k, "function_to_apply": function_to_apply}
        before = {"num_frames": num_frames, "allow_remote": allow_remote}
        return [{name: value for name, value in given.items() if value is not None} for given in (before, {}, after)]

    def preprocess(self, inputs, **options) -> dict[str, BatchFeature]:
        """A batch of one clip. In a dict, so that the base class makes a list of several."""
        if is_audio(inputs):
            # "raw" is the name in the audio pipelines of Transformers.
            if isinstance(inputs, dict) and "raw" in inputs:
                inputs = {"array": inputs["raw"], "sampling_rate": inputs.get("sampling_rate")}
            clip = self.processor(audio=[inputs])
            inputs = "a waveform"
        else:
            clip = self.processor(clips=[inputs], on_missing="none", **options)
        if self.task == "audio-classification":
            if "input_features" not in clip:
                raise ValueError(f"{inputs}: has no audio to classify")
            clip = BatchFeature({name: clip[name] for name in ("input_features", "has_audio")})
        # A model of one modality has nothing to read in a clip without it.
        reads = getattr(self.model.config, "modalities", ("video", "audio"))
        if not any(clip[f"has_{name}"].any() for name in reads if f"has_{name}" in clip):
            raise ValueError(f"{inputs}: has no {' or '.join(reads)}, which this model reads")
        return {"clips": clip}

    def _forward(self, model_inputs: dict) -> dict[str, torch.Tensor]:
        clips = model_inputs["clips"]
        if not isinstance(clips, list):
            clips = [clips]
        batch = {}
        for name, mask in (("pixel_values_videos", "has_video"), ("input_features", "has_audio")):
            rows = [clip[name] for clip in clips if name in clip]
            if not rows:
                continue
            # Rows of zeros stand for the clips that lack the modality.
            missing = torch.zeros_like(rows[0])
            batch[name] = torch.cat([clip.get(name, missing) for clip in clips])
            batch[mask] = torch.cat([clip.get(mask, torch.tensor([False], device=missing.device)) for clip in clips])
        return {"logits": self.model(**batch).logits}  # (B, C)

    def postprocess(self, model_outputs: dict, top_k: int = 5, function_to_apply: str | None = None) -> list[dict]:
        config = self.model.config
        logits = model_outputs["logits"][0].float()  # (C,)
        if function_to_apply is None:
            function_to_apply = "softmax"
            if config.problem_type == "multi_label_classification":
                function_to_apply = "sigmoid"
        scores = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}[function_to_apply]
        best, indices = scores.topk(min(top_k, len(scores)))
        labels = [config.id2label[index] for index in indices.tolist()]
        return [{"score": score, "label": label} for score, label in zip(best.tolist(), labels, strict=True)]

    def save_pretrained(self, save_directory, **kwargs):
        """The model with the processor and this file; the base class would save a part of the processor alone."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


__all__ = ["AudioVisualClassificationPipeline", "custom_pipelines"]
