# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Processor: mp4 files, frames and waveforms to a batch for MA-AVT."""

import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import logging
from transformers.video_utils import make_batched_metadata

from .clip_types import MissingStreamError
from .clips import EVERYTHING, Clip, ClipRequest, clip_window, frame_times, load_clip
from .feature_extraction_maavt import MAAVTFeatureExtractor, as_waveforms
from .video_processing_maavt import MAAVTVideoProcessor, MAAVTVideoProcessorKwargs, as_frames, is_clip_source


logger = logging.get_logger(__name__)


class MAAVTProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of `MAAVTProcessor`, by part."""

    _defaults = {}  # transformers before 5.23 needs it
    videos_kwargs: MAAVTVideoProcessorKwargs


class MAAVTProcessor(ProcessorMixin):
    """A feature extractor for audio and a video processor, fed from files by one clock.

    `MAAVTProcessor()` builds the default parts; `from_backbone` fits the frames to a pretrained ViT.
    """

    valid_processor_kwargs = MAAVTProcessorKwargs
    default_parts = (MAAVTFeatureExtractor, MAAVTVideoProcessor)

    def __init__(self, feature_extractor: Any = None, video_processor: Any = None, **kwargs: Any):
        # DeepAVFusion's processor has other default parts.
        default_extractor, default_video_processor = self.default_parts
        if feature_extractor is None:
            feature_extractor = default_extractor()
        if video_processor is None:
            video_processor = default_video_processor()
        super().__init__(feature_extractor, video_processor, **kwargs)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        feature_extractor: dict[str, Any] | None = None,
        video_processor: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "MAAVTProcessor":
        """A processor whose frames have the size, mean, deviation and resampling of a backbone's image processor.

        Args:
            name_or_path: a ViT on the Hub or in a folder, with a `preprocessor_config.json`.
            feature_extractor, video_processor: fields that differ from the default; "preset" names the feature
                extractor's recipe.
            kwargs: for `AutoImageProcessor.from_pretrained` (`revision`, `token`, ...).

        Raises:
            OSError: there is no image processor; build `MAAVTProcessor` from its parts instead.
        """
        from transformers import AutoImageProcessor

        images = AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
        # A center crop that follows a larger resize is what the backbone sees in the end.
        crop = getattr(images, "crop_size", None) if getattr(images, "do_center_crop", False) else None
        fields = {
            "size": _height_and_width(crop or images.size),
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
            "resample": int(images.resample),
            "do_normalize": bool(images.do_normalize),
            "rescale_factor": float(images.rescale_factor),
            **(video_processor or {}),
        }
        audio_fields = dict(feature_extractor or {})
        preset = audio_fields.pop("preset", "default")
        extractor_class, video_class = cls.default_parts
        return cls(extractor_class.from_preset(preset, **audio_fields), video_class(**fields))

    def load_clip(self, source: Any, request: ClipRequest = EVERYTHING) -> Clip:
        """Decode what this processor needs of a clip, and no more.

        Frames are taken from the seconds that the spectrograms cover: T / S at the centers of equal parts of each
        of the S segments (frame t belongs to segment `t * S // T`).

        Args:
            source: as for `processing.clips.load_clip`.
            request: what to decode. `num_frames` defaults to the video processor's `frames_per_clip`, and the sampling
                rate is the feature extractor's.

        Raises:
            ClipError: the file or the window is bad.
            ValueError: `num_frames` is not a multiple of the number of segments.
        """
        # The window is that of the spectrograms: the frames come from the seconds that are heard.
        request = replace(request, sampling_rate=self.feature_extractor.sampling_rate)
        if request.times is not None:
            return load_clip(source, request)
        start, end = clip_window(source, request)
        first, last = self.feature_extractor.heard_window(end - start)
        if request.fps is None and "video" in request.streams:
            times = self.frame_times(start, end, request.num_frames)
            request = replace(request, num_frames=None, times=times)
        return load_clip(source, replace(request, start=start + first, end=start + last, within=(start, end)))

    def frame_times(self, start: float, end: float, num_frames: int | None = None) -> np.ndarray:
        """The seconds `[T]` at which `load_clip` takes the frames of a window."""
        # Each segment of audio has as many frames as the others.
        count = num_frames or self.video_processor.frames_per_clip
        windows = self.feature_extractor.segment_windows(end - start)
        if count % len(windows):
            raise ValueError(
                f"num_frames={count} for {len(windows)} segments of audio; give a multiple of {len(windows)}, so that "
                "each segment has its own frames"
            )
        return start + np.concatenate([frame_times(*window, count // len(windows)) for window in windows])

    def __call__(
        self,
        clips: Any = None,
        videos: Any = None,
        audio: Any = None,
        on_missing: str | None = None,
        times: Sequence[float] | None = None,
        allow_remote: bool | None = None,
        **kwargs: Unpack[MAAVTProcessorKwargs],
    ) -> BatchFeature:
        """Build a batch: `processor("clip.mp4")` reads the video and the audio of a file.

        Args:
            clips: one or a list of: file, `(file, start, end)` in seconds, or a decoded `Clip`. The video and the audio
                of a file are decoded once and aligned by seconds. A file is a path, bytes, a row of
                `datasets.Video(decode=False)`, a file object, or a torchcodec decoder of `datasets`.
            videos: video alone, one or a list of: file, torchcodec decoder, frames uint8 `[T, 3, H, W]` or
                `[T, H, W, 3]`, list of PIL images; None where it is missing.
            audio: audio alone, one or a list of: file, torchcodec decoder, mono waveform `[n]`,
                `{"array", "sampling_rate"}`; None where it is missing.
            on_missing: "raise" (default), or "none": a stream that a file lacks, or that ends before the seconds that are
                heard, becomes a missing modality.
            times: seconds at which to take the frames of every file.
            allow_remote: let FFmpeg open URLs and protocol strings.
            kwargs: `num_frames` or `fps` for files (default: `frames_per_clip` frames) and passed frames;
                `sampling_rate` of passed waveforms; `return_tensors`, "pt" unless given; whatever the parts take.

        Returns:
            `pixel_values_videos` `[B, T, 3, H, W]`, `input_features` `[B, S, F, W]`, `has_video` and `has_audio`
            bool `[B]`. A modality that the whole batch lacks has no key; one that a clip lacks is filled with zeros.

        Raises:
            ClipError, ValueError: bad input; the message names it and the cure.
        """
        if clips is None and videos is None and audio is None:
            raise ValueError("no input; give clips, videos, audio, or videos and audio")
        if clips is not None and (videos is not None or audio is not None):
            raise ValueError("clips holds video and audio; give it alone, or videos and audio")
        # What to decode
        options = _Options(kwargs)
        request = ClipRequest(
            num_frames=options.num_frames,
            fps=options.fps,
            times=times,
            on_missing=on_missing or "raise",
            allow_remote=bool(allow_remote),
            transform=self.video_processor.resizer(**options.of_videos),
        )
        # Decode: frames and waveforms by clip, None where one is missing
        if options.sample_frames is False and times is None:
            files = _as_list(videos, _is_single_video) if clips is None else _as_list(clips, _is_single_clip)
            _refuse_files(
                [file[0] if isinstance(file, (tuple, list)) and clips is not None else file for file in files]
            )
        if clips is not None:
            loaded = [self._load(clip, request) for clip in _as_list(clips, _is_single_clip)]
            videos, audio = [clip.frames for clip in loaded], [_with_rate(clip) for clip in loaded]
        else:
            videos, audio = _side_by_side(videos, audio)
            videos, audio = self._load_separately(videos, audio, request, options)
        if all(video is None for video in videos) and all(waveform is None for waveform in audio):
            raise ValueError("every clip of the batch lacks video and audio; give at least one of them")
        # Spectrograms and pixels
        self._check_sampling_rate(audio, options.sampling_rate)
        return BatchFeature(self._process(videos, audio, options.rest), tensor_type=options.return_tensors)

    def _load_separately(
        self, videos: list, audio: list, request: ClipRequest, options: "_Options"
    ) -> tuple[list, list]:
        """Files among the videos and the audio become frames and waveforms. A file given as both is read once."""
        videos, audio = list(videos), list(audio)
        missing: list[MissingStreamError] = []
        for index, (video, waveform) in enumerate(zip(videos, audio, strict=True)):
            # One file for both is decoded once.
            if _is_same_file(video, waveform):
                clip = self._load(video, request)
                videos[index], audio[index] = clip.frames, _with_rate(clip)
                continue
            # Else each stream is read from its file, or is decoded already.
            if video is not None and is_clip_source(video):
                videos[index] = self._load_stream(video, replace(request, streams=("video",)), missing).frames
            elif video is not None:
                frames = as_frames(video, index, options.layout or self.video_processor.input_data_format)
                videos[index] = self._sample(frames, index, options.video_metadata, request)
            if waveform is not None and _is_audio_file(waveform):
                of_audio = replace(request, streams=("audio",), times=None)
                audio[index] = _with_rate(self._load_stream(waveform, of_audio, missing))
        # A batch of nothing: name the first file that lacks its stream.
        if missing and all(part is None for part in (*videos, *audio)):
            raise missing[0]
        return videos, audio

    def _load_stream(self, source: Any, request: ClipRequest, missing: list[MissingStreamError]) -> Clip:
        """The one requested stream; where it may be missing and is, an empty clip, and the error goes to `missing`."""
        try:
            return self._load(source, request)
        except MissingStreamError as error:
            if request.on_missing == "raise":
                raise
            missing.append(error)
            return Clip()

    def _sample(self, frames: torch.Tensor, index: int, metadata: Any, request: ClipRequest) -> torch.Tensor:
        """Fewer of the passed frames, where that is asked for."""
        if request.num_frames is None and request.fps is None:
            return frames
        if isinstance(metadata, (list, tuple)):
            metadata = metadata[index]  # one for each video
        described = make_batched_metadata([frames], None if metadata is None else [metadata])[0]
        return frames[self.video_processor.sample_frames(described, request.num_frames, request.fps)]

    def _load(self, clip: Any, request: ClipRequest) -> Clip:
        if isinstance(clip, Clip) or type(clip).__name__ == "Clip":  # remote code has another class of this name
            return clip
        if isinstance(clip, (tuple, list)):
            if len(clip) != 3:
                raise ValueError(f"clip {clip!r}: give a file or (file, start, end)")
            return self.load_clip(clip[0], replace(request, start=clip[1], end=clip[2]))
        return self.load_clip(clip, request)

    def _check_sampling_rate(self, audio: list, sampling_rate: int | None) -> None:
        """Files and dicts bring their rate; a bare waveform has the caller's."""
        needed = self.feature_extractor.sampling_rate
        for index, waveform in enumerate(audio):
            if waveform is None:
                continue
            rate = waveform.get("sampling_rate") if isinstance(waveform, dict) else sampling_rate
            if rate is None:
                logger.warning_once(
                    f"waveform {index}: no sampling_rate was given, so {needed} Hz is assumed; pass sampling_rate"
                )
            elif rate != needed:
                raise ValueError(
                    f"waveform {index}: sampling_rate {rate} Hz, but this processor needs {needed} Hz; resample it, or "
                    "pass the file's path"
                )

    def _process(self, videos: list, audio: list, kwargs: dict) -> dict[str, torch.Tensor]:
        """The batch of frames and waveforms, of which each clip may lack one."""
        has_video = torch.tensor([video is not None for video in videos])
        has_audio = torch.tensor([waveform is not None for waveform in audio])
        # The parts see the clips that have the modality ...
        inputs: dict[str, Any] = {}
        if has_video.any():
            inputs["videos"] = [video for video in videos if video is not None]
        if has_audio.any():
            present = [waveform for waveform in audio if waveform is not None]
            inputs["audio"] = as_waveforms([w["array"] if isinstance(w, dict) else w for w in present])
        rate = self.feature_extractor.sampling_rate
        processed = super().__call__(
            **inputs, **kwargs, do_sample_frames=False, sampling_rate=rate, return_tensors="pt"
        )
        # ... and their rows go back among rows of zeros.
        batch, device = {}, has_video.device
        for name, present in (("pixel_values_videos", has_video), ("input_features", has_audio)):
            if name in processed:
                batch[name] = _scatter(processed[name], present)
                device = batch[name].device  # of `device=`, which both parts take
        return {**batch, "has_video": has_video.to(device), "has_audio": has_audio.to(device)}

    @property
    def tokenizer(self) -> "NoTokenizer":
        """Of no use here, but Trainer reads a processor's tokenizer without asking whether it has one."""
        return NoTokenizer()

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.__dict__.pop("auto_map", None)  # belongs in the file; a loaded processor has none either
        return files

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple:
        # The base class would fetch files here.
        # Files are read, and batches are lists, before the parts are called: nothing is left to fetch
        return images, text, videos, audio

    def _process_videos(self, videos: list, **kwargs: Any) -> tuple[BatchFeature, list]:
        kwargs["input_data_format"] = ChannelDimension.FIRST  # as_frames gives it
        videos = [as_frames(video, index) for index, video in enumerate(videos)]
        if kwargs.get("do_rescale", self.video_processor.do_rescale):
            warn_of_small_pixels(videos)
        # A batch is one tensor.
        lengths = sorted({len(video) for video in videos})
        if len(lengths) > 1:
            raise ValueError(f"videos of {lengths} frames in one batch; pass num_frames, or cut them to one length")
        return self.video_processor(videos, **kwargs), []

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values_videos", "input_features", "has_video", "has_audio"]


