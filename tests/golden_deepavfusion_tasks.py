# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Golden files of segmentation and separation: the published names of their decoders, and ours."""

import re

import torch
from golden_deepavfusion import encoder_config, golden, streams, without_prefix

from modeling_deepavfusion import DeepAVFusionForAudioVisualSegmentation, DeepAVFusionForSoundSourceSeparation
from modeling_deepavfusion.convert_deepavfusion import reference_state_dict


CONVOLUTIONS = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
SEGMENTATION = {
    r"normv\.(\d)": r"image_norms.\1",
    r"proja\.(\d)": r"audio_projections.\1",
    r"norma\.(\d)": r"audio_norms.\1",
    r"lat\.(\d)": r"lateral.\1",
    r"predictor\.0": "conv",
    r"predictor\.2": "classifier",
}
SEPARATION = {"xv_norm": "image_norm", "pred": "predictor"}


def convolutions(name: str) -> str:
    """`up.0.up.weight` and `up.0.conv.double_conv.3.weight` as `up.0.upsample.weight` and `up.0.conv.conv2.weight`."""
    name = re.sub(r"(\d)\.up\.", r"\1.upsample.", name)
    return re.sub(r"double_conv\.(\d)", lambda match: CONVOLUTIONS[match[1]], name)


def segmentation_to_ours(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {}
    for name, value in published.items():
        new = convolutions(name)
        for pattern, replacement in SEGMENTATION.items():
            new = re.sub(f"^{pattern}", replacement, new)
        ours[f"decoder.{new}"] = value
    return ours


def separation_to_ours(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published scales count down from 5, the coarsest; ours count up from it. `xa_norm.0` is the last layer's."""
    ours = {}
    for name, value in published.items():
        new = convolutions(re.sub(r"^(up|lat)(\d)", r"\1.\2", name))
        new = re.sub(r"^xa_norm\.(\d)", lambda match: f"audio_norms.{4 - int(match[1])}", new)
        new = re.sub(r"^cond(\d)", lambda match: f"conditions.{5 - int(match[1])}", new)
        new = re.sub(r"^up\.(\d)", lambda match: f"up.{4 - int(match[1])}", new)
        new = re.sub(r"^lat\.(\d)", lambda match: f"lateral.{4 - int(match[1])}", new)
        for old, replacement in SEPARATION.items():
            new = re.sub(rf"^{old}\.", f"{replacement}.", new)
        ours[f"decoder.{new}"] = value
    return ours


def loaded(model_class, weights, decoder: dict[str, torch.Tensor], attention: str, **fields):
    encoder = without_prefix(weights, "encoder.")
    config = encoder_config(encoder, **fields)
    config._attn_implementation = attention
    model = model_class(config).eval()
    trunk = {
        f"deepavfusion.{name}": value for name, value in reference_state_dict(encoder, config.fusion_type).items()
    }
    model.load_state_dict(trunk | decoder)
    return model


def heads_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("encoder.")}


@golden("segmentation")
def segmentation(stem, weights, inputs, expected, attention):
    classes = len(weights["predictor.2.bias"])
    decoder = segmentation_to_ours(heads_of(weights))
    model = loaded(DeepAVFusionForAudioVisualSegmentation, weights, decoder, attention, num_labels=classes)
    outputs = model(*streams(inputs), labels=inputs["target"])
    return {"logits": outputs.logits, "loss": outputs.loss}


@golden("separation_")
def separation(stem, weights, inputs, expected, attention):
    decoder = separation_to_ours(without_prefix(weights, "avss_decoder."))
    fields = {
        "separation_target": "reference_binary" if "binary" in stem else "reference_ratio",
        "separation_weighting": "unweighted" not in stem,
    }
    model = loaded(DeepAVFusionForSoundSourceSeparation, weights, decoder, attention, **fields)
    frames, mixture = streams({"image": inputs["image"], "audio": inputs["mixture"]})
    outputs = model(frames, mixture, labels=inputs["source"])
    return {"mask_logits": outputs.logits, "gt_mask": outputs.mask_targets, "loss": outputs.loss}
