# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""CREMA-D (Cao, Cooper, Keutmann, Gur, Nenkova and Verma, 2014): 91 actors, 12 sentences, 6 emotions."""

import csv
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from datasets import Value

from processing.data.clip_splits import SPLIT_NAMES, SPLITS, TEST, TRAIN, VALIDATION, split_by_group
from processing.data.conventions import AUDIO_SUFFIXES

from .annotations import (
    Annotations,
    ClipRow,
    FileIndex,
    PrepareError,
    check_fractions,
    find_annotation,
    open_text,
    read_table,
)


EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
NAME = re.compile(rf"(\d{{4}})_([A-Z]{{3}})_({'|'.join(EMOTIONS)})_(LO|MD|HI|XX|X)")
# The speaker-disjoint split of TensorFlow Datasets' crema_d 1.0.0: these actors, all others train; four clips are excluded
VALIDATION_ACTORS = ("1015", "1020", "1021", "1030", "1050", "1070", "1079", "1089", "1090")
TEST_ACTORS = ("1010", "1013", "1022", "1026", "1037", "1038", "1040", "1045", "1047", "1048", "1059", "1065", "1066")
TEST_ACTORS += ("1068", "1071", "1073", "1084", "1086", "1088")
EXCLUDED = ("1006_TIE_NEU_XX", "1013_WSI_DIS_XX", "1017_IWW_FEA_XX", "1040_ITH_SAD_XX")
SPEAKER_COUNTS = {TRAIN: 5144, VALIDATION: 738, TEST: 1556}
OVERLAPPING_COUNTS = {TRAIN: 6698, TEST: 744}


def add_arguments(parser: ArgumentParser) -> None:
    """`--split`, `--split_files`, `--validation_fraction`, `--test_fraction`, `--seed`."""
    parser.add_argument(
        "--split",
        choices=("speaker", "seeded"),
        default="speaker",
        help="speaker: the speaker-disjoint split of TensorFlow Datasets, 5,144 / 738 / 1,556 clips; seeded: drawn by actor",
    )
    parser.add_argument(
        "--split_files",
        nargs="+",
        metavar="SPLIT=FILE",
        help="lists instead: `train=train.csv test=test.csv`, each of lines `name,label` (the split with all actors on "
        "both splits) or of actor numbers",
    )
    parser.add_argument("--validation_fraction", type=float, default=0.1, help="of a split that has none")
    parser.add_argument("--test_fraction", type=float, default=0.2, help="of --split seeded")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")


def read(root: Path, options: Namespace) -> Annotations:
    """Rows from SentenceFilenames.csv where it is there, else from the lists, else from the files that are found.

    The video comes from VideoFlash (or mp4 files), the audio from AudioWAV, or from the video where there is no audio file.
    """
    check_fractions(validation_fraction=options.validation_fraction, test_fraction=options.test_fraction)
    # Files and names.
    videos, audio_files = FileIndex(root), FileIndex(root, AUDIO_SUFFIXES)
    lists = _read_lists(options.split_files or [])
    names = _names(root, lists, videos, audio_files)
    separate = any(NAME.fullmatch(stem) for stem in audio_files.found)
    rows = []
    for name in names:
        actor, sentence, emotion, intensity = NAME.fullmatch(name).groups()
        video = videos.find(name)
        audio = audio_files.find(name) if separate else video
        row = ClipRow(name, [emotion], actor, TRAIN, name, video, audio)
        if intensity == "X":
            intensity = "XX"  # some files spell it with one letter
        row.extra = {"actor": actor, "sentence": sentence, "intensity": intensity}
        rows.append(row)
    # Splits: by the user's lists, drawn, or by the actors of the official split.
    if lists:
        split, warnings = _split_by_lists(rows, lists, options)
    elif options.split == "seeded":
        fractions = {VALIDATION: options.validation_fraction, TEST: options.test_fraction}
        _draw(rows, {TRAIN: 1 - sum(fractions.values())} | fractions, options.seed)
        split, warnings = f"seeded, by actor (seed {options.seed}): not the split of any paper", []
    else:
        split, warnings = "speaker-disjoint, as in TensorFlow Datasets' crema_d 1.0.0", []
        for row in rows:
            row.split = TRAIN
            if row.group in VALIDATION_ACTORS:
                row.split = VALIDATION
            elif row.group in TEST_ACTORS:
                row.split = TEST
            if row.clip_id in EXCLUDED:
                row.excluded = f"{row.clip_id}: not in the speaker-disjoint split"
        warnings += _compare(rows, SPEAKER_COUNTS)
    # Columns of this set, and what a user has to know.
    extra = {name: Value("string") for name in ("actor", "sentence", "intensity")}
    warnings += videos.warnings() + audio_files.warnings()
    return Annotations(rows, [*EMOTIONS], split, extra_features=extra, warnings=warnings)


