# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What the report flags and keeps: clips whose picture hardly changes, and re-encoded copies of a clip in another split."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy.fft import dctn

from .annotations import PRIORITY


if TYPE_CHECKING:
    from .scan import Facts, Job
    from .selection import Verdict

NEAR_STILL, NEAR_DUPLICATE = "near_still", "near_duplicate"
FLAGS = {
    NEAR_STILL: "the picture hardly changes",
    NEAR_DUPLICATE: "looks and sounds like a clip of another split, perhaps re-encoded",
}
STILL = 0.7  # gray levels of 255: compression changes a still picture by less, a speaking face by 1.1 and more
PICTURE = 32  # pixels of the small gray picture, and bands and times of the small spectrogram
HASH = {"video": 8, "audio": 16}  # low frequencies kept of each axis
CLOSE = {
    "video": 0.15,
    "audio": 0.20,
}  # share of bits in which a clip and its copy may differ; other clips: 0.27 and more of the audio
BANDS = (100.0, 6000.0)  # Hz: what every encoder keeps
CHUNK = 4096  # clips that are compared with all others at a time, at most
ELEMENTS = 2**28  # of a matrix of their distances: 1 GiB


def small_pictures(frames: torch.Tensor) -> np.ndarray:
    """Frames uint8 `[T, 3, H, W]` as gray pictures uint8 `[T, 32, 32]`."""
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()).convert("L") for frame in frames]
    return np.stack([np.asarray(picture.resize((PICTURE, PICTURE), Image.BOX)) for picture in pictures])


def largest_change(pictures: np.ndarray) -> float:
    """The largest mean difference of two pictures that follow each other, in gray levels; 0 of a single one."""
    changes = np.abs(np.diff(pictures.astype(np.float32), axis=0)).mean((1, 2))
    return round(float(changes.max(initial=0.0)), 3)


def perceptual_hash(pictures: np.ndarray, size: int) -> str:
    """Bits of pictures `[T, 32, 32]` as hexadecimal digits: which of the lowest cosine frequencies exceed their median.

    With `size` 8 that is the pHash of the package ImageHash.
    """
    low = dctn(pictures.astype(np.float64), axes=(1, 2))[:, :size, :size].reshape(len(pictures), -1)
    return np.packbits(low > np.median(low, axis=1, keepdims=True)).tobytes().hex()


def video_hash(pictures: np.ndarray) -> str:
    """64 bits for each picture."""
    return perceptual_hash(pictures, HASH["video"])


def audio_hash(waveform: torch.Tensor, sampling_rate: int) -> str:
    """256 bits of the waveform `[n]`: the hash of a picture of log energies in 32 bands and 32 equal parts of the clip."""
    pad = -len(waveform) % PICTURE
    parts = np.pad(waveform.numpy(), (0, pad)).reshape(PICTURE, -1)
    power = np.abs(np.fft.rfft(parts * np.hanning(parts.shape[1]))) ** 2  # (32, frequencies)
    frequencies = np.fft.rfftfreq(parts.shape[1], 1 / sampling_rate)
    band = np.searchsorted(np.geomspace(*BANDS, PICTURE + 1), frequencies) - 1
    energies = np.stack([power[:, band == number].sum(1) for number in range(PICTURE)], axis=1)
    return perceptual_hash(np.log(energies + 1e-6 * max(float(energies.max()), 1e-12))[None], HASH["audio"])


def find_flags(
    verdicts: Sequence["Verdict"], jobs: Mapping[int, "Job"], facts: Mapping["Job", "Facts"]
) -> list[dict[str, Any]]:
    """`clip_id`, `split`, `flag` and `reason` of each used clip to look at, in the order of the annotations.

    Of two like clips the one is flagged that stands in train, or in validation where the other is a test clip.
    """
    used = [(verdict.row, facts[jobs[number]]) for number, verdict in enumerate(verdicts) if verdict.status == "used"]
    flags = []
    for row, of_clip in used:
        if of_clip.change is not None and of_clip.change < STILL:
            reason = f"{row.expected}: its frames differ by {of_clip.change:.1f} of 255 levels"
            flags.append({"clip_id": row.clip_id, "split": row.split, "flag": NEAR_STILL, "reason": reason})
    for row, other in _copies(used):
        reason = f"{row.expected}: like {other.expected} of {other.split}"
        flags.append({"clip_id": row.clip_id, "split": row.split, "flag": NEAR_DUPLICATE, "reason": reason})
    return flags


def _copies(used: list[tuple[Any, "Facts"]]) -> list[tuple[Any, Any]]:
    """(row, like row of a split that comes before its own); one for each row at most."""
    used = [(row, of_clip) for row, of_clip in used if of_clip.video_hash]
    if not used:
        return []
    rank = np.array([PRIORITY[row.split] for row, _ in used])
    group = np.array([row.group for row, _ in used])
    bits = _bits([of_clip.video_hash for _, of_clip in used])  # (clips, 64 T), each -1 or 1
    first = bits[:, -(HASH["video"] ** 2) :]  # of the last picture alone: few clips are left to compare further
    copies = []
    earlier = np.flatnonzero(rank < rank.max())
    found: set[int] = set()
    rows = max(1, min(CHUNK, ELEMENTS // len(used)))
    for start in range(0, len(earlier), rows):
        chunk = earlier[start : start + rows]
        near = _distance(first[chunk], first.T) <= 2 * CLOSE["video"]
        near &= (rank[chunk, None] < rank) & (group[chunk, None] != group)
        for number, candidate in zip(*np.nonzero(near), strict=True):
            other, index = used[chunk[number]], int(candidate)
            if index in found or _distance(bits[chunk[number]], bits[index]) > CLOSE["video"]:
                continue
            hashes = [other[1].audio_hash, used[index][1].audio_hash]
            if all(hashes) and _distance(*_bits(hashes)) > CLOSE["audio"]:
                continue
            found.add(index)
            copies.append((index, other[0]))
    return [(used[index][0], other) for index, other in sorted(copies, key=lambda pair: pair[0])]


def _bits(hashes: Sequence[str]) -> np.ndarray:
    """float32 `[n, bits]` of -1 and 1, whose products count equal bits; a hash of fewer pictures is repeated."""
    longest = max(map(len, hashes))
    whole = [(text * (longest // len(text) + 1))[:longest] for text in hashes]
    rows = np.frombuffer(bytes.fromhex("".join(whole)), np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(rows, axis=1).astype(np.float32) * 2 - 1


def _distance(first: np.ndarray, second: np.ndarray) -> Any:
    """The share of bits in which rows of -1 and 1 differ."""
    return (1 - first @ second / first.shape[-1]) / 2
