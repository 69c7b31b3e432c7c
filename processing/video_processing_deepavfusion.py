# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Video processor: clips or frames to the pixels that DeepAVFusion's image transformer reads."""

from .video_processing_maavt import MAAVTVideoProcessor


class DeepAVFusionVideoProcessor(MAAVTVideoProcessor):
    """Turns frames into `pixel_values_videos` float32 `[B, S, 3, 224, 224]`, as the paper evaluates.

    The short side is resized to 256 (224 / 0.875), the middle 224 x 224 are kept, and ImageNet's mean and deviation are
    taken. Segmentation is evaluated with `size={"shortest_edge": 224}`: nothing but the longer side is cut.
    """

    image_mean = [0.485, 0.456, 0.406]
    image_std = [0.229, 0.224, 0.225]
    size = {"shortest_edge": 256}
    default_to_square = False
    do_center_crop = True
    crop_size = {"height": 224, "width": 224}
    frames_per_clip = 1


__all__ = ["DeepAVFusionVideoProcessor"]