def _names(root: Path, lists: dict[str, list[str]], videos: FileIndex, audio_files: FileIndex) -> list[str]:
    # The set's own list of clips comes first: it also names missing files.
    table = find_annotation(root, "SentenceFilenames.csv")
    if table is not None:
        names = [row["Filename"] for row in read_table(table, ["Filename"])]
        if wrong := [name for name in names if not NAME.fullmatch(name)]:
            raise PrepareError(f"{table}: {wrong[0]!r} is no CREMA-D name such as 1001_DFA_ANG_XX; mend the line")
        return names
    listed = {name for entries in lists.values() for name in entries if not name.isdigit()}
    in_files = {stem for index in (videos, audio_files) for stem in index.found if NAME.fullmatch(stem)}
    if not (listed | in_files):
        raise PrepareError(
            f"{root}: no SentenceFilenames.csv and no file named like 1001_DFA_ANG_XX.flv; clone "
            "https://github.com/CheyneyComputerScience/CREMA-D with git lfs"
        )
    return sorted(listed | in_files)


def _read_lists(split_files: list[str]) -> dict[str, list[str]]:
    """-> split -> clip names, or actor numbers."""
    lists: dict[str, list[str]] = {}
    for text in split_files:
        split, _, name = text.partition("=")
        if split.lower() not in SPLIT_NAMES or not name:
            raise PrepareError(f"--split_files {text}: write split=file with one of {', '.join(SPLITS)}")
        path = Path(name)
        entries = lists.setdefault(SPLIT_NAMES[split.lower()], [])
        with open_text(path) as file:
            for cells in csv.reader(file):
                cells = [cell.strip() for cell in cells]
                if not any(cells):
                    continue
                match = NAME.fullmatch(cells[0])
                actor = re.fullmatch(r"\d{4}", cells[0])
                if not actor and not (match and (len(cells) == 1 or cells[1] == match[3])):
                    raise PrepareError(f"{path}: {','.join(cells)!r} is neither `name,label` nor an actor; mend it")
                entries.append(cells[0])
    if lists and TRAIN not in lists:
        raise PrepareError("--split_files: no train=FILE among them; give the training list too")
    return lists


def _split_by_lists(rows: list[ClipRow], lists: dict[str, list[str]], options: Namespace) -> tuple[str, list[str]]:
    split_of = {}
    for split in sorted(lists, key=SPLITS.index):  # an entry of two lists: the later split
        split_of |= dict.fromkeys(lists[split], split)
    for row in rows:
        split = split_of.get(row.clip_id, split_of.get(row.group))
        if split is None:
            row.excluded = f"{row.clip_id}: in none of the lists"
        else:
            row.split = split
    kept = [row for row in rows if row.excluded is None]
    actors = {split: {row.group for row in kept if row.split == split} for split in lists}
    # Actors in two splits are allowed here, and named.
    shared = set().union(*(actors[a] & actors[b] for a in lists for b in lists if a != b))
    split, warnings = f"by lists ({', '.join(sorted(lists, key=SPLITS.index))})", []
    if shared:
        warnings.append(
            f"{len(shared)} of {len(set().union(*actors.values()))} actors are in both splits: a model can "
            "tell them by face and voice, so its scores say little about people that it has not seen; --split speaker "
            "keeps actors apart"
        )
        for row in rows:
            row.group = row.clip_id  # by the lists' own rule each recording stands for itself
        warnings += _compare(rows, OVERLAPPING_COUNTS)
        split += ", actors overlap"
    # Lists without validation: draw it out of training.
    if VALIDATION not in lists and options.validation_fraction:
        training = [row for row in kept if row.split == TRAIN]
        fractions = {TRAIN: 1 - options.validation_fraction, VALIDATION: options.validation_fraction}
        _draw(training, fractions, options.seed)
        unit = "clip" if shared else "actor"
        split += f", validation out of train by {unit} (seed {options.seed})"
    return split, warnings


def _draw(rows: list[ClipRow], fractions: dict[str, float], seed: int) -> None:
    splits = split_by_group([row.labels[0] for row in rows], [row.group for row in rows], fractions, seed)
    for row, split in zip(rows, splits, strict=True):
        row.split = split


def _compare(rows: list[ClipRow], expected: dict[str, int]) -> list[str]:
    counts = {split: sum(row.split == split and row.excluded is None for row in rows) for split in expected}
    if counts == expected:
        return []
    return [
        f"{split}: {counts[split]} clips listed, the full split has {expected[split]}"
        for split in expected
        if counts[split] != expected[split]
    ]
