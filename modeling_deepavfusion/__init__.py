# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion for transformers. Importing this package registers its classes with the Auto classes."""

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
from .configuration_deepavfusion import DeepAVFusionConfig
from .dense_tasks_deepavfusion import (
    DeepAVFusionForAudioVisualSegmentation,
    DeepAVFusionForSoundSourceLocalization,
    DeepAVFusionForSoundSourceSeparation,
)
from .modeling_deepavfusion import DeepAVFusionModel, DeepAVFusionPreTrainedModel
from .pretraining_and_classification_deepavfusion import (
    DeepAVFusionForAudioVisualClassification,
    DeepAVFusionForPreTraining,
)


# `register` serves Python code that has imported this package, `register_for_auto_class` a saved folder's `auto_map`
AutoConfig.register("deepavfusion", DeepAVFusionConfig, exist_ok=True)
DeepAVFusionConfig.register_for_auto_class()

# transformers has no Auto class for separation and localization: these are the nearest
for _auto_class, _model_class in (
    (AutoModel, DeepAVFusionModel),
    (AutoModelForPreTraining, DeepAVFusionForPreTraining),
    (AutoModelForVideoClassification, DeepAVFusionForAudioVisualClassification),
    (AutoModelForSemanticSegmentation, DeepAVFusionForAudioVisualSegmentation),
    (AutoModelForAudioFrameClassification, DeepAVFusionForSoundSourceSeparation),
    (AutoModelForImageSegmentation, DeepAVFusionForSoundSourceLocalization),
):
    _auto_class.register(DeepAVFusionConfig, _model_class, exist_ok=True)
    _model_class.register_for_auto_class(_auto_class.__name__)
# a second Auto class: `save_pretrained` adds its entry to `auto_map`
AutoModelForAudioClassification.register(DeepAVFusionConfig, DeepAVFusionForAudioVisualClassification, exist_ok=True)


def __getattr__(name: str):
    """Imports the converter when asked for it: `python -m modeling_deepavfusion.convert_deepavfusion` runs that file."""
    if name == "deepavfusion_from_vit":
        from .convert_deepavfusion import deepavfusion_from_vit

        return deepavfusion_from_vit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
