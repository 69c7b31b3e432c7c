# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for Transformers: importing this package registers its classes with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
)

from .classification_deepavfusion import DeepAVFusionForAudioVisualClassification
from .configuration_deepavfusion import DeepAVFusionConfig
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .pretraining_deepavfusion import DeepAVFusionForPreTraining


AutoConfig.register("deepavfusion", DeepAVFusionConfig, exist_ok=True)
AutoModel.register(DeepAVFusionConfig, DeepAVFusionModel, exist_ok=True)
AutoModelForPreTraining.register(DeepAVFusionConfig, DeepAVFusionForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(DeepAVFusionConfig, DeepAVFusionForAudioVisualClassification, exist_ok=True)
AutoModelForAudioClassification.register(DeepAVFusionConfig, DeepAVFusionForAudioVisualClassification, exist_ok=True)
DeepAVFusionConfig.register_for_auto_class()
DeepAVFusionModel.register_for_auto_class("AutoModel")
DeepAVFusionForPreTraining.register_for_auto_class("AutoModelForPreTraining")
DeepAVFusionForAudioVisualClassification.register_for_auto_class("AutoModelForVideoClassification")

__all__ = [
    "DeepAVFusionConfig",
    "DeepAVFusionForAudioVisualClassification",
    "DeepAVFusionForPreTraining",
    "DeepAVFusionModel",
    "DeepAVFusionPreTrainedModel",
]
