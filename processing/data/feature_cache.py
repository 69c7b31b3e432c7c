# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips decoded ahead of time: uint8 frames and bfloat16 spectrograms in shards, read in training without a decoder.

What is kept depends on what the run changes at random, so that items stay what they are without the cache:

* frames: "resized" (cut, resized and laid out by the video processor, before it rescales and normalizes; nothing is
  lost, uint8 is what resizing gives) where frames are not augmented, else "decoded" (as the file shows them: crops
  and flips come before resizing);
* audio: "spectrogram" (bfloat16) where the waveform is not changed, else "waveform" (16 bits below the clip's own peak),
  to which gain and noise are added before the spectrogram is taken.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from filelock import FileLock

from processing.clip_types import MissingStreamError
from processing.clips import Clip, ClipRequest, clip_error

from .augmentation import ClipAugmentation
from .conventions import MODALITIES
from .engines import IN_THIS_PROCESS, Engine
from .feature_building import (
    ShardWriter,
    announce,
    keyed_tables,
    missing_jobs,
    run_jobs,
    window_key,
    windows_per_clip,
)
from .feature_shards import FeatureShards


# Fields that play no part in which seconds are decoded, or in the frames before they are rescaled. Whatever else a
# processor has counts, known here or not: a field too many costs a rebuild, one too few gives wrong arrays.
_NAMES = {"auto_map", "processor_class", "feature_extractor_type", "video_processor_type", "return_tensors"}
_ONLY_SPECTRAL = {
    "transform", "n_fft", "win_length", "num_bins", "min_frequency", "max_frequency", "log_offset", "time_first",
    "remove_mean", "clip_amplitude", "normalization", "mean", "std", "padding_value", "padding_side", "feature_size",
    "return_attention_mask",
}  # fmt: skip
_AFTER_GEOMETRY = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "frames_per_clip"}
_GEOMETRY_OFF = {"do_resize": False, "do_center_crop": False, "crop_box": None, "frame_grid": None}


