# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompts from block k: what enters that block, once per clip, in shards beside the feature cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm.auto import tqdm

from .collators import AudioVisualCollator
from .feature_building import SHARD_CLIPS, check_room
from .feature_cache import _AFTER_GEOMETRY, FeatureCache
from .feature_shards import CachedClip, FeatureShards


NAMES = {"video": "pixel_values_videos", "audio": "input_features"}


class BlockStateCache(FeatureCache):
    """A feature cache whose frames and spectrograms have passed the blocks below the learned tokens.

    Made by `build_block_state_cache`. Items hold states `[T, 1 + P, D]` and `[S, 1 + P, D]` under the names of frames and
    spectrograms; `BlockStateCollator` gives them the names that the model knows them by.
    """

    def __init__(self, cache: FeatureCache, shards: dict[str, FeatureShards]):
        self.processor, self.tables, self.num_frames = cache.processor, cache.tables, cache.num_frames
        self._finisher, self.shards = cache._finisher, dict(shards)

    def __call__(self, videos: Any = None, audio: Any = None, **kwargs: Any) -> dict[str, torch.Tensor]:
        states_of_stream = {"video": videos, "audio": audio}
        batch = {
            NAMES[stream]: torch.stack(list(states))
            for stream, states in states_of_stream.items()
            if states is not None
        }
        for stream, states in states_of_stream.items():
            if states is not None:
                batch[f"has_{stream}"] = torch.ones(len(states), dtype=torch.bool)
        return batch


class BlockStateCollator(AudioVisualCollator):
    """As `AudioVisualCollator`; the states are named `video_block_states` and `audio_block_states`."""

    def __call__(self, items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        renamed = {name: f"{stream}_block_states" for stream, name in NAMES.items()}
        return {renamed.get(name, name): value for name, value in super().__call__(items).items()}


def build_block_state_cache(
    root: str | os.PathLike,
    cache: FeatureCache,
    states_of: Callable[..., tuple[torch.Tensor | None, torch.Tensor | None]],
    model_fingerprint: str,
    *,
    batch_size: int = 8,
    dtype: torch.dtype = torch.bfloat16,
) -> BlockStateCache:
    """Compute the states that are not kept yet, and give the cache.

    Safe to stop at any moment, as `build_feature_cache` is.

    Args:
        root: folder; may be that of the feature cache.
        cache: built with `frames="resized"` and `audio="spectrogram"`.
        states_of: `model.block_states`; takes `pixel_values_videos` or `input_features`.
        model_fingerprint: `model.block_states_fingerprint()`: other weights make other states.
        batch_size: clips at a time.
        dtype: of what is kept; with that of the blocks the model computes what it does from frames.

    Raises:
        ValueError: a feature cache whose clips still change at random, a damaged shard, or too little room on the disk.
    """
    # States stand for clips that are the same in every epoch.
    for stream, form in (("video", "frames"), ("audio", "audio")):
        cached = cache.shards.get(stream)
        if cached is not None and cached.settings[form] not in ("resized", "spectrogram"):
            raise ValueError(
                f"the feature cache holds {form}={cached.settings[form]!r}, which change from epoch to epoch; block states are "
                'kept of clips without augmentation and noise: build it with frames="resized", audio="spectrogram"'
            )
    # The processor rescales and normalizes cached frames: its settings are part of the folder's name.
    fields = cache.processor.video_processor.to_dict()
    scale = {name: fields.get(name) for name in sorted(_AFTER_GEOMETRY - {"frames_per_clip"})}
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    shards = {}
    with FileLock(root / ".lock"):
        for stream, cached in cache.shards.items():
            settings = {
                "model": model_fingerprint,
                "of": cached.folder.name,
                "audio": "spectrogram",
                "frames": "states",
            }
            settings["type"] = str(dtype).removeprefix("torch.")
            shards[stream] = FeatureShards(root, stream, settings | ({"scale": scale} if stream == "video" else {}))
            shards[stream].remove_leftovers()
            # Only clips that no earlier build has written.
            missing = [clip for key, clip in cached.clips.items() if key not in shards[stream].clips]
            with tqdm(total=len(missing), desc=f"block states, {stream}", unit="clip", disable=None) as progress:
                written = 0
                for first in range(0, len(missing), SHARD_CLIPS):
                    group = missing[first : first + SHARD_CLIPS]
                    written += shards[stream].write(_states(cache, stream, group, states_of, batch_size, dtype))
                    progress.update(len(group))
                    done = first + len(group)
                    check_room(root, written / done * (len(missing) - done), "block_states")
            shards[stream].reload()
    return BlockStateCache(cache, shards)


def _states(
    cache: FeatureCache,
    stream: str,
    clips: Sequence[CachedClip],
    states_of: Callable,
    batch_size: int,
    dtype: torch.dtype,
) -> Iterator[tuple]:
    for first in range(0, len(clips), batch_size):
        group = clips[first : first + batch_size]
        read = [cache.shards[stream].read(clip) for clip in group]
        present = [value for value in read if value is not None]
        states = iter(())
        if present:
            if stream == "video":
                inputs = cache(videos=present)
            else:
                inputs = cache(videos=None, audio=present)
            video_states, audio_states = states_of(**{NAMES[stream]: inputs[NAMES[stream]]})
            of_stream = video_states if stream == "video" else audio_states
            states = iter(of_stream.to("cpu", dtype))
        # A clip without the stream has an entry without states.
        for clip, value in zip(group, read, strict=True):
            entry = (clip.key, clip.name, clip.start, clip.end)
            if value is None:
                yield entry, None, None
            else:
                yield entry, next(states), None


__all__ = ["BlockStateCache", "BlockStateCollator", "build_block_state_cache"]
