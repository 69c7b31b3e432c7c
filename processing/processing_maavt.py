# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Processor: mp4 files, frames and waveforms to a batch for MA-AVT."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import logging
from transformers.video_utils import make_batched_metadata

from .clips import EVERYTHING, Clip, ClipRequest, clip_window, frame_times, load_clip
from .feature_extraction_maavt import MAAVTFeatureExtractor, as_waveforms
from .video_processing_maavt import MAAVTVideoProcessor, MAAVTVideoProcessorKwargs, as_frames, is_clip_source


logger = logging.get_logger(__name__)


class MAAVTProcessorKwargs(ProcessingKwargs, total=False):
    """Keyword arguments of `MAAVTProcessor`, by part."""

    videos_kwargs: MAAVTVideoProcessorKwargs


class MAAVTProcessor(ProcessorMixin):
    """A feature extractor for sound and a video processor for the picture, fed from files by one clock.

    `MAAVTProcessor()` builds the default parts; `from_backbone` fits the pictures to a pretrained ViT.
    """

    valid_processor_kwargs = MAAVTProcessorKwargs
    default_parts = (MAAVTFeatureExtractor, MAAVTVideoProcessor)

    def __init__(self, feature_extractor: Any = None, video_processor: Any = None, **kwargs: Any):
        sound, picture = self.default_parts
        feature_extractor = sound() if feature_extractor is None else feature_extractor
        video_processor = picture() if video_processor is None else video_processor
        super().__init__(feature_extractor, video_processor, **kwargs)

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str,
        feature_extractor: dict[str, Any] | None = None,
        video_processor: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "MAAVTProcessor":
        """A processor whose pictures have the size, mean, deviation and resampling of a backbone's image processor.

        Args:
            name_or_path: a ViT on the Hub or in a folder, with a `preprocessor_config.json`.
            feature_extractor, video_processor: fields that differ from the default; "preset" names the feature
                extractor's recipe.
            kwargs: for `AutoImageProcessor.from_pretrained` (`revision`, `token`, ...).

        Raises:
            OSError: there is no image processor; build `MAAVTProcessor` from its parts instead.
        """
        from transformers import AutoImageProcessor

        pictures = AutoImageProcessor.from_pretrained(name_or_path, **kwargs)
        crop = getattr(pictures, "crop_size", None) if getattr(pictures, "do_center_crop", False) else None
        fields = {
            "size": _height_and_width(crop or pictures.size),
            "image_mean": list(pictures.image_mean),
            "image_std": list(pictures.image_std),
            "resample": int(pictures.resample),
            "do_normalize": bool(pictures.do_normalize),
            "rescale_factor": float(pictures.rescale_factor),
            **(video_processor or {}),
        }
        sound = dict(feature_extractor or {})
        extractor, frames = cls.default_parts
        return cls(extractor.from_preset(sound.pop("preset", "default"), **sound), frames(**fields))

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
        request = replace(request, sampling_rate=self.feature_extractor.sampling_rate)
        if request.times is not None:
            return load_clip(source, request)
        start, end = clip_window(source, request)
        first, last = self.feature_extractor.heard_window(end - start)
        if request.fps is None and "video" in request.streams:
            times = self.frame_times(start, end, request.num_frames)
            request = replace(request, num_frames=None, times=times)
        return load_clip(source, replace(request, start=start + first, end=start + last))

    def frame_times(self, start: float, end: float, num_frames: int | None = None) -> np.ndarray:
        """The seconds `[T]` at which `load_clip` takes the frames of a window."""
        count = num_frames or self.video_processor.frames_per_clip
        windows = self.feature_extractor.segment_windows(end - start)
        if count % len(windows):
            raise ValueError(
                f"num_frames={count} for {len(windows)} sound segments; give a multiple of {len(windows)}, so that "
                "each segment has its own frames"
            )
        return start + np.concatenate([frame_times(*window, count // len(windows)) for window in windows])

    def __call__(
        self,
        videos: Any = None,
        audio: Any = None,
        clips: Any = None,
        on_missing: str | None = None,
        times: Sequence[float] | None = None,
        allow_remote: bool | None = None,
        **kwargs: Unpack[MAAVTProcessorKwargs],
    ) -> BatchFeature:
        """Build a batch.

        Args:
            videos: one or a list of: path, bytes, a row of `datasets.Video(decode=False)`, file object, torchcodec
                decoder, frames uint8 `[T, 3, H, W]` or `[T, H, W, 3]`, list of PIL images; None where it is missing.
            audio: one or a list of: the same kinds of file, mono waveform `[n]`, `{"array", "sampling_rate"}`; None
                where it is missing.
            clips: one or a list of: file, `(file, start, end)` in seconds, or a decoded `Clip`: picture and sound
                of one file, decoded once and aligned by seconds.
            on_missing: "raise" (default), or "none": a stream that a file lacks becomes a missing modality.
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
            raise ValueError("clips holds picture and sound; give it alone, or videos and audio")
        return_tensors = _option(kwargs, "return_tensors", ("common_kwargs", "videos_kwargs", "audio_kwargs")) or "pt"
        sampling = {name: _option(kwargs, name, ("videos_kwargs",)) for name in ("num_frames", "fps")}
        if _option(kwargs, "do_sample_frames", ("videos_kwargs",)) is False:
            sampling = {"num_frames": None, "fps": None}
        request = ClipRequest(
            **sampling, times=times, on_missing=on_missing or "raise", allow_remote=bool(allow_remote)
        )
        if clips is not None:
            clips = _as_list(clips, _is_single_clip)
            loaded = [self._load(clip, request) for clip in clips]
            pictures, sounds = [clip.frames for clip in loaded], [self._sound(clip) for clip in loaded]
        else:
            metadata = _option(kwargs, "video_metadata", ("videos_kwargs",))
            pictures, sounds = self._load_separately(videos, audio, request, metadata)
        if not any(p is not None for p in pictures) and not any(s is not None for s in sounds):
            raise ValueError("every clip of the batch lacks picture and sound; give at least one of them")
        self._check_sampling_rate(sounds, _option(kwargs, "sampling_rate", ("audio_kwargs",)))
        batch = self._process(pictures, sounds, kwargs)
        return BatchFeature(batch, tensor_type=return_tensors)

    def _load_separately(self, videos: Any, audio: Any, request: ClipRequest, metadata: Any) -> tuple[list, list]:
        pictures = None if videos is None else _as_list(videos, _is_single_video)
        sounds = None if audio is None else _as_list(audio, _is_single_sound)
        if pictures is not None and sounds is not None and len(pictures) != len(sounds):
            raise ValueError(
                f"{len(pictures)} videos and {len(sounds)} sounds; give one sound (or None) for each video"
            )
        count = len(pictures if pictures is not None else sounds)
        pictures, sounds = list(pictures or [None] * count), list(sounds or [None] * count)

        for index in range(count):
            picture, sound = pictures[index], sounds[index]
            if isinstance(picture, str) and isinstance(sound, str) and picture == sound:
                clip = self._load(picture, request)
                pictures[index], sounds[index] = clip.frames, self._sound(clip)
                continue
            if picture is not None and is_clip_source(picture):
                pictures[index] = self._load(picture, replace(request, streams=("video",))).frames
            elif picture is not None:
                pictures[index] = self._sample(as_frames(picture, index), index, metadata, request)
            if sound is not None and _is_sound_file(sound):
                sounds[index] = self._sound(self._load(sound, replace(request, streams=("audio",), times=None)))

        return pictures, sounds

    def _sample(self, frames: torch.Tensor, index: int, metadata: Any, request: ClipRequest) -> torch.Tensor:
        """Fewer of the passed frames, where that is asked for."""
        if request.num_frames is None and request.fps is None:
            return frames
        described = make_batched_metadata([frames], None if metadata is None else [metadata[index]])[0]
        return frames[self.video_processor.sample_frames(described, request.num_frames, request.fps)]

    def _load(self, clip: Any, request: ClipRequest) -> Clip:
        if isinstance(clip, Clip) or type(clip).__name__ == "Clip":  # remote code has a class of its own
            return clip
        if isinstance(clip, (tuple, list)):
            if len(clip) != 3:
                raise ValueError(f"clip {clip!r}: give a file or (file, start, end)")
            return self.load_clip(clip[0], replace(request, start=clip[1], end=clip[2]))
        decoders = {"get_frames_played_at": "video", "get_samples_played_in_range": "audio"}
        held = [kind for method, kind in decoders.items() if hasattr(clip, method)]
        return self.load_clip(clip, replace(request, streams=held or request.streams))

    @staticmethod
    def _sound(clip: Clip) -> dict[str, Any] | None:
        if clip.waveform is None:
            return None
        return {"array": clip.waveform, "sampling_rate": clip.sampling_rate}

    def _check_sampling_rate(self, sounds: list, sampling_rate: int | None) -> None:
        """Files and dicts bring their own rate; a bare waveform has the caller's."""
        for index, sound in enumerate(sounds):
            rate = sound.get("sampling_rate") if isinstance(sound, dict) else sampling_rate
            if sound is not None and rate is None:
                logger.warning_once("No sampling_rate was given: pass it, so that it is checked.")
            if sound is not None and rate is not None and rate != self.feature_extractor.sampling_rate:
                raise ValueError(
                    f"waveform {index}: sampling_rate {rate} Hz, but this processor needs "
                    f"{self.feature_extractor.sampling_rate} Hz; resample it, or pass the file's path"
                )

    def _process(self, pictures: list, sounds: list, kwargs: dict) -> dict[str, torch.Tensor]:
        has_video = torch.tensor([picture is not None for picture in pictures])
        has_audio = torch.tensor([sound is not None for sound in sounds])
        inputs: dict[str, Any] = {}
        if has_video.any():
            inputs["videos"] = [picture for picture in pictures if picture is not None]
        if has_audio.any():
            present = [sound for sound in sounds if sound is not None]
            inputs["audio"] = as_waveforms([s["array"] if isinstance(s, dict) else s for s in present])
        kwargs = {name: dict(value) if isinstance(value, dict) else value for name, value in kwargs.items()}
        done = ("return_tensors", "num_frames", "fps", "do_sample_frames", "video_metadata", "sampling_rate")
        for options in (kwargs, *(kwargs.get(f"{part}_kwargs", {}) for part in ("common", "videos", "audio"))):
            for name in done:
                options.pop(name, None)
        kwargs.update(do_sample_frames=False, sampling_rate=self.feature_extractor.sampling_rate, return_tensors="pt")
        processed = super().__call__(**inputs, **kwargs)
        batch = {}
        for name, present in (("pixel_values_videos", has_video), ("input_features", has_audio)):
            if name in processed:
                batch[name] = _scatter(processed[name], present)
        return {**batch, "has_video": has_video, "has_audio": has_audio}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        self.__dict__.pop("auto_map", None)  # belongs in the file; a loaded processor has none either
        return files

    def prepare_inputs_layout(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> tuple:
        # files are read, and batches are lists, before the parts are called: nothing is left to fetch
        return images, text, videos, audio

    def _process_videos(self, videos: list, **kwargs: Any) -> tuple[BatchFeature, list]:
        videos = [as_frames(video, index) for index, video in enumerate(videos)]
        lengths = sorted({len(video) for video in videos})
        if len(lengths) > 1:
            raise ValueError(f"videos of {lengths} frames in one batch; pass num_frames, or cut them to one length")
        return self.video_processor(videos, **kwargs), []

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values_videos", "input_features", "has_video", "has_audio"]


def _option(kwargs: dict, name: str, groups: Sequence[str]) -> Any:
    """A keyword argument, given flat or in the dict of its part."""
    for group in groups:
        if name in (kwargs.get(group) or {}):
            return kwargs[group][name]
    return kwargs.get(name)


def _as_list(values: Any, is_single: Any) -> list:
    return [values] if is_single(values) else list(values)


def _is_single_clip(clips: Any) -> bool:
    if isinstance(clips, (tuple, list)):
        window = len(clips) == 3 and is_clip_source(clips[0])
        return window and all(x is None or isinstance(x, (int, float)) for x in clips[1:])
    return True


def _is_single_video(videos: Any) -> bool:
    if is_clip_source(videos):
        return True
    if isinstance(videos, (list, tuple)):
        first = next((video for video in videos if video is not None), None)
        return first is not None and not is_clip_source(first) and np.ndim(first) == 3
    return np.ndim(videos) != 5


def _is_single_sound(audio: Any) -> bool:
    if _is_sound_file(audio) or isinstance(audio, dict):
        return True
    if isinstance(audio, (list, tuple)):
        return len(audio) > 0 and np.isscalar(audio[0]) and not isinstance(audio[0], (str, bytes))
    return np.ndim(audio) == 1


def _is_sound_file(sound: Any) -> bool:
    if isinstance(sound, dict):
        return "array" not in sound
    return is_clip_source(sound) or hasattr(sound, "get_samples_played_in_range")


def _height_and_width(size: Any) -> dict[str, int]:
    size = dict(size) if not isinstance(size, int) else {"shortest_edge": size}
    edge = size.get("shortest_edge")
    return {"height": size.get("height") or edge, "width": size.get("width") or edge}


def _scatter(rows: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Put the rows of the clips that have the modality among rows of zeros."""
    if present.all():
        return rows
    full = rows.new_zeros((len(present), *rows.shape[1:]))
    full[present.to(rows.device)] = rows
    return full
