# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips as a PyTorch data set, with truly mismatched pairs (foreground mining, section 3.3 of the MA-AVT paper)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from processing.clip_types import MissingStreamError
from processing.clips import Clip, ClipRequest, shared_window

from .augmentation import ClipAugmentation, add_white_noise
from .clip_targets import ClipTargets
from .conventions import MODALITIES
from .worker_records import WorkerRecord


PAIRING, AUGMENTATION, NOISE, WINDOW = range(4)  # one stream of random numbers for each purpose


class ClipDataset(torch.utils.data.Dataset):
    """Decoded and processed clips of a table.

    Everything random is drawn from (seed, epoch, index), so that batches, workers, processes and a resumed run see the
    same items; in evaluation the epoch plays no part.

    A mismatched pair joins the video of one clip and the audio of another whose class **and** group differ. Its
    labels are -100 and `is_matched` is False. Only the streams that an item shows are decoded.

    Where the table has `segment_labels`, a clip has S of them: the processor cuts the clip into S segments, or each
    segment has a window of its own in the column `segment_windows` (S pairs of seconds) and is processed like a clip.

    Args:
        table: rows as `build_clip_table` gives them.
        processor: a `MAAVTProcessor`, or what has its `load_clip` and is called like it.
        seed: of everything random.
        training: draw anew each epoch, and augment.
        mismatch_probability: share of the items that are mismatched pairs.
        mismatched_copies: for evaluation: after the n clips comes one fixed mismatched pair for each clip that has both
            modalities. It shows the frames of clip i where i is even, and its audio where i is odd.
        same_class_copies: after these comes one more such pair for each clip, with a clip of the same class (in a segment
            at least) and of another group, where there is one; none for clips of several classes.
        modalities: "video", "audio" or both; the other stream is neither decoded nor given.
        num_frames: frames per clip, at the centers of equal parts of what the spectrogram covers.
        augmentation: for training, or None.
        noise_db: add white noise to the audio at this signal-to-noise ratio in dB, or at a random one of (low, high).
        clean_probability: share of the clips that a range of noise leaves clean.
        clip_seconds: show this many seconds of a longer clip: a random part in training, the middle in evaluation, both
            of the seconds in which all of its streams run.
        on_missing: "raise", or "none": a clip without audio (or video), or in which it ends before the seconds that are
            heard, has a missing modality.
        label_mismatched_pairs: in training give the classes of the video and of the audio of mismatched pairs too.
        mark_noise: in training give `match_mask`, False where noise was added: such a pair is not matched or mismatched.
        change_frames: what is done to the frames `[T, 3, H, W]` (uint8) of every clip, such as a blur.

    Raises:
        ValueError: a bad option, or no clip has another class and another group.
    """

    def __init__(
        self,
        table: Dataset,
        processor: Any,
        *,
        seed: int = 0,
        training: bool = False,
        mismatch_probability: float = 0.0,
        mismatched_copies: bool = False,
        same_class_copies: bool = False,
        modalities: Sequence[str] = MODALITIES,
        num_frames: int = 8,
        augmentation: ClipAugmentation | None = None,
        noise_db: float | tuple[float, float] | None = None,
        clean_probability: float = 0.0,
        clip_seconds: float | None = None,
        on_missing: str = "raise",
        label_mismatched_pairs: bool = False,
        mark_noise: bool = False,
        change_frames: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        # What is shown.
        self.table = table
        self.processor = processor
        self.seed = seed
        self.training = training
        self.mismatch_probability = mismatch_probability
        self.mismatched_copies = mismatched_copies
        self.modalities = tuple(modalities)
        self.num_frames = num_frames
        self.augmentation = augmentation if training else None
        # Augmentation crops and flips frames of full size; without it they are resized as they are decoded.
        self._transform = None
        if self.augmentation is None and hasattr(processor, "video_processor"):
            self._transform = processor.video_processor.resizer()
        # A random crop is resized to what the model sees: no second crop around its center.
        self._crop_options: dict[str, Any] = {}
        crops = self.augmentation is not None and self.augmentation.random_resized_crop_scale is not None
        if crops and getattr(processor.video_processor, "do_center_crop", False):
            size = dict(processor.video_processor.crop_size)
            self._crop_options = {"videos_kwargs": {"size": size, "do_center_crop": False}}
        # What is changed at random.
        self.noise_db = noise_db
        self.clean_probability = clean_probability
        self.clip_seconds = clip_seconds
        self.on_missing = on_missing
        self.change_frames = change_frames
        self.mark_noise = mark_noise and training
        self.label_mismatched_pairs = label_mismatched_pairs and training and mismatch_probability > 0
        self._check_options(same_class_copies)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that already run
        self._record = WorkerRecord.here()
        self._read_table(table)
        # Who is paired with whom.
        self._rows_of_kind: dict[Any, list[int]] = {}
        self._rows_with_namesake: list[int] = []
        if mismatched_copies or mismatch_probability > 0:
            self._check_partners()
        if same_class_copies:
            self._find_namesakes()
        if (check := getattr(processor, "check_draws", None)) is not None:  # a cache may hold clips too late for them
            check(noise_db=noise_db, augmentation=self.augmentation, clip_seconds=clip_seconds)

    def _check_options(self, same_class_copies: bool) -> None:
        """Raises ValueError for options that contradict each other."""
        pairs = self.mismatched_copies or self.mismatch_probability > 0
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise ValueError(f'modalities={self.modalities!r}; give "video", "audio" or both')
        for name in ("mismatch_probability", "clean_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; give a probability between 0 and 1")
        if same_class_copies and not self.mismatched_copies:
            raise ValueError("same_class_copies: follow the mismatched_copies; set these too")
        if pairs and len(set(self.modalities)) < 2:
            raise ValueError(
                f"modalities={self.modalities!r}: mismatched pairs need video and audio; set mismatch_probability to 0"
            )
        if self.mismatched_copies and (self.training or self.mismatch_probability > 0):
            raise ValueError("mismatched_copies is for evaluation; do not give training or mismatch_probability")
        if self.on_missing not in ("raise", "none"):
            raise ValueError(f'on_missing={self.on_missing!r}; use "raise" or "none"')

    def _read_table(self, table: Dataset) -> None:
        """What the table says of labels, segments, groups and missing streams."""
        self.targets = ClipTargets(table)
        self.windows = "segment_windows" in table.column_names
        self._check_segments()
        self.groups = np.unique(np.array(table["group"], dtype=str), return_inverse=True)[1]
        self.clip_ids = list(table["clip_id"])
        self._whole = np.array([row["video"] is not None and row["audio"] is not None for row in table], dtype=bool)
        self._rows_with_both = np.flatnonzero(self._whole)

    def set_epoch(self, epoch: int) -> None:
        """Draw what is random anew for this epoch, in running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        if self.mismatched_copies:
            return len(self.table) + len(self._rows_with_both) + len(self._rows_with_namesake)
        return len(self.table)

    def has_both(self, index: int) -> bool:
        """Whether the clip of item `index` has both modalities; without them it cannot be matched or mismatched."""
        return bool(self._whole[self._row(index)])

    def _row(self, index: int) -> int:
        """The row that item `index` is made for: copies follow the clips, in the order of the rows that have one."""
        if index < len(self.table):
            return index
        index -= len(self.table)
        if index < len(self._rows_with_both):
            return int(self._rows_with_both[index])
        return self._rows_with_namesake[index - len(self._rows_with_both)]

    def pair(self, index: int) -> tuple[int, int]:
        """-> (row of the video, row of the audio) that item `index` shows; equal for a matched pair."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        row = self._row(index)
        if not self._whole[row]:
            return row, row
        if self.mismatched_copies:
            if index < len(self.table):
                return row, row
            keep_video = row % 2 == 0
            generator = self._generator(index, PAIRING)
            if index < len(self.table) + len(self._rows_with_both):
                partner = self._partner(row, generator)
            else:
                partner = int(generator.choice(self._namesakes(row)))
        else:
            generator = self._generator(index, PAIRING)
            if generator.random() >= self.mismatch_probability:
                return row, row
            keep_video = generator.random() < 0.5
            partner = self._partner(row, generator)
        return (row, partner) if keep_video else (partner, row)

    def describe(self, index: int) -> dict[str, Any]:
        """What item `index` shows, without decoding it: for tables of predictions."""
        video_row, audio_row = self.pair(index)
        row = self._row(index)
        return {
            "clip_id": self.clip_ids[row],
            "group": self.table[row]["group"],
            "label": self.targets.listed(row, video_row == audio_row),
            "is_matched": self.targets.is_matched(row, video_row == audio_row).tolist(),
            "same_class": self.targets.same_class(video_row, audio_row),
            "video": self.clip_ids[video_row],
            "audio": self.clip_ids[audio_row],
        }

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """-> `pixel_values_videos` `[T, 3, H, W]`, `input_features` `[S, F, W]`, `has_video`, `has_audio`, `labels`,
        `is_matched`; the key of a stream that is not in `modalities`, or missing, is absent. `label_mismatched_pairs`
        adds `video_targets` and `audio_targets`, of the video and of the audio alone; `mark_noise` adds `match_mask`.

        Raises:
            ClipError: a file cannot be decoded.
            IndexError: no such item.
        """
        # Decode the two streams; a mismatched pair takes them from two rows.
        if index < 0:
            index += len(self)
        video_row, audio_row = self.pair(index)
        frames, waveform = self._load(index, video_row, audio_row)
        clean = waveform
        if waveform is not None:
            waveform = self._add_noise(waveform, index)
        if frames is not None and self.change_frames is not None:
            frames = self.change_frames(frames)
        is_clean = waveform is clean
        # Augment. Video, audio and spectrogram draw from one seed each.
        seed = int(self._generator(index, AUGMENTATION).integers(2**31))
        if self.augmentation is not None:
            if frames is not None:
                frames = self.augmentation.frames(frames, seed)
            if waveform is not None:
                waveform = self.augmentation.waveform(waveform, seed + 1)
        # Labels.
        matched = video_row == audio_row
        item = {
            "has_video": torch.tensor(frames is not None),
            "has_audio": torch.tensor(waveform is not None),
            "labels": self.targets.labels(video_row, matched),
            "is_matched": self.targets.is_matched(video_row, matched),
        }
        if self.mark_noise:
            item["match_mask"] = torch.tensor(is_clean)
        if self.label_mismatched_pairs:  # what a mismatched pair still teaches
            item |= {"video_targets": self.targets.labels(video_row), "audio_targets": self.targets.labels(audio_row)}
        # Model inputs of this one clip, without the batch axis.
        inputs = self._process(frames, waveform)
        if frames is not None:
            item["pixel_values_videos"] = inputs["pixel_values_videos"].flatten(0, 1)
        if waveform is not None:
            features = inputs["input_features"].flatten(0, 1)
            if self.augmentation is not None:
                features = self.augmentation.spectrogram(features, seed + 2)
            item["input_features"] = features
        return item

    def _process(self, frames: torch.Tensor | None, waveform: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The processor's batch of this one clip, or of its segments where these have windows of their own."""
        parts = self.targets.num_segments if self.windows else 1
        inputs: dict[str, Any] = {"videos": None, "audio": None, "sampling_rate": None}
        if frames is not None:
            inputs["videos"] = list(frames.chunk(parts))
        if waveform is not None:
            inputs["audio"] = list(waveform.chunk(parts))
            inputs["sampling_rate"] = self.processor.feature_extractor.sampling_rate
        return self.processor(**inputs, **self._crop_options, return_tensors="pt")

    def _load(self, index: int, video_row: int, audio_row: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Frames of one row and waveform of another; one file is opened once."""
        rows = {"video": self.table[video_row], "audio": self.table[audio_row]}
        # One file holds both.
        if video_row == audio_row and rows["video"]["video"] == rows["video"]["audio"]:
            clip = self._decode(rows["video"], "video", self.modalities, index)
            return clip.frames, clip.waveform
        # Two files; a stream that may be absent is skipped.
        clips, missing = {}, None
        for kind in self.modalities:
            if rows[kind][kind] is None and self.on_missing == "none":
                continue
            try:
                clips[kind] = self._decode(rows[kind], kind, (kind,), index)
            except MissingStreamError as error:
                if self.on_missing == "raise":
                    raise
                missing = error
        if not clips and missing is not None:
            raise missing
        if not clips:
            row = rows["video"]
            raise ValueError(
                f"{row['clip_id']}: neither of {self.modalities} is in it; remove the clip from the table"
            )
        return clips.get("video", Clip()).frames, clips.get("audio", Clip()).waveform

    def _decode(self, row: dict[str, Any], kind: str, streams: Sequence[str], index: int) -> Clip:
        if row[kind] is None:
            raise ValueError(
                f"{row['clip_id']}: {kind} is missing; remove the clip from the table, or use on_missing='none'"
            )
        # A longer clip is cut to `clip_seconds`.
        start, end = row["start"], row["end"]
        if self.clip_seconds is not None:
            with self._record.reading(row["clip_id"]):
                start, end = self._shared_window(row, kind, streams)
            room = max(0.0, end - start - self.clip_seconds)
            where = self._generator(index, WINDOW).random() if self.training else 0.5
            start = start + where * room
            end = min(end, start + self.clip_seconds)
        # Segments with windows share the frames of the clip.
        windows = row["segment_windows"] if self.windows else [(start, end)]
        request = ClipRequest(
            num_frames=self.num_frames // len(windows),
            streams=streams,
            on_missing=self.on_missing,
            transform=self._transform,
        )
        with self._record.reading(row["clip_id"]):
            clips = [
                self.processor.load_clip(row[kind], replace(request, start=start, end=end)) for start, end in windows
            ]
        return clips[0] if len(clips) == 1 else _join(clips)

    def _shared_window(self, row: dict[str, Any], kind: str, streams: Sequence[str]) -> tuple[float, float]:
        """The seconds of the row in which all of its streams run, of one file or of two."""
        start, end = shared_window(row[kind], ClipRequest(row["start"], row["end"], streams=streams))
        for other in self.modalities:
            if other not in streams and row[other] is not None:
                first, last = shared_window(row[other], ClipRequest(row["start"], row["end"], streams=(other,)))
                if max(start, first) < min(end, last):
                    start, end = max(start, first), min(end, last)
        return start, end

    def _add_noise(self, waveform: torch.Tensor, index: int) -> torch.Tensor:
        if self.noise_db is None:
            return waveform
        generator = self._generator(index, NOISE)
        level = self.noise_db
        if not isinstance(level, (int, float)):
            # Both numbers are always drawn, so that one does not shift the other.
            clean, share = generator.random(), generator.random()
            if clean < self.clean_probability:
                return waveform
            level = level[0] + share * (level[1] - level[0])
        return add_white_noise(waveform, level, int(generator.integers(2**31)))

    def _generator(self, index: int, purpose: int) -> np.random.Generator:
        epoch = int(self._epoch) if self.training else 0
        return np.random.default_rng([self.seed, epoch, index, purpose])

    def _partner(self, row: int, generator: np.random.Generator) -> int:
        """A clip with both streams whose class and group differ, each with equal probability."""
        for _ in range(64):  # almost always enough, and needs no list of candidates
            partner = int(generator.integers(len(self.table)))
            if self._is_partner(row, partner):
                return partner
        # The table has few partners: draw from their list.
        candidates = [partner for partner in range(len(self.table)) if self._is_partner(row, partner)]
        return int(candidates[generator.integers(len(candidates))])

    def _is_partner(self, row: int, partner: int) -> bool:
        return bool(
            self._whole[partner] and self.groups[partner] != self.groups[row] and self.targets.differ(row, partner)
        )

    def _find_namesakes(self) -> None:
        """Which rows share a class, and which have one that another group has too."""
        for row in self._rows_with_both.tolist():
            for kind in self.targets.kinds(row):
                self._rows_of_kind.setdefault(kind, []).append(row)
        shared = {kind for kind, rows in self._rows_of_kind.items() if len(set(self.groups[rows])) > 1}
        self._rows_with_namesake = [row for row in self._rows_with_both.tolist() if self.targets.kinds(row) & shared]

    def _namesakes(self, row: int) -> list[int]:
        rows = {other for kind in self.targets.kinds(row) for other in self._rows_of_kind[kind]}
        return sorted(other for other in rows if self.groups[other] != self.groups[row])

    def _check_partners(self) -> None:
        """Every clip needs a partner; clips of one kind (labels and group) are looked at once."""
        seen = set()
        # In the order of folders, neighbors are of one class.
        order = np.random.default_rng(0).permutation(len(self.table))
        for row in np.flatnonzero(self._whole):
            kind = (tuple(self.targets.labels(row).flatten().tolist()), self.targets.clip_key(row), self.groups[row])
            if kind in seen:
                continue
            seen.add(kind)
            if not any(self._is_partner(row, partner) for partner in order):
                raise ValueError(
                    f"{self.clip_ids[row]}: no clip of another class and another group to pair it with; add clips, or "
                    "train without mismatched pairs (mismatch_probability 0, and in model_config in_batch_mismatches 0)"
                )

    def _check_segments(self) -> None:
        """The table's segments are the processor's, or have windows of their own."""
        wanted, cut = self.targets.num_segments, getattr(self.processor.feature_extractor, "num_segments", 1)
        if not self.windows:
            if self.targets.kind == "segments" and cut != wanted:
                raise ValueError(
                    f"segment_labels: {wanted} a clip, but the feature extractor cuts {cut} segments; set its num_segments"
                )
            return
        if self.targets.kind != "segments" or cut != 1 or self.clip_seconds is not None:
            raise ValueError("segment_windows: needs segment_labels, num_segments=1 and no clip_seconds")
        if bad := {len(windows) for windows in self.table["segment_windows"]} - {wanted}:
            raise ValueError(f"segment_windows: {sorted(bad)} windows for {wanted} segment_labels; give one for each")
        if self.num_frames % wanted:
            raise ValueError(f"num_frames={self.num_frames} for {wanted} segments; give a multiple of {wanted}")


def _join(clips: Sequence[Clip]) -> Clip:
    """Segments one after the other; a shorter waveform is padded with zeros to the longest, so that it can be cut again.

    A stream that is missing in a segment is missing in the clip.
    """
    frames, waveform = None, None
    if all(clip.frames is not None for clip in clips):
        frames = torch.cat([clip.frames for clip in clips])
    if all(clip.waveform is not None for clip in clips):
        longest = max(len(clip.waveform) for clip in clips)
        pad = torch.nn.functional.pad
        waveform = torch.cat([pad(clip.waveform, (0, longest - len(clip.waveform))) for clip in clips])
    return Clip(frames=frames, waveform=waveform, sampling_rate=clips[0].sampling_rate, path=clips[0].path)
