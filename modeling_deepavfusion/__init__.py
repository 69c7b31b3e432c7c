# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for Transformers: importing this package registers its classes with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForImageSegmentation,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
    AutoModelForVideoClassification,
)

from .adapter_deepavfusion import deepavfusion_peft_config
from .classification_deepavfusion import DeepAVFusionForAudioVisualClassification
from .configuration_deepavfusion import DeepAVFusionConfig
from .localization_deepavfusion import DeepAVFusionForSoundSourceLocalization
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .pretraining_deepavfusion import DeepAVFusionForPreTraining
from .segmentation_deepavfusion import DeepAVFusionForAudioVisualSegmentation
from .separation_deepavfusion import DeepAVFusionForSoundSourceSeparation
from .vit_start_deepavfusion import deepavfusion_from_vit


AutoConfig.register("deepavfusion", DeepAVFusionConfig, exist_ok=True)
AutoModel.register(DeepAVFusionConfig, DeepAVFusionModel, exist_ok=True)
AutoModelForPreTraining.register(DeepAVFusionConfig, DeepAVFusionForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(DeepAVFusionConfig, DeepAVFusionForAudioVisualClassification, exist_ok=True)
AutoModelForAudioClassification.register(DeepAVFusionConfig, DeepAVFusionForAudioVisualClassification, exist_ok=True)
DeepAVFusionConfig.register_for_auto_class()
DeepAVFusionModel.register_for_auto_class("AutoModel")
DeepAVFusionForPreTraining.register_for_auto_class("AutoModelForPreTraining")
DeepAVFusionForAudioVisualClassification.register_for_auto_class("AutoModelForVideoClassification")

# no Auto class is made for separation and localization: these are the nearest
for _auto_class, _model_class in (
    (AutoModelForSemanticSegmentation, DeepAVFusionForAudioVisualSegmentation),
    (AutoModelForAudioFrameClassification, DeepAVFusionForSoundSourceSeparation),
    (AutoModelForImageSegmentation, DeepAVFusionForSoundSourceLocalization),
):
    _auto_class.register(DeepAVFusionConfig, _model_class, exist_ok=True)
    _model_class.register_for_auto_class(_auto_class.__name__)

__all__ = [
    "DeepAVFusionConfig",
    "DeepAVFusionForAudioVisualClassification",
    "DeepAVFusionForAudioVisualSegmentation",
    "DeepAVFusionForPreTraining",
    "DeepAVFusionForSoundSourceLocalization",
    "DeepAVFusionForSoundSourceSeparation",
    "DeepAVFusionModel",
    "DeepAVFusionPreTrainedModel",
    "deepavfusion_from_vit",
    "deepavfusion_peft_config",
]
