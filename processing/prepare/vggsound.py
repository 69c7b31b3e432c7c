# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""VGGSound (Chen, Xie, Vedaldi and Zisserman, ICASSP 2020), and VGGSounder's labels of its test clips (ICCV 2025)."""

import csv
from argparse import ArgumentParser, Namespace
from pathlib import Path

from datasets import ClassLabel, List, Value

from processing.data.clip_splits import TEST, TRAIN, VALIDATION

from .annotations import (
    Annotations,
    ClipRow,
    FileIndex,
    PrepareError,
    carve_by_id,
    check_fractions,
    open_text,
    require_annotation,
    seconds,
)


CLASSES = 309
SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"


def add_arguments(parser: ArgumentParser) -> None:
    """`--validation_fraction`, `--seed`, `--vggsounder`."""
    parser.add_argument("--validation_fraction", type=float, default=0.05, help="share of the training videos")
    parser.add_argument("--seed", type=int, default=0, help="of the validation split")
    parser.add_argument(
        "--vggsounder",
        action="store_true",
        help="label the test clips by VGGSounder (pip install vggsounder): `label` becomes a list of classes, and "
        "vggsound.csv's own class the column vggsound_label",
    )


def read(root: Path, options: Namespace) -> Annotations:
    """Rows of `id,start,label,split`; a clip's file is `id_start.mp4` with the start in six digits."""
    check_fractions(validation_fraction=options.validation_fraction)
    path = require_annotation(root, "vggsound.csv", SOURCE)
    index = FileIndex(root)
    rows = []
    with open_text(path) as file:
        reader = csv.reader(file)
        for cells in reader:
            if not cells or cells[0].startswith("#"):
                continue
            if len(cells) != 4 or cells[3].strip() not in (TRAIN, TEST):
                raise PrepareError(f"{path}: {','.join(cells)!r} is not `id,start,label,split`; mend the line")
            video_id, start, label, split = (cell.strip() for cell in cells)
            clip_id = f"{video_id}_{round(seconds(start, path, reader.line_num)):06d}"
            file = index.find(clip_id)
            rows.append(ClipRow(clip_id, [label], video_id, split, f"{clip_id}.mp4", file, file))
    # A table cut short would show in its classes.
    classes = sorted({row.labels[0] for row in rows})
    warnings = index.warnings()
    if len(classes) != CLASSES:
        warnings.append(f"{path.name}: {len(classes)} classes; the full list has {CLASSES}")
    # VGGSound has no validation split.
    carve_by_id(rows, {VALIDATION: options.validation_fraction}, options.seed)
    split = f"official, {VALIDATION} out of train by video id (seed {options.seed}, {options.validation_fraction:g})"
    annotations = Annotations(rows, classes, split, warnings=warnings)
    return _with_vggsounder(annotations) if options.vggsounder else annotations


def _with_vggsounder(annotations: Annotations) -> Annotations:
    """Every label becomes a list: VGGSounder's for the test clips, one class for the others."""
    try:
        import vggsounder
    except ImportError as error:
        raise PrepareError("--vggsounder: needs its labels; run `pip install vggsounder`") from error
    # Only test clips are labeled anew.
    labeled = dict(vggsounder.VGGSounder().items())
    order = {name: number for number, name in enumerate(annotations.classes)}
    unlabeled = unknown = 0
    for row in annotations.rows:
        row.extra = {"vggsound_label": row.labels[0], "modalities": []}
        if row.split != TEST:
            continue
        if row.clip_id not in labeled:
            row.excluded = f"{row.clip_id}: not in VGGSounder"
            unlabeled += 1
            continue
        # Its labels among the classes, in their order, each with the modality that shows it.
        relabeled = labeled[row.clip_id]
        pairs = {
            (name, kind) for name, kind in zip(relabeled.labels, relabeled.modalities, strict=True) if name in order
        }
        unknown += len(relabeled.labels) - len(pairs)
        pairs = sorted(pairs, key=lambda pair: order[pair[0]])
        row.labels, row.extra["modalities"] = [name for name, _ in pairs], [kind for _, kind in pairs]
        if not pairs:
            row.excluded = f"{row.clip_id}: VGGSounder gives none of the classes"
    # What changes for the whole set.
    annotations.multi_label = True
    annotations.split += f", test labels by VGGSounder ({len(labeled)} clips)"
    annotations.extra_features |= {
        "vggsound_label": ClassLabel(names=annotations.classes),
        "modalities": List(Value("string")),
    }
    if unlabeled:
        annotations.warnings.append(f"test: {unlabeled} clips are not in VGGSounder and skipped")
    if unknown:
        annotations.warnings.append(f"test: {unknown} VGGSounder labels are not among the classes and skipped")
    return annotations
