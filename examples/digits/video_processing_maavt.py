# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Video processor: clips or frames to the pixels that MA-AVT's vision transformer reads."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_metadata, make_batched_videos

from .clips import ClipRequest, load_clip


class MAAVTVideoProcessorKwargs(VideosKwargs, total=False):
    """Keyword arguments of `MAAVTVideoProcessor` beside the usual ones.

    frames_per_clip: frames taken from a file when neither `num_frames` nor `fps` says how many.
    crop_box: `(top, left, bottom, right)` as shares of the frame, cut out before resizing; None for all of it.
    frame_grid: `(rows, columns)`: so many frames after each other are laid out in one image, row by row.
    """

    frames_per_clip: int | None
    crop_box: tuple[float, float, float, float] | list[float] | None
    frame_grid: tuple[int, int] | list[int] | None


class MAAVTVideoProcessor(BaseVideoProcessor):
    """Turns frames into `pixel_values_videos` float32 `[B, T, 3, H, W]`: resized, scaled to 0..1, normalized.

    Takes uint8 `[T, 3, H, W]` or `[T, H, W, 3]` arrays and tensors, lists of PIL images, paths and torchcodec
    decoders; with a fourth channel, alpha, transparent parts show white. Frames that are passed are all kept unless
    `num_frames` or `fps` asks for fewer; from a file, `frames_per_clip` (8) frames are taken at the centers of equal
    parts of the clip.

    The default mean and standard deviation, 0.5, are those of the ImageNet-21k ViT; `MAAVTProcessor.from_backbone`
    takes them from a backbone's own image processor. `crop_box` shows the model a fixed part of the frame, such as
    the mouth of a talker who sits still. `frame_grid` lays frames out side by side in one image `[B, T / (rows
    columns), 3, rows H, columns W]`: the model averages over images and would forget the order of frames, but not
    where in an image a frame stands.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    frames_per_clip = 8
    crop_box = None
    frame_grid = None
    valid_kwargs = MAAVTVideoProcessorKwargs
    model_input_names = ["pixel_values_videos"]

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """As in the base class, which would give all videos the layout of the first one."""
        layout = kwargs.pop("input_data_format", None) or self.input_data_format
        if not _are_files(videos):
            videos = [as_frames(video, index, layout) for index, video in enumerate(make_batched_videos(videos))]
        return super().preprocess(videos, input_data_format=ChannelDimension.FIRST, **kwargs)

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Indices `[T]` of the frames at the centers of T equal parts of the video.

        Args:
            metadata: of the video; `fps` needs its frame rate.
            num_frames: T; None with `fps` None too keeps every frame.
            fps: T is the length times this.

        Raises:
            ValueError: both are given, `fps` without the video's frame rate, or more frames than there are.
        """
        # How many frames?
        total = metadata.total_num_frames
        if num_frames is not None and fps is not None:
            raise ValueError("num_frames and fps exclude each other; give one of them")
        if fps is not None:
            if metadata.fps is None:
                raise ValueError("fps needs the video's frame rate; pass video_metadata with fps, or num_frames")
            num_frames = max(1, round(total / metadata.fps * fps))
        # Their places
        if num_frames is None:
            return np.arange(total)
        if num_frames > total:
            raise ValueError(f"num_frames={num_frames}, but the video has {total} frames; ask for fewer")
        return ((np.arange(num_frames) + 0.5) * total / num_frames).astype(int)

    def _decode_and_sample_videos(
        self,
        videos: Any,
        video_metadata: Any = None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: Callable | None = None,
    ) -> tuple[list, list]:
        # Files: the reader samples while it decodes.
        if is_clip_source(videos):
            videos = [videos]
        if _are_files(videos):
            options = {} if sample_indices_fn is None else sample_indices_fn.keywords
            num_frames, fps = options.get("num_frames"), options.get("fps")
            if num_frames is None and fps is None and do_sample_frames:
                num_frames = options.get("frames_per_clip") or self.frames_per_clip
            transform = self.resizer(**options) if options else None
            request = ClipRequest(num_frames=num_frames, fps=fps, streams=("video",), transform=transform)
            clips = [load_clip(video, request) for video in videos]
            return [clip.frames for clip in clips], make_batched_metadata([clip.frames for clip in clips], None)
        # Frames: the base class's metadata and sampling
        video_metadata = make_batched_metadata(videos, video_metadata=video_metadata)
        if do_sample_frames:
            for index, (video, metadata) in enumerate(zip(videos, video_metadata, strict=True)):
                metadata.frames_indices = sample_indices_fn(metadata=metadata)
                if len(metadata.frames_indices) < len(video):
                    videos[index] = video[metadata.frames_indices]
        return [video.contiguous() for video in videos], video_metadata

    def resizer(self, **options: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What resizes frames `[T, 3, H, W]` one by one as they are decoded, so that a clip is never in memory at full size.

        The processor then finds frames of the right size, and leaves them as they are.

        Args:
            options: of a call; those that it lacks are the processor's own.

        Returns:
            a function, or None where frames have to stay whole: for `crop_box`, another device, or no resize at all.
        """
        names = ("do_resize", "size", "resample", "crop_box", "device", "default_to_square")
        chosen = {name: options.get(name, getattr(self, name, None)) for name in names}
        if not chosen["do_resize"] or chosen["crop_box"] is not None or chosen["device"] is not None:
            return None
        size = self._standardize_kwargs(size=chosen["size"], default_to_square=chosen["default_to_square"])["size"]
        if size.longest_edge or size.max_height:  # a second resize might change the size by a pixel
            return None
        return partial(self.resize, size=size, resample=chosen["resample"])

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        crop_size: SizeDict,
        crop_box: Any = None,
        frame_grid: Any = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """As in the base class, on a part of the frames (`crop_box`); then laid out side by side (`frame_grid`)."""
        # Video by video, so that the frames of a whole batch are never copied at their full size
        resized = []
        for video in videos:
            if crop_box is not None:
                video = cut_box(video, crop_box)
            if do_resize:
                video = self.resize(video, size=size, resample=resample)
            if do_center_crop:
                video = self.center_crop(video, crop_size)
            resized.append(video if frame_grid is None else lay_out(video, frame_grid))
        pixels = self._normalized(resized, **kwargs)
        return BatchFeature({"pixel_values_videos": pixels}, tensor_type=return_tensors)

    def _normalized(
        self,
        videos: list[torch.Tensor],
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        **kwargs: Any,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Float32 `[B, T, 3, H, W]`; a list where the videos differ in shape."""
        one_shape = len({(video.shape, video.device) for video in videos}) == 1
        plain = all(video.dtype == torch.uint8 and video.device.type == "cpu" for video in videos)
        if not (one_shape and plain and do_normalize):
            options = (do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            pixels = [self.rescale_and_normalize(video, *options) for video in videos]
            return torch.stack(pixels) if one_shape else pixels
        # Frames of files: each is written to its place in the batch, and normalized there.
        mean, std, _ = self._fuse_mean_std_and_rescale_factor(
            do_normalize, image_mean, image_std, do_rescale, rescale_factor
        )
        # New memory from NumPy comes in large pages, which takes a third of the time.
        batch = torch.from_numpy(np.empty((len(videos), *videos[0].shape), np.float32))  # (B, T, 3, H, W)
        for pixels, video in zip(batch, videos, strict=True):
            self.normalize(pixels.copy_(video), mean, std, inplace=True)
        return batch


def cut_box(frames: torch.Tensor, box: Any) -> torch.Tensor:
    """The part `(top, left, bottom, right)`, as shares of height and width, of frames `[T, 3, H, W]`.

    Raises:
        ValueError: shares outside 0..1, or a box of less than a pixel.
    """
    top, left, bottom, right = box
    height, width = frames.shape[-2:]
    rows, columns = (
        slice(round(top * height), round(bottom * height)),
        slice(round(left * width), round(right * width)),
    )
    # A box of less than a pixel would leave nothing.
    inside = 0 <= top < bottom <= 1 and 0 <= left < right <= 1
    if not inside or rows.start == rows.stop or columns.start == columns.stop:
        raise ValueError(
            f"crop_box={tuple(box)} is no part of a frame of {width}x{height}; give (top, left, bottom, right) as "
            "shares from 0 to 1"
        )
    return frames[..., rows, columns]


def lay_out(frames: torch.Tensor, grid: Any) -> torch.Tensor:
    """Frames `[T, 3, H, W]`, rows times columns of them in one image: `[T / (rows columns), 3, rows H, columns W]`.

    Raises:
        ValueError: T is no multiple of rows times columns.
    """
    rows, columns = grid
    count, channels, height, width = frames.shape
    if rows < 1 or columns < 1 or count % (rows * columns):
        raise ValueError(
            f"frame_grid={tuple(grid)} takes a multiple of {rows * columns} frames, got {count}; change num_frames"
        )
    # (T, 3, H, W) -> (T / (rows columns), 3, rows, H, columns, W)
    images = frames.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(-1, channels, rows * height, columns * width)


def is_clip_source(video: Any) -> bool:
    """Whether this is something to decode (a path, bytes, a table's row, a file or a decoder) and no frames."""
    if isinstance(video, (str, bytes, dict)) or hasattr(video, "__fspath__"):
        return True
    return hasattr(video, "get_frames_played_at") or (hasattr(video, "read") and hasattr(video, "seek"))


def _are_files(videos: Any) -> bool:
    if isinstance(videos, (list, tuple)):
        return len(videos) > 0 and all(is_clip_source(video) for video in videos)
    return is_clip_source(videos)


def as_frames(video: Any, index: int = 0, layout: str | None = None) -> torch.Tensor:
    """Frames of one video as a tensor `[T, C, H, W]` of 1 or 3 channels, checked. Transparent parts show white.

    Args:
        video: `[T, C, H, W]`, `[T, H, W, C]`, or a list of PIL images or frames.
        index: of the video, for messages.
        layout: "channels_first" or "channels_last"; None finds it by the number of channels.

    Raises:
        ValueError: no frames, a wrong rank, frames of several sizes, or no axis of 1, 3 or 4 channels; the message
            names the video.
    """
    # A list of frames, or an array
    if isinstance(video, (list, tuple)):
        video = _stacked(video, index)
    frames = video if isinstance(video, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(video)))
    # Shape
    if frames.ndim != 4:
        raise ValueError(f"video {index}: shape {tuple(frames.shape)}; give frames [T, 3, H, W] or [T, H, W, 3]")
    if len(frames) == 0:
        raise ValueError(f"video {index}: zero frames; leave the video out (None) or give another clip")
    if _is_channels_last(frames, index, layout):
        frames = frames.permute(0, 3, 1, 2)  # (T, H, W, C) -> (T, C, H, W)
    # Values: integers of another type, or floats outside 0..255, would be scaled wrongly.
    if not frames.is_floating_point() and frames.dtype != torch.uint8:
        raise ValueError(f"video {index}: {frames.dtype} pixels; give uint8 frames, 0 to 255")
    if frames.is_floating_point() and not frames.abs().max() <= 255:
        raise ValueError(f"video {index}: pixels above 255, NaN or infinite; give uint8 frames, 0 to 255")
    if frames.shape[1] == 4:
        frames = _on_white(frames)
    return frames


def _stacked(images: Any, index: int) -> np.ndarray:
    """The frames of a list as one array. PIL images of 8 bits become RGB, whatever their mode."""
    arrays = []
    for image in images:
        if isinstance(image, Image.Image) and not image.mode.startswith(("I", "F")):
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB")
        arrays.append(np.asarray(image))
    if not arrays:
        return np.zeros((0, 1, 1, 3), np.uint8)
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(f"video {index}: frames of shapes {shapes}; give frames of one size")
    return np.stack(arrays)


def _on_white(frames: torch.Tensor) -> torch.Tensor:
    """RGBA frames `[T, 4, H, W]` as RGB `[T, 3, H, W]`, as in the base class."""
    white = 1.0 if frames.is_floating_point() and frames.max() <= 1 else 255.0
    pixels, alpha = frames[:, :3], frames[:, 3:] / white
    if (alpha == 1).all():
        return pixels
    blended = alpha * pixels + (1 - alpha) * white
    return blended if frames.is_floating_point() else blended.round().to(frames.dtype)


def _is_channels_last(frames: torch.Tensor, index: int, layout: str | None) -> bool:
    _, first, _, last = frames.shape
    if layout is not None:
        is_last = ChannelDimension(layout) == ChannelDimension.LAST
        if (last if is_last else first) in (1, 3, 4):
            return is_last
    else:
        # The base class's rule, and only then 4 channels: an axis of 4 may be that of rows.
        for channels in ((1, 3), (4,)):
            if first in channels:
                return False
            if last in channels:
                return True
    raise ValueError(f"video {index}: shape {tuple(frames.shape)} has no color axis; give [T, 3, H, W]")
