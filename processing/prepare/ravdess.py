# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""RAVDESS (Livingstone and Russo, 2018): 24 actors, speech and song, 8 emotions, all in the file's name."""

import itertools
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from datasets import Value

from processing.data.clip_splits import TEST, TRAIN, VALIDATION, split_by_group
from processing.data.conventions import AUDIO_SUFFIXES, VIDEO_SUFFIXES

from .annotations import (
    Annotations,
    ClipRow,
    FileIndex,
    PrepareError,
    check_fractions,
)


# modality, vocal channel, emotion, intensity, statement, repetition, actor
NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
INTENSITIES = {"01": "normal", "02": "strong"}
CHANNELS = {"01": "speech", "02": "song"}
SONG_EMOTIONS = 6  # no disgust and no surprise is sung
MODALITIES = {"01": ("video", "audio"), "02": ("video",), "03": ("audio",)}


def add_arguments(parser: ArgumentParser) -> None:
    """`--modality`, `--channel`, `--validation_fraction`, `--test_fraction`, `--seed`."""
    parser.add_argument(
        "--modality",
        choices=tuple(MODALITIES),
        default="01",
        help="01: video and audio, 02: video only, 03: audio only",
    )
    parser.add_argument("--channel", choices=("speech", "song", "both"), default="speech")
    parser.add_argument("--validation_fraction", type=float, default=0.15, help="share of the clips, by actor")
    parser.add_argument("--test_fraction", type=float, default=0.2, help="share of the clips, by actor")
    parser.add_argument("--seed", type=int, default=0, help="of the split")


def read(root: Path, options: Namespace) -> Annotations:
    """Rows of every recording that the set's design holds for the actors of whom there is at least one file."""
    check_fractions(validation_fraction=options.validation_fraction, test_fraction=options.test_fraction)
    # Actors of whom there are files.
    index = FileIndex(root, VIDEO_SUFFIXES + AUDIO_SUFFIXES)
    channels = [number for number, name in CHANNELS.items() if options.channel in (name, "both")]
    matches = [match for stem in index.found if (match := NAME.fullmatch(stem))]
    actors = sorted({m[7] for m in matches if m[1] == options.modality and m[2] in channels})
    if not actors:
        raise PrepareError(
            f"{root}: no file named like {options.modality}-{channels[0]}-06-01-02-01-12.mp4; get the Video_*_Actor_*.zip "
            "from https://zenodo.org/record/1188976"
        )
    # All recordings that the design holds for them, so that missing files are named.
    rows = [_row(name, index) for actor in actors for name in _design(options.modality, channels, actor)]
    fractions = {VALIDATION: options.validation_fraction, TEST: options.test_fraction}
    # Splits by actor.
    splits = split_by_group(
        [row.labels[0] for row in rows],
        [row.group for row in rows],
        {TRAIN: 1 - sum(fractions.values())} | fractions,
        options.seed,
    )
    for row, split in zip(rows, splits, strict=True):
        row.split = split
    warnings = []
    if len(actors) != 24:
        warnings.append(f"{len(actors)} of 24 actors are here; the split is drawn of these")
    classes = list(EMOTIONS)
    if "01" not in channels:
        classes = classes[:SONG_EMOTIONS]
    split = f"seeded, by actor (seed {options.seed}): the set has no official split"
    names = ("actor", "intensity", "channel", "statement", "repetition")
    return Annotations(
        rows,
        classes,
        split,
        streams=MODALITIES[options.modality],
        extra_features={name: Value("string") for name in names},
        warnings=warnings + index.warnings(),
    )


def _design(modality: str, channels: list[str], actor: str) -> list[str]:
    """The names of one actor's recordings: neutral has no strong intensity, and actor 18 sang nothing."""
    names = []
    for channel in channels:
        if channel == "02" and actor == "18":
            continue
        emotions = len(EMOTIONS) if channel == "01" else SONG_EMOTIONS
        for emotion, intensity in itertools.product(range(1, emotions + 1), INTENSITIES):
            if emotion == 1 and intensity == "02":
                continue
            for statement, repetition in itertools.product(("01", "02"), repeat=2):
                names.append(f"{modality}-{channel}-{emotion:02d}-{intensity}-{statement}-{repetition}-{actor}")
    return names


def _row(name: str, index: FileIndex) -> ClipRow:
    # The name holds all annotations.
    modality, channel, emotion, intensity, statement, repetition, actor = NAME.fullmatch(name).groups()
    file = index.find(name)
    streams = MODALITIES[modality]
    suffix = "wav" if modality == "03" else "mp4"
    row = ClipRow(name, [EMOTIONS[int(emotion) - 1]], actor, TRAIN, f"{name}.{suffix}")
    if "video" in streams:
        row.video = file
    if "audio" in streams:
        row.audio = file
    row.extra = {"actor": actor, "intensity": INTENSITIES[intensity], "channel": CHANNELS[channel]}
    row.extra |= {"statement": statement, "repetition": repetition}
    return row