# Beside `None`, Trainer asks a tokenizer for its special tokens, and ProcessorMixin for its settings.
class NoTokenizer:
    """Defines no special tokens."""

    eos_token_id = bos_token_id = pad_token_id = None
    init_kwargs: dict[str, Any] = {}


class _Options:
    """Keyword arguments of a call, given flat or in the dict of a part. `rest` are those left for the parts."""

    of_frames = ("num_frames", "fps", "do_sample_frames", "video_metadata", "input_data_format")
    names = ("return_tensors", "sampling_rate", *of_frames)

    def __init__(self, kwargs: dict[str, Any]):
        self.rest = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
        # An option in the dict of a part wins over a flat one.
        values: dict[str, Any] = {}
        for group in (self.rest, *(self.rest.get(f"{part}_kwargs") or {} for part in ("common", "audio", "videos"))):
            values |= {name: group.pop(name) for name in self.names if name in group}
        self.sample_frames = values.get("do_sample_frames")
        if self.sample_frames is False:
            values |= {"num_frames": None, "fps": None}
        self.return_tensors = values.get("return_tensors") or "pt"
        self.num_frames, self.fps = values.get("num_frames"), values.get("fps")
        self.video_metadata, self.sampling_rate = values.get("video_metadata"), values.get("sampling_rate")
        self.layout = values.get("input_data_format")
        # What the video processor is told
        common, videos = (self.rest.get(f"{part}_kwargs") or {} for part in ("common", "videos"))
        self.of_videos = {**self.rest, **common, **videos}