class FeatureCache:
    """Stands in for a processor in a `ClipDataset`: its `load_clip` reads shards, its call finishes what they hold.

    Which partner, augmentation and noise an item gets is still drawn by the data set, from (seed, epoch, index).
    Frames are equal to those without the cache; spectrograms within bfloat16 rounding (a relative 2^-8).
    Made by `build_feature_cache`; give the data set the rows of `tables`, whose cells hold the keys of cached clips.
    """

    def __init__(
        self, processor: Any, shards: Mapping[str, FeatureShards], tables: DatasetDict, frames: str, num_frames: int
    ):
        """`num_frames` are those of one window."""
        self.processor, self.shards, self.tables = processor, dict(shards), tables
        self.num_frames = num_frames
        self._finisher = processor
        if frames == "resized":
            self._finisher = copy.deepcopy(processor)
            for name, value in _GEOMETRY_OFF.items():
                if hasattr(self._finisher.video_processor, name):
                    setattr(self._finisher.video_processor, name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "processor":  # while a worker unpickles this object
            raise AttributeError(name)
        return getattr(self.processor, name)

    def check_draws(self, *, noise_db: Any, augmentation: Any, clip_seconds: float | None) -> None:
        """Refuse, with ValueError, random changes that come before what is cached. `ClipDataset` asks at its start."""
        # Resized frames come too late for crops and flips.
        changes_frames = augmentation is not None and changes_frames_at_random(augmentation)
        if changes_frames and self._finisher is not self.processor:
            raise ValueError('the feature cache holds resized frames, too late to crop or flip; use frames="decoded"')
        # Spectrograms come too late for noise and gain.
        audio = self.shards.get("audio")
        changed = noise_db is not None or (augmentation is not None and augmentation.gain_db != 0)
        if changed and audio is not None and audio.settings["audio"] == "spectrogram":
            raise ValueError('the feature cache holds spectrograms, too late for noise and gain; use audio="waveform"')
        if clip_seconds is not None:
            raise ValueError("the feature cache holds fixed windows; leave clip_seconds or the feature cache out")

    def load_clip(self, source: Any, request: ClipRequest) -> Clip:
        """As `MAAVTProcessor.load_clip`, of a clip in the cache. `waveform` is a waveform `[n]`, or what the cache holds
        in its place: a spectrogram `[S, F, W]`, which noise and gain must leave alone.

        Raises:
            ValueError: a clip, window, stream or number of frames that the cache was not built for.
            ClipError: the file lacks a wanted stream.
        """
        wanted = request.num_frames
        if "video" in request.streams and wanted is not None and wanted != self.num_frames:
            raise ValueError(f"num_frames={wanted}, but the feature cache holds {self.num_frames}; build it anew")
        # One entry of a shard for each stream.
        arrays = {}
        name = source.get("path") if isinstance(source, dict) else source
        key = window_key(name, request.start, request.end)
        for stream in request.streams:
            clip = self.shards[stream].clips.get(key) if stream in self.shards else None
            if clip is None:
                raise ValueError(
                    f"{name}: no {stream} from {request.start} s to {request.end} s of it in the feature cache; give the data set "
                    "`cache.tables`"
                )
            name, arrays[stream] = clip.name, self.shards[stream].read(clip)
            if arrays[stream] is None and request.on_missing == "raise":
                raise clip_error(name, stream, f'the file has no {stream} stream; give another, or on_missing="none"')
        if all(value is None for value in arrays.values()):
            problem = "the file has no such stream; give another file"
            raise clip_error(name, " and ".join(request.streams), problem, MissingStreamError)
        rate = self.processor.feature_extractor.sampling_rate if arrays.get("audio") is not None else None
        return Clip(frames=arrays.get("video"), waveform=arrays.get("audio"), sampling_rate=rate, path=name)

    def __call__(self, videos: Any = None, audio: Any = None, **kwargs: Any) -> Any:
        """As the processor's call, of frames and waveforms that `load_clip` gave: what they lack is done."""
        if audio is None or audio[0].ndim == 1:
            return self._finisher(videos=videos, audio=audio, **kwargs)
        # Spectrograms are ready: only the frames go through the processor.
        batch = {} if videos is None else self._finisher(videos=videos, **{**kwargs, "sampling_rate": None})
        batch["input_features"] = torch.stack([spectrogram.float() for spectrogram in audio])
        batch["has_audio"] = torch.ones(len(audio), dtype=torch.bool)
        return batch


def changes_frames_at_random(augmentation: ClipAugmentation) -> bool:
    """Whether frames are cropped or flipped at random, which comes before they are resized."""
    return augmentation.random_resized_crop_scale is not None or augmentation.flip > 0


def build_feature_cache(
    root: str | os.PathLike,
    processor: Any,
    tables: Mapping[str, Dataset],
    *,
    num_frames: int,
    streams: Sequence[str] = MODALITIES,
    frames: str = "resized",
    audio: str = "spectrogram",
    engine: Engine = IN_THIS_PROCESS,
) -> FeatureCache:
    """Decode what is not cached yet, and give the cache.

    Safe to stop at any moment: shards are written whole, and the next call goes on from them. Any number of processes may
    call it for one folder; the first builds while the others wait. Clips are known by path, size and time of change (or by
    their bytes), and window, whatever split they are in.

    Args:
        root: folder of the cache; runs with different settings may share it.
        processor: a `MAAVTProcessor`, or what has its parts and `load_clip`.
        tables: rows by split, as `build_clip_table` gives them.
        num_frames: decoded per clip; where rows have `segment_windows`, shared out over them.
        streams: "video", "audio" or both.
        frames: "resized" or "decoded".
        audio: "spectrogram" or "waveform".
        engine: who decodes. Ray's machines need `root`, the clips and the cache of `datasets` in folders that all share.

    Raises:
        ClipError: clips cannot be decoded, or end the process that decodes them; all others are cached by then.
        ValueError: a bad option, a damaged shard, or too little room on the disk.
    """
    # Options and settings; shards of other settings lie in other folders.
    if frames not in ("resized", "decoded") or audio not in ("spectrogram", "waveform"):
        raise ValueError(f'{frames=}, {audio=}; use "resized" or "decoded", "spectrogram" or "waveform"')
    if not streams or set(streams) - set(MODALITIES):
        raise ValueError(f'streams={streams!r}; give "video", "audio" or both')
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    num_frames //= windows_per_clip(tables)
    settings = {"video": _video_settings(processor, frames, num_frames), "audio": _audio_settings(processor, audio)}
    keyed, sources = keyed_tables(tables)
    # One process builds what is missing, the others wait and then find it.
    with FileLock(root / ".lock"):
        shards = {stream: FeatureShards(root, stream, settings[stream]) for stream in streams}
        missing = missing_jobs(shards, sources)
        if missing:
            announce(shards, sources, missing)
            run_jobs(ShardWriter(processor, tables, shards, num_frames), missing, engine)
    return FeatureCache(processor, shards, keyed, frames, num_frames)


def _video_settings(processor: Any, frames: str, num_frames: int) -> dict[str, Any]:
    settings = {
        "frames": frames,
        "num_frames": num_frames,
        "seconds": _fields(processor.feature_extractor, _ONLY_SPECTRAL),
    }
    if frames == "resized":
        settings["geometry"] = _fields(processor.video_processor, _AFTER_GEOMETRY)
    return settings


def _audio_settings(processor: Any, form: str) -> dict[str, Any]:
    ignored = set() if form == "spectrogram" else _ONLY_SPECTRAL
    return {"audio": form, "feature_extractor": _fields(processor.feature_extractor, ignored)}


def _fields(part: Any, ignored: set[str]) -> dict[str, Any]:
    return {name: value for name, value in part.to_dict().items() if name not in ignored | _NAMES}
