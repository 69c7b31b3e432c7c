# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A saved model as an encoder of mteb, whose video classification tasks give video and audio of a clip.

    import mteb
    from training.tools.mteb_encoder import MtebEncoder

    results = mteb.evaluate(MtebEncoder("outputs/folder/model"), tasks=mteb.get_tasks(["RAVDESSAVClassification"]))

Needs `pip install mteb`. mteb fits a logistic regression on the vectors; the class head of the model takes no part.
"""

from typing import Any

import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModel, AutoProcessor


class MtebEncoder(AbsEncoder):
    """One vector a clip: `pooler_output` of the trunk, of DeepAVFusion its mean over the windows of a clip.

    Args:
        model_name: folder or Hub name of a MA-AVT or DeepAVFusion model with its processor.
        revision: branch, tag or commit of a Hub model.
        device: where the model runs; None: on a GPU where there is one.
    """

    def __init__(self, model_name: str, revision: str | None = None, device: str | None = None, **kwargs: Any):
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        options = {"revision": revision or "main", "trust_remote_code": True}
        self.model = AutoModel.from_pretrained(model_name, **options).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(model_name, **options)
        overrides = {"name": model_name, "revision": revision, "modalities": ["audio", "video"]}
        self.mteb_model_meta = ModelMeta.create_empty(overwrites=overrides)

    @torch.inference_mode()
    def encode(self, inputs: DataLoader, **kwargs: Any) -> torch.Tensor:
        """The vectors of all clips, `[clips, D]`. A batch holds lists of decoders in `video`, in `audio` or in both.

        Raises:
            ValueError: a task of text or images.
        """
        vectors = []
        for batch in tqdm(inputs, desc="clips", disable=None):
            streams = {"videos": batch.get("video"), "audio": batch.get("audio")}
            streams = {name: list(decoders) for name, decoders in streams.items() if decoders is not None}
            if not streams:
                raise ValueError(f"the task gives {sorted(batch)}; this model encodes video and audio")
            clips = self.processor(**streams, return_tensors="pt").to(self.model.device)
            pooled = self.model(**clips).pooler_output.float()  # (B, D), of DeepAVFusion (B * S, D)
            vectors.append(pooled.unflatten(0, (len(next(iter(streams.values()))), -1)).flatten(1, -2).mean(1).cpu())
        return torch.cat(vectors)
