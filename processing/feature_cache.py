# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips decoded ahead of time: uint8 frames and bfloat16 spectrograms in shards, read in training without a decoder.

What is kept depends on what the run changes at random, so that items stay what they are without the cache:

* frames: "resized" (cut, resized and laid out by the video processor, before it rescales and normalizes; nothing is
  lost, uint8 is what resizing gives) where pictures are not augmented, else "decoded" (as the file shows them: crops
  and flips come before resizing);
* sound: "spectrogram" (bfloat16) where the sound is not changed, else "waveform" (16 bits below the clip's own peak),
  to which gain and noise are added before the spectrogram is taken.
"""

import copy
import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Audio, Dataset, DatasetDict, Video
from filelock import FileLock
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .augmentation import ClipAugmentation
from .clip_info import clip_error
from .clips import Clip, ClipError, probe_clip
from .feature_shards import FeatureShards, fingerprint


logger = logging.getLogger(__name__)

STREAMS = ("video", "audio")
SHARD_CLIPS = 64  # what a killed build loses at most, per process
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
        changes_frames = augmentation is not None and changes_pictures(augmentation)
        if changes_frames and self._finisher is not self.processor:
            raise ValueError('the feature cache holds resized frames, too late to crop or flip; use frames="decoded"')
        audio = self.shards.get("audio")
        changed = noise_db is not None or (augmentation is not None and augmentation.gain_db != 0)
        if changed and audio is not None and audio.settings["sound"] == "spectrogram":
            raise ValueError('the feature cache holds spectrograms, too late for noise and gain; use sound="waveform"')
        if clip_seconds is not None:
            raise ValueError("the feature cache holds fixed windows; leave clip_seconds or the feature cache out")

    def load_clip(
        self,
        source: Any,
        start: float | None = None,
        end: float | None = None,
        *,
        num_frames: int | None = None,
        streams: Sequence[str] = STREAMS,
        on_missing: str = "raise",
    ) -> Clip:
        """As `MAAVTProcessor.load_clip`, of a clip in the cache. `waveform` is a waveform `[n]`, or what the cache holds
        in its place: a spectrogram `[S, F, W]`, which noise and gain must leave alone.

        Raises:
            ValueError: a clip, window, stream or number of frames that the cache was not built for.
            ClipError: the file lacks a wanted stream.
        """
        if "video" in streams and num_frames is not None and num_frames != self.num_frames:
            raise ValueError(f"num_frames={num_frames}, but the feature cache holds {self.num_frames}; build it anew")
        found = {}
        name = key = source.get("path") if isinstance(source, dict) else source
        for stream in streams:
            clip = self.shards[stream].clips.get(key) if stream in self.shards else None
            if clip is None:
                raise ValueError(f"{key}: no {stream} of it in the feature cache; give the data set `cache.tables`")
            if (clip.start, clip.end) != (start, end):
                raise ValueError(
                    f"{clip.name}: the feature cache holds {clip.start} s to {clip.end} s, not {start} s to {end} s; "
                    "leave clip_seconds or the feature cache out"
                )
            name, found[stream] = clip.name, self.shards[stream].read(clip)
            if found[stream] is None and on_missing == "raise":
                raise clip_error(name, stream, f'the file has no {stream} stream; give another, or on_missing="none"')
        if all(value is None for value in found.values()):
            raise clip_error(name, " and ".join(streams), "the file has no such stream; give another file")
        rate = self.processor.feature_extractor.sampling_rate if found.get("audio") is not None else None
        return Clip(frames=found.get("video"), waveform=found.get("audio"), sampling_rate=rate, path=name)

    def __call__(self, videos: Any = None, audio: Any = None, **kwargs: Any) -> Any:
        """As the processor's call, of frames and sounds that `load_clip` gave: what they lack is done."""
        if audio is None or audio[0].ndim == 1:
            return self._finisher(videos=videos, audio=audio, **kwargs)
        batch = {} if videos is None else self._finisher(videos=videos, **{**kwargs, "sampling_rate": None})
        batch["input_features"] = torch.stack([spectrogram.float() for spectrogram in audio])
        batch["has_audio"] = torch.ones(len(audio), dtype=torch.bool)
        return batch


def changes_pictures(augmentation: ClipAugmentation) -> bool:
    """Whether frames are cropped or flipped at random, which comes before they are resized."""
    return augmentation.random_resized_crop_scale is not None or augmentation.flip > 0


def build_feature_cache(
    root: str | os.PathLike,
    processor: Any,
    tables: Mapping[str, Dataset],
    *,
    num_frames: int,
    streams: Sequence[str] = STREAMS,
    frames: str = "resized",
    sound: str = "spectrogram",
    num_workers: int = 0,
    multiprocessing_context: str | None = None,
) -> FeatureCache:
    """Decode what is not cached yet, and give the cache.

    Safe to stop at any moment: shards are written whole, and the next call goes on from them. Any number of processes may
    call it for one folder; the first builds while the others wait. Clips are known by path, size and time of change (or by
    their bytes), and window, whatever split they are in.

    Args:
        root: folder of the cache; runs with different settings may share it.
        processor: a `MAAVTProcessor`, or what has its parts and `load_clip`.
        tables: rows by split, as `build_clip_table` gives them.
        num_frames: decoded per clip.
        streams: "video", "audio" or both.
        frames: "resized" or "decoded".
        sound: "spectrogram" or "waveform".
        num_workers: processes beside this one that decode.
        multiprocessing_context: "fork" or "spawn"; None is the platform's.

    Raises:
        ClipError: clips cannot be decoded; all others are cached by then.
        ValueError: a bad option, a damaged shard, or too little room on the disk.
    """
    if frames not in ("resized", "decoded") or sound not in ("spectrogram", "waveform"):
        raise ValueError(f'{frames=}, {sound=}; use "resized" or "decoded", "spectrogram" or "waveform"')
    if not streams or set(streams) - set(STREAMS):
        raise ValueError(f'streams={streams!r}; give "video", "audio" or both')
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    settings = {"video": _video_settings(processor, frames, num_frames), "audio": _sound_settings(processor, sound)}
    keyed, sources = _keyed(tables)
    with FileLock(root / ".lock"):
        shards = {stream: FeatureShards(root, stream, settings[stream]) for stream in streams}
        missing = _missing(shards, sources)
        if missing:
            _announce(shards, sources, missing)
            jobs = _ShardJobs(processor, tables, shards, missing, num_frames)
            _build(jobs, sources, num_workers, multiprocessing_context)
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


def _sound_settings(processor: Any, sound: str) -> dict[str, Any]:
    left_out = set() if sound == "spectrogram" else _ONLY_SPECTRAL
    return {"sound": sound, "feature_extractor": _fields(processor.feature_extractor, left_out)}


def _fields(part: Any, left_out: set[str]) -> dict[str, Any]:
    return {name: value for name, value in part.to_dict().items() if name not in left_out | _NAMES}


@dataclass
class _Source:
    """A file or bytes in a window, and where in the tables it stands (its bytes are not kept)."""

    key: str
    name: str
    start: float | None
    end: float | None
    place: tuple[str, int, str]
    streams: set[str]


def _keyed(tables: Mapping[str, Dataset]) -> tuple[DatasetDict, dict[str, _Source]]:
    """Tables whose cells hold keys instead of files, and what each key stands for."""
    keyed, sources = DatasetDict(), {}
    for split, table in tables.items():
        cells: dict[str, list] = {stream: [] for stream in STREAMS}
        for index, row in enumerate(table.select_columns([*STREAMS, "start", "end", "clip_id"])):
            window, key = (row["start"], row["end"]), None
            for stream in STREAMS:
                cell = row[stream]
                if cell is None:
                    cells[stream].append(None)
                    continue
                if stream == "video" or cell != row["video"]:  # else the key is that of the picture
                    key = fingerprint([*_identity(cell, row["clip_id"]), *window])
                name = cell["path"] or row["clip_id"]
                sources.setdefault(key, _Source(key, name, *window, (split, index, stream), set())).streams.add(stream)
                cells[stream].append({"path": key, "bytes": None})
        for stream, feature in (("video", Video(decode=False)), ("audio", Audio(decode=False))):
            table = table.remove_columns(stream).add_column(stream, cells[stream], feature=feature)
        keyed[split] = table
    return keyed, sources


def _identity(cell: Mapping[str, Any], clip_id: str) -> list[Any]:
    if cell["bytes"] is not None:
        return ["bytes", hashlib.sha256(cell["bytes"]).hexdigest()]
    try:
        found = os.stat(cell["path"])
    except OSError as error:
        raise clip_error(
            f"{clip_id} ({cell['path']})", "path", "no such file; mend the table, or bring it back"
        ) from error
    return ["path", os.path.abspath(cell["path"]), found.st_size, found.st_mtime_ns]


def _missing(shards: Mapping[str, FeatureShards], sources: Mapping[str, _Source]) -> list[tuple[tuple, list[_Source]]]:
    """Jobs of one shard each: the streams that are missing, and of which sources."""
    groups: dict[tuple, list[_Source]] = {}
    for key, source in sources.items():
        streams = tuple(s for s in STREAMS if s in shards and s in source.streams and key not in shards[s].clips)
        if streams:
            groups.setdefault(streams, []).append(source)
    return [
        (streams, group[first : first + SHARD_CLIPS])
        for streams, group in groups.items()
        for first in range(0, len(group), SHARD_CLIPS)
    ]


def _announce(shards: Mapping[str, FeatureShards], sources: Mapping[str, _Source], jobs: list) -> None:
    """Say what is built and why: other settings, changed files."""
    missing = sum(len(group) for _, group in jobs)
    logger.info("feature cache: %d of %d clips are to be decoded", missing, len(sources))
    for held in shards.values():
        if not held.clips:
            for line in held.other_settings():
                logger.warning(
                    "feature cache: %s was made with other settings (%s); it is kept, and a new one built beside it "
                    "in %s: delete it if no run needs it",
                    *line.split(": ", 1),
                    held.folder.name,
                )
        for name, shard in stale_clips(held, sources.values()):
            logger.warning("feature cache: %s has changed since it was cached in %s; it is decoded anew", name, shard)


def stale_clips(shards: FeatureShards, sources: Iterable[_Source]) -> list[tuple[str, str]]:
    """(clip, shard file) of what was cached from a file or bytes that have changed since."""
    cached = {(clip.name, clip.start, clip.end): clip for clip in shards.clips.values()}
    found = []
    for source in sources:
        clip = cached.get((source.name, source.start, source.end))
        if clip is not None and source.key not in shards.clips:
            found.append((source.name, clip.shard))
    return found


class _ShardJobs(torch.utils.data.Dataset):
    """Item i is what became of job i: a `DataLoader` over it is the pool of processes."""

    def __init__(self, processor: Any, tables: Mapping[str, Dataset], shards: Mapping, jobs: list, num_frames: int):
        self.processor, self.tables, self.shards, self.jobs = processor, tables, shards, jobs
        self.num_frames = num_frames

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        streams, sources = self.jobs[index]
        failures: list[str] = []
        decoded = self._decode(streams, sources, failures)
        size = 0
        if "video" in streams:
            sounds = []

            def pictures() -> Iterator[tuple]:  # frames go to the disk one clip at a time, sounds are small
                for entry, frames, sound in decoded:
                    sounds.append((entry, *sound))
                    yield entry, frames, None

            size += self.shards["video"].write(pictures())
        else:
            sounds = ((entry, *sound) for entry, _, sound in decoded)
        if "audio" in streams:
            size += self.shards["audio"].write(sounds)
        return {"clips": len(sources), "bytes": size, "failures": failures}

    def _decode(self, streams: tuple, sources: list[_Source], failures: list[str]) -> Iterator[tuple]:
        for source in sources:
            split, index, column = source.place
            try:
                clip = self._load(self.tables[split][index][column], source, streams)
                frames = None if clip.frames is None else self._frames(clip.frames)
                sound = (None, None) if clip.waveform is None else self._sound(clip.waveform)
            except ClipError as error:
                failures.append(str(error))
                continue
            yield (source.key, source.name, source.start, source.end), frames, sound

    def _load(self, cell: Mapping[str, Any], source: _Source, streams: tuple) -> Clip:
        try:
            return self.processor.load_clip(
                cell, source.start, source.end, num_frames=self.num_frames, streams=streams, on_missing="none"
            )
        except ClipError:
            info = probe_clip(cell)  # a file that is whole but has none of the streams is no failure
            if any(getattr(info, f"has_{stream}") for stream in streams):
                raise
            return Clip()

    def _frames(self, frames: torch.Tensor) -> torch.Tensor:
        if self.shards["video"].settings["frames"] == "decoded":
            return frames
        resized = self.processor.video_processor(
            videos=[frames], do_rescale=False, do_normalize=False, do_sample_frames=False, return_tensors="pt"
        )["pixel_values_videos"][0]
        if resized.dtype != torch.uint8:
            raise TypeError(f"the video processor resizes to {resized.dtype}, not uint8; leave the feature cache out")
        return resized

    def _sound(self, waveform: torch.Tensor) -> tuple[torch.Tensor, float | None]:
        if self.shards["audio"].settings["sound"] == "spectrogram":
            extractor = self.processor.feature_extractor
            features = extractor([waveform], sampling_rate=extractor.sampling_rate, return_tensors="pt")
            return features["input_features"][0].to(torch.bfloat16), None
        scale = max(float(waveform.abs().max()) if waveform.numel() else 0.0, 1e-30) / 32767
        return (waveform / scale).round().to(torch.int16), scale


def _build(
    jobs: _ShardJobs, sources: Mapping[str, _Source], num_workers: int, multiprocessing_context: str | None
) -> None:
    for shards in jobs.shards.values():
        shards.remove_leftovers()
    loader = DataLoader(
        jobs,
        batch_size=None,
        collate_fn=_as_is,
        num_workers=min(num_workers, len(jobs)),
        multiprocessing_context=multiprocessing_context if num_workers else None,
    )
    total, done, written, failures = sum(len(group) for _, group in jobs.jobs), 0, 0, []
    with tqdm(total=total, desc="feature cache", unit="clip", disable=None) as progress:
        for result in loader:
            progress.update(result["clips"])
            done, written = done + result["clips"], written + result["bytes"]
            failures += result["failures"]
            _check_room(next(iter(jobs.shards.values())).root, written / done * (total - done))
    for shards in jobs.shards.values():
        shards.reload()
    if failures:
        shown = "\n".join(f"  {failure}" for failure in failures[:5])
        raise ClipError(
            f"feature cache: {len(failures)} of {len(sources)} clips cannot be decoded (the others are cached); leave "
            f"them out, or let check: decode find them:\n{shown}"
        )


def _as_is(value: Any) -> Any:
    return value


def _check_room(folder: Path, needed: float) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"feature_cache: about {needed / 1e9:.1f} GB more are needed and {free / 1e9:.1f} GB are free in {folder}; "
            "choose another folder, make room (what is written is kept), or lower num_frames"
        )