def warn_of_small_pixels(videos: list[torch.Tensor]) -> None:
    """Frames of floats from 0 to 1 would be divided by 255 again."""
    for index, video in enumerate(videos):
        if video.is_floating_point() and 0 < video.abs().max() <= 1:
            logger.warning_once(
                f"video {index}: no pixel is above 1, but frames are taken as 0 to 255; give uint8 frames, or "
                "do_rescale=False"
            )


def _with_rate(clip: Clip) -> dict[str, Any] | None:
    """The waveform of a clip with its sampling rate, or None."""
    if clip.waveform is None:
        return None
    return {"array": clip.waveform, "sampling_rate": clip.sampling_rate}


def _side_by_side(videos: Any, audio: Any) -> tuple[list, list]:
    """Videos and audio as lists of one length, None where one is missing."""
    # One modality alone
    if videos is None:
        audio = _as_list(audio, _is_single_audio)
        return [None] * len(audio), audio
    videos = _as_list(videos, _is_single_video)
    if audio is None:
        return videos, [None] * len(videos)
    audio = _as_list(audio, _is_single_audio)
    if len(videos) != len(audio):
        raise ValueError(f"{len(videos)} videos, but {len(audio)} of audio; give one (or None) for each video")
    return videos, audio


def _refuse_files(videos: list) -> None:
    """Of a file frames are always sampled. Raises ValueError."""
    for video in videos:
        if is_clip_source(video):
            raise ValueError(
                f"do_sample_frames=False: of a file ({video!r:.80}) frames are sampled; leave it out, or give decoded frames"
            )


