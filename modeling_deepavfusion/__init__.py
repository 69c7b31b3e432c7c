# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for Transformers: importing this package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel

from .configuration_deepavfusion import DeepAVFusionConfig
from .localization_deepavfusion import DeepAVFusionForSoundSourceLocalization
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .segmentation_deepavfusion import DeepAVFusionForAudioVisualSegmentation
from .separation_deepavfusion import DeepAVFusionForSoundSourceSeparation


AutoConfig.register("deepavfusion", DeepAVFusionConfig, exist_ok=True)
AutoModel.register(DeepAVFusionConfig, DeepAVFusionModel, exist_ok=True)
DeepAVFusionConfig.register_for_auto_class()
DeepAVFusionModel.register_for_auto_class("AutoModel")

__all__ = [
    "DeepAVFusionConfig",
    "DeepAVFusionForAudioVisualSegmentation",
    "DeepAVFusionForSoundSourceLocalization",
    "DeepAVFusionForSoundSourceSeparation",
    "DeepAVFusionModel",
    "DeepAVFusionPreTrainedModel",
]
