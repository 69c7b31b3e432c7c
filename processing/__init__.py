# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From clips to batches: decoding, spectrograms, frames, the processor; tables, data sets, collators and metrics."""

from importlib.metadata import version


try:
    import torchaudio  # noqa: F401
except (ImportError, OSError, RuntimeError) as error:  # 2.11.0 refuses torch 2.15, and any a torch of another CUDA
    raise ImportError(
        f"torchaudio {version('torchaudio')} does not load beside torch {version('torch')} "
        f"({' '.join(str(error).split())[:200]}); run pip install -U 'torchaudio>=2.11.1', or where the index has only "
        "2.11.0, pip install 'torch<2.15'"
    ) from error

from transformers import AutoFeatureExtractor, AutoProcessor, AutoVideoProcessor

from .clips import Clip, ClipError, ClipInfo, ClipRequest, frame_times, load_clip, probe_clip, safe_join
from .feature_extraction_deepavfusion import DeepAVFusionFeatureExtractor
from .feature_extraction_maavt import MAAVTFeatureExtractor
from .processing_deepavfusion import DeepAVFusionProcessor
from .processing_maavt import MAAVTProcessor
from .video_processing_deepavfusion import DeepAVFusionVideoProcessor
from .video_processing_maavt import MAAVTVideoProcessor


# The Auto classes find a processor by the class name in its saved file; the key, a configuration, is not looked up.
# (The configuration lives in modeling_maavt, and the two packages do not know each other.)
for _extractor, _video_processor, _processor in (
    (MAAVTFeatureExtractor, MAAVTVideoProcessor, MAAVTProcessor),
    (DeepAVFusionFeatureExtractor, DeepAVFusionVideoProcessor, DeepAVFusionProcessor),
):
    AutoFeatureExtractor.register(_extractor, _extractor, exist_ok=True)
    AutoVideoProcessor.register(_video_processor, _video_processor, exist_ok=True)
    AutoProcessor.register(_processor, _processor, exist_ok=True)
    # save_pretrained then writes the code and an auto_map beside the configuration
    for _part in (_extractor, _video_processor, _processor):
        _part.register_for_auto_class()

__all__ = [
    "Clip",
    "ClipError",
    "ClipInfo",
    "ClipRequest",
    "DeepAVFusionFeatureExtractor",
    "DeepAVFusionProcessor",
    "DeepAVFusionVideoProcessor",
    "MAAVTFeatureExtractor",
    "MAAVTProcessor",
    "MAAVTVideoProcessor",
    "frame_times",
    "load_clip",
    "probe_clip",
    "safe_join",
]
