# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Video processor: clips or frames to the pixels that MA-AVT's vision transformer reads."""

import functools
import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_metadata, make_batched_videos

from .clip_threads import LARGEST_POOL, in_threads
from .clips import ClipRequest, load_clip


class MAAVTVideoProcessorKwargs(VideosKwargs, total=False):
    """Keyword arguments of `MAAVTVideoProcessor` beside the usual ones.

    frames_per_clip: frames taken from a file when neither `num_frames` nor `fps` says how many.
    crop_box: `(top, left, bottom, right)` as shares of the picture, cut out before resizing; None for all of it.
    frame_grid: `(rows, columns)`: so many frames after each other are laid out in one picture, row by row.
    """

    frames_per_clip: int | None
    crop_box: tuple[float, float, float, float] | list[float] | None
    frame_grid: tuple[int, int] | list[int] | None


class MAAVTVideoProcessor(BaseVideoProcessor):
    """Turns frames into `pixel_values_videos` float32 `[B, T, 3, H, W]`: resized, scaled to 0..1, normalized.

    Takes uint8 `[T, 3, H, W]` or `[T, H, W, 3]` arrays and tensors, lists of PIL images, paths and torchcodec
    decoders. Frames that are passed are all kept unless `num_frames` or `fps` asks for fewer; from a file,
    `frames_per_clip` (8) frames are taken at the centers of equal parts of the clip.

    The default mean and standard deviation, 0.5, are those of the ImageNet-21k ViT; `MAAVTProcessor.from_backbone`
    takes them from a backbone's own image processor. `crop_box` shows the model a fixed part of the picture, such as
    the mouth of a talker who sits still. `frame_grid` lays frames out side by side in one picture `[B, T / (rows
    columns), 3, rows H, columns W]`: the model averages over pictures and would forget the order of frames, but not
    where in a picture a frame stands.
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

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """Indices `[T]` of the frames at the centers of T equal parts of the video.

        Args:
            metadata: of the video; `fps` needs its frame rate.
            num_frames: T; None with `fps` None too keeps every frame.
            fps: T is the length times this.

        Raises:
            ValueError: both are given, `fps` without the video's own frame rate, or more frames than there are.
        """
        total = metadata.total_num_frames
        if num_frames is not None and fps is not None:
            raise ValueError("num_frames and fps exclude each other; give one of them")
        if fps is not None:
            if metadata.fps is None:
                raise ValueError("fps needs the video's own frame rate; pass video_metadata with fps, or num_frames")
            num_frames = max(1, round(total / metadata.fps * fps))
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
        if is_clip_source(videos):
            videos = [videos]
        if isinstance(videos, (list, tuple)) and videos and all(is_clip_source(video) for video in videos):
            options = {} if sample_indices_fn is None else sample_indices_fn.keywords
            num_frames, fps = options.get("num_frames"), options.get("fps")
            if num_frames is None and fps is None and do_sample_frames:
                num_frames = options.get("frames_per_clip") or self.frames_per_clip
            request = ClipRequest(num_frames=num_frames, fps=fps, streams=("video",))
            clips = [load_clip(video, request) for video in videos]
            return [clip.frames for clip in clips], make_batched_metadata([clip.frames for clip in clips], None)
        videos = [as_frames(video, index) for index, video in enumerate(make_batched_videos(videos))]
        video_metadata = make_batched_metadata(videos, video_metadata=video_metadata)
        if do_sample_frames:
            for index, (video, metadata) in enumerate(zip(videos, video_metadata, strict=True)):
                metadata.frames_indices = sample_indices_fn(metadata=metadata)
                if len(metadata.frames_indices) < len(video):
                    videos[index] = video[metadata.frames_indices]
        return videos, video_metadata

    def _preprocess(
        self,
        videos: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        return_tensors: str | None = None,
        crop_box: Any = None,
        frame_grid: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """As in the base class, in the order that is fastest for decoded frames.

        They come with the channels last in memory, which resizing likes and normalizing does not: resize first, clip
        by clip, and put the channels first when the smaller result is normalized.
        """

        def laid_out(video: torch.Tensor) -> torch.Tensor:
            if crop_box is not None:
                video = cut_box(video, crop_box)
            if do_resize:
                video = self.resize(video, size=size, resample=resample)
            if do_center_crop:
                video = self.center_crop(video, crop_size)
            return video if frame_grid is None else lay_out(video, frame_grid)

        options = (do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        on_cpu = all(video.device.type == "cpu" for video in videos)
        if on_cpu and do_normalize and all(video.dtype == torch.uint8 for video in videos):
            mean, std, _ = self._fuse_mean_std_and_rescale_factor(
                do_normalize=do_normalize,
                image_mean=image_mean,
                image_std=image_std,
                do_rescale=do_rescale,
                rescale_factor=rescale_factor,
                device=videos[0].device,
            )
            pixels = normalized_in_place(videos, laid_out, mean, std)
            return BatchFeature({"pixel_values_videos": pixels}, tensor_type=return_tensors)
        # on a GPU, another thread would leave the caller's stream
        videos = in_threads(laid_out, videos, LARGEST_POOL if on_cpu else 1)
        if len({(video.shape, video.dtype, video.device) for video in videos}) == 1:
            first = videos[0]  # with the channels first in memory, whatever those of the clips are
            stacked = torch.empty((len(videos), *first.shape), dtype=first.dtype, device=first.device)
            pixels = self.rescale_and_normalize(torch.stack(videos, out=stacked), *options)
        else:
            pixels = [self.rescale_and_normalize(video.contiguous(), *options) for video in videos]
        return BatchFeature({"pixel_values_videos": pixels}, tensor_type=return_tensors)


def normalized_in_place(
    videos: list[torch.Tensor], laid_out: Callable, mean: Any, std: Any
) -> torch.Tensor | list[torch.Tensor]:
    """`(laid_out(video) - mean) / std` of uint8 clips, `[B, T, 3, H, W]`, or a list where they come out in several shapes.

    Every clip is finished in its place in the batch while it lies in the processor's cache. NumPy does the arithmetic:
    PyTorch would share each operation out among threads of its own.
    """
    keep_freed_memory()
    mean, std = (np.asarray(values, dtype=np.float32).reshape(-1, 1, 1) for values in (mean, std))
    batch, making = None, threading.Lock()

    def finish(index: int) -> torch.Tensor:
        nonlocal batch
        pixels = laid_out(videos[index]).numpy()
        with making:
            if batch is None:
                batch = empty_batch((len(videos), *pixels.shape))
        place = batch[index] if batch.shape[1:] == pixels.shape else np.empty(pixels.shape, np.float32)
        np.copyto(place, pixels)
        place -= mean
        place /= std
        return torch.from_numpy(place)

    finished = in_threads(finish, range(len(videos)))
    return torch.from_numpy(batch) if len({video.shape for video in finished}) == 1 else finished


LARGEST_KEPT = 1 << 24  # entries, 64 MiB
BATCHES_KEPT = 2  # a loop still holds its last batch while the next is made
_kept: list[np.ndarray] = []  # the memory of the last batches
_taking = threading.Lock()


def empty_batch(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialized float32, in the memory of one of the last batches of this size that nobody holds any more.

    The first touch of new memory costs more than all arithmetic on it; NumPy asks for huge pages, which make it cheaper.
    """
    size = math.prod(shape)
    if size > LARGEST_KEPT:
        return np.empty(shape, dtype=np.float32)
    with _taking:
        for place in range(len(_kept)):
            # held by the list alone: two references, with the one that getrefcount is given
            if _kept[place].size == size and sys.getrefcount(_kept[place]) == 2:
                return _kept[place][:].reshape(shape)
        _kept.append(np.empty(size, dtype=np.float32))
        del _kept[:-BATCHES_KEPT]
        return _kept[-1][:].reshape(shape)


