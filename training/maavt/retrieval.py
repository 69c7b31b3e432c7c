# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""How well a model finds a clip's audio by its video, and its video by its audio, among all test clips."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from processing.data.clip_dataset import ClipDataset
from processing.data.collators import AudioVisualCollator
from processing.metrics.retrieval import RetrievalScore


@torch.inference_mode()
def retrieval_scores(model: nn.Module, dataset: ClipDataset, batch_size: int, num_workers: int = 0) -> dict:
    """`RetrievalScore` of the last contrastive projections (without a contrastive head: of the class tokens).

    Clips that lack video or audio are skipped. Classes play no part: each clip has one right partner.

    Args:
        model: a `MAAVTForAudioVisualClassification`, also inside a `PeftModel`; it runs where it lies.
        dataset: matched pairs with both modalities, without augmentation.

    Raises:
        ValueError: fewer than two clips have both modalities.
    """
    model = model.eval()
    device = next(model.parameters()).device
    inner = getattr(model, "get_base_model", lambda: model)()
    video, audio = [], []
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=AudioVisualCollator()):
        whole = batch["has_video"] & batch["has_audio"]
        if not whole.any():
            continue
        frames, spectrograms = (batch[name][whole].to(device) for name in ("pixel_values_videos", "input_features"))
        video.append(inner.get_video_features(frames).pooler_output.float().cpu())
        audio.append(inner.get_audio_features(spectrograms).pooler_output.float().cpu())
    if sum(map(len, video)) < 2:
        raise ValueError("retrieval: fewer than two test clips have video and audio; leave it off")
    return RetrievalScore().compute(predictions=torch.cat(video).numpy(), references=torch.cat(audio).numpy())
