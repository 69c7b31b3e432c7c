# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT for Transformers: importing this package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoModelForVideoClassification

from .adapter_maavt import check_trainable, export_adapter, maavt_peft_config
from .configuration_maavt import MAAVTConfig
from .modeling_maavt import MAAVTForAudioVisualClassification, MAAVTModel, MAAVTPreTrainedModel


AutoConfig.register("maavt", MAAVTConfig, exist_ok=True)
AutoModel.register(MAAVTConfig, MAAVTModel, exist_ok=True)
AutoModelForVideoClassification.register(MAAVTConfig, MAAVTForAudioVisualClassification, exist_ok=True)
AutoModelForAudioClassification.register(MAAVTConfig, MAAVTForAudioVisualClassification, exist_ok=True)
MAAVTConfig.register_for_auto_class()
MAAVTModel.register_for_auto_class("AutoModel")
MAAVTForAudioVisualClassification.register_for_auto_class("AutoModelForVideoClassification")


__all__ = [
    "MAAVTConfig",
    "MAAVTForAudioVisualClassification",
    "MAAVTModel",
    "MAAVTPreTrainedModel",
    "check_trainable",
    "export_adapter",
    "maavt_peft_config",
]