# Copied from modeling_maavt.linear_maavt.keep_freed_memory
@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB of freed memory: twice the largest block, of at most 32 MiB, that was ever given back.

    Otherwise it depends on chance how much new memory the next batch or block of a model touches, and that takes up to a
    fifth of a block's time in bfloat16. Nothing is touched here.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8, device="cpu")


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
    inside = 0 <= top < bottom <= 1 and 0 <= left < right <= 1
    if not inside or rows.start == rows.stop or columns.start == columns.stop:
        raise ValueError(
            f"crop_box={tuple(box)} is no part of a picture of {width}x{height}; give (top, left, bottom, right) as "
            "shares from 0 to 1"
        )
    return frames[..., rows, columns]


def lay_out(frames: torch.Tensor, grid: Any) -> torch.Tensor:
    """Frames `[T, 3, H, W]`, rows times columns of them in one picture: `[T / (rows columns), 3, rows H, columns W]`.

    Raises:
        ValueError: T is no multiple of rows times columns.
    """
    rows, columns = grid
    count, channels, height, width = frames.shape
    if rows < 1 or columns < 1 or count % (rows * columns):
        raise ValueError(
            f"frame_grid={tuple(grid)} takes a multiple of {rows * columns} frames, got {count}; change num_frames"
        )
    pictures = frames.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return pictures.reshape(-1, channels, rows * height, columns * width)


def is_clip_source(video: Any) -> bool:
    """Whether this is something to decode (a path, bytes, a table's row, a file or a decoder) and no frames."""
    if isinstance(video, (str, bytes, dict)) or hasattr(video, "__fspath__"):
        return True
    return hasattr(video, "get_frames_played_at") or (hasattr(video, "read") and hasattr(video, "seek"))


def as_frames(video: Any, index: int = 0) -> torch.Tensor:
    """Frames of one video as a tensor of rank 4, checked.

    Raises:
        ValueError: no frames, a wrong rank, or no axis of 1, 3 or 4 channels; the message names the video.
    """
    if isinstance(video, (list, tuple)):
        video = np.stack([np.asarray(frame) for frame in video]) if len(video) else np.zeros((0, 1, 1, 3), np.uint8)
    frames = video if isinstance(video, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(np.asarray(video)))
    if frames.ndim != 4:
        raise ValueError(f"video {index}: shape {tuple(frames.shape)}; give frames [T, 3, H, W] or [T, H, W, 3]")
    if len(frames) == 0:
        raise ValueError(f"video {index}: zero frames; leave the picture out (None) or give another clip")
    if frames.shape[1] not in (1, 3, 4) and frames.shape[-1] not in (1, 3, 4):
        raise ValueError(f"video {index}: shape {tuple(frames.shape)} has no color axis; give [T, 3, H, W]")
    if frames.is_floating_point() and not torch.isfinite(frames).all():
        raise ValueError(f"video {index}: NaN or infinite pixels; give uint8 frames")
    return frames
