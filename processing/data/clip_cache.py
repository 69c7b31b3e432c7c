# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoded clips kept in memory: on small sets and few cores decoding costs more than the network."""

from dataclasses import replace
from typing import Any

from processing.clips import Clip, ClipRequest


class ClipCache:
    """Stands in for a processor in a `ClipDataset` and remembers what its `load_clip` returned.

    Frames and waveform are kept as `load_clip` gives them, before augmentation and noise, so that items are the same with and
    without it.
    One cache serves all data sets of a process. Each loader worker has one of its own, which lives across epochs with
    `dataloader_persistent_workers`; with no workers there is just one. When `max_gb` is full, further clips are decoded
    every time. Clips that are held as bytes are not kept.
    """

    def __init__(self, processor: Any, max_gb: float):
        self.processor, self.room = processor, max_gb * 1e9
        self.kept: dict[tuple, dict[str, Clip]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in ("processor", "room", "kept"):  # while a worker unpickles this object
            raise AttributeError(name)
        return getattr(self.processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.processor(*args, **kwargs)

    def load_clip(self, source: Any, request: ClipRequest) -> Clip:
        """As `MAAVTProcessor.load_clip`; streams are kept one by one, so that mismatched pairs find theirs."""
        path = source.get("path") if isinstance(source, dict) and source.get("bytes") is None else source
        if not isinstance(path, str):
            return self.processor.load_clip(source, request)
        keys = {stream: (path, request.start, request.end, stream) for stream in request.streams}
        if "video" in keys:  # number and size of the frames do not change the waveform
            keys["video"] += (request.num_frames, str(getattr(request.transform, "keywords", request.transform)))
        missing = tuple(stream for stream, key in keys.items() if key not in self.kept)
        if not missing:
            clips = [self.kept[keys[stream]] for stream in request.streams]
            return clips[0] if len(clips) == 1 else self._join(*clips)
        clip = self.processor.load_clip(source, request)
        for stream in missing:
            self._keep(keys[stream], _only(clip, stream))
        return clip

    def _keep(self, key: tuple, clip: Clip) -> None:
        size = sum(tensor.nbytes for tensor in (clip.frames, clip.waveform) if tensor is not None)
        if size and size <= self.room:
            self.room -= size
            self.kept[key] = clip

    @staticmethod
    def _join(first: Clip, second: Clip) -> Clip:
        video, audio = (first, second) if first.frames is not None else (second, first)
        return replace(video, waveform=audio.waveform, sampling_rate=audio.sampling_rate)


def _only(clip: Clip, stream: str) -> Clip:
    """A copy with one stream, which holds no memory beyond its own."""
    if stream == "video":
        frames = None if clip.frames is None else clip.frames.clone()
        return replace(clip, frames=frames, waveform=None, sampling_rate=None)
    waveform = None if clip.waveform is None else clip.waveform.clone()
    return replace(clip, waveform=waveform, frames=None, frame_times=None)