def _is_same_file(video: Any, audio: Any) -> bool:
    """Whether both are one path, as text or as a path object, or the same bytes."""
    if not all(isinstance(source, (str, bytes, os.PathLike)) for source in (video, audio)):
        return False
    return os.fspath(video) == os.fspath(audio)


def _as_list(values: Any, is_single: Any) -> list:
    return [values] if is_single(values) else list(values)


def _is_single_clip(clips: Any) -> bool:
    if isinstance(clips, (tuple, list)):
        window = len(clips) == 3 and is_clip_source(clips[0])
        return window and all(x is None or isinstance(x, Real) for x in clips[1:])
    return True


def _is_single_video(videos: Any) -> bool:
    if is_clip_source(videos):
        return True
    if isinstance(videos, (list, tuple)):
        # Frames of one video have three axes; a list of videos holds files or four axes.
        first = next((video for video in videos if video is not None), None)
        return first is not None and not is_clip_source(first) and _rank(first) == 3
    return np.ndim(videos) != 5


def _rank(frames: Any) -> int:
    """The number of axes. Of a list only the first item is looked at: the others may have another shape."""
    if isinstance(frames, Image.Image):
        return 3  # a frame, also where it is gray or has a palette
    if isinstance(frames, (list, tuple)) and frames:
        return 1 + _rank(frames[0])
    return np.ndim(frames)


def _is_single_audio(audio: Any) -> bool:
    if _is_audio_file(audio) or isinstance(audio, dict):
        return True
    if isinstance(audio, (list, tuple)):
        return len(audio) > 0 and np.isscalar(audio[0]) and not isinstance(audio[0], (str, bytes))
    return np.ndim(audio) == 1


def _is_audio_file(audio: Any) -> bool:
    if isinstance(audio, dict):
        return "array" not in audio
    return is_clip_source(audio) or hasattr(audio, "get_samples_played_in_range")


def _height_and_width(size: Any) -> dict[str, int]:
    size = dict(size) if not isinstance(size, int) else {"shortest_edge": size}
    edge = size.get("shortest_edge")
    return {"height": size.get("height") or edge, "width": size.get("width") or edge}


def _scatter(rows: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Put the rows of the clips that have the modality among rows of zeros."""
    if present.all():
        return rows
    # (present, ...) -> (B, ...)
    full = rows.new_zeros((len(present), *rows.shape[1:]))
    full[present.to(rows.device)] = rows
    return full
