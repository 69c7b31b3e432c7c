# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a clip table asks of a model: one class a clip, one class a segment, or several classes a clip."""

from typing import Any

import numpy as np
import torch
from datasets import Dataset

from processing.metrics import IGNORED_LABEL


BACKGROUND = "background"  # a class of this name, in any case, says nothing about what two clips have in common


class ClipTargets:
    """Labels of a table's rows as tensors.

    `kind` is `"clip"` (`label` is a class), `"segments"` (`segment_labels` holds S classes) or `"multi_label"`
    (`label` is a list of classes). A boolean list `segment_matched`, where the table has it, marks segments whose audio
    does not belong to the video, such as the background seconds of AVE.

    Args:
        table: rows as `build_clip_table` gives them.

    Raises:
        ValueError: rows with different numbers of segments, or a class index that does not exist.
    """

    def __init__(self, table: Dataset):
        feature = table.features["label"]
        inner = getattr(feature, "feature", None)
        # Ragged lists stay lists; single classes become an array.
        if inner is not None:
            self.kind, self.names = "multi_label", list(inner.names)
            self.clip_labels = table["label"][:]
        else:
            self.kind, self.names = "clip", list(feature.names)
            self.clip_labels = np.array(table["label"], dtype=np.int64)
        self.num_segments, self.segment_labels, self.segment_matched = 1, None, None
        if "segment_labels" in table.column_names:
            self.kind = "segments"
            self.segment_labels = self._rectangular(table, "segment_labels", np.int64)
            self.num_segments = self.segment_labels.shape[1]
            if "segment_matched" in table.column_names:
                self.segment_matched = self._rectangular(table, "segment_matched", bool)
        self._check_range(table)
        self._background = {i for i, name in enumerate(self.names) if name.lower() == BACKGROUND}

    def __len__(self) -> int:
        return len(self.clip_labels)

    def labels(self, row: int, matched: bool = True) -> torch.Tensor:
        """-> int64 `[]` or `[S]`, or multi-hot float32 `[C]`; -100 everywhere for a mismatched pair."""
        if self.kind == "multi_label":
            if not matched:
                return torch.full((len(self.names),), float(IGNORED_LABEL))
            return torch.zeros(len(self.names)).index_fill_(
                0, torch.tensor(self.clip_labels[row], dtype=torch.long), 1
            )
        # A mismatched pair has no class: -100 in place of each.
        classes = self.segment_labels if self.kind == "segments" else self.clip_labels
        labels = torch.as_tensor(classes[row], dtype=torch.int64)
        if not matched:
            return torch.full_like(labels, IGNORED_LABEL)
        return labels

    def listed(self, row: int, matched: bool = True) -> int | list[int]:
        """The same as plain numbers: a class, the classes of S segments, or all classes of a clip (none: mismatched)."""
        if self.kind == "multi_label":
            return list(self.clip_labels[row]) if matched else []
        return self.labels(row, matched).tolist()

    def is_matched(self, row: int, matched: bool = True) -> torch.Tensor:
        """-> bool `[]`, or `[S]` where segments have labels."""
        if self.kind != "segments":
            return torch.tensor(matched)
        if not matched or self.segment_matched is None:
            return torch.full((self.num_segments,), matched)
        return torch.from_numpy(self.segment_matched[row].copy())

    def differ(self, first: int, second: int) -> bool:
        """Whether two rows have no class in common: of the clip, of any list, of any segment but background."""
        if self.kind == "multi_label":
            return not set(self.clip_labels[first]) & set(self.clip_labels[second])
        if self.clip_labels[first] == self.clip_labels[second]:
            return False
        if self.kind == "clip":
            return True
        # Background and unlabeled seconds say nothing about what two clips share.
        ignored = self._background | {IGNORED_LABEL}
        return not (set(self.segment_labels[first].tolist()) & set(self.segment_labels[second].tolist())) - ignored

    def kinds(self, row: int) -> set:
        """What another clip has to share with this one to be of the same class: its class, or a segment's at its place.

        Empty for several classes a clip. Background and unlabeled segments do not count.
        """
        if self.kind == "multi_label":
            return set()
        if self.kind == "clip":
            return {int(self.clip_labels[row])} - {IGNORED_LABEL}
        ignored = self._background | {IGNORED_LABEL}
        return {(i, label) for i, label in enumerate(self.segment_labels[row].tolist()) if label not in ignored}

    def same_class(self, first: int, second: int) -> bool | list[bool]:
        """Whether two rows have one class, or for each of S segments whether theirs have."""
        shared = self.kinds(first) & self.kinds(second)
        if self.kind != "segments":
            return bool(shared)
        places = {place for place, _ in shared}
        return [segment in places for segment in range(self.num_segments)]

    def clip_key(self, row: int) -> Any:
        """The label of the whole clip, hashable."""
        label = self.clip_labels[row]
        if isinstance(label, list):
            return tuple(label)
        return int(label)

    def class_counts(self) -> np.ndarray:
        """How often each class is asked for: `[C]`, over clips or, where segments have labels, over segments."""
        if self.kind == "multi_label":
            classes = np.concatenate([np.asarray(labels, dtype=np.int64) for labels in self.clip_labels])
        elif self.kind == "segments":
            classes = self.segment_labels.ravel()
        else:
            classes = self.clip_labels
        return np.bincount(classes[classes >= 0], minlength=len(self.names))

    @staticmethod
    def _rectangular(table: Dataset, column: str, dtype: Any) -> np.ndarray:
        values = table[column][:]
        lengths = {len(value) for value in values}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"{column}: rows of {sorted(lengths)} segments; give each clip the same number, above 0")
        return np.array(values, dtype=dtype)

    def _check_range(self, table: Dataset) -> None:
        # Rows of classes, whatever the kind.
        if self.kind == "segments":
            rows = self.segment_labels
        elif self.kind == "multi_label":
            rows = self.clip_labels
        else:
            rows = self.clip_labels[:, None]
        for index, values in enumerate(rows):
            if bad := [v for v in map(int, values) if v != IGNORED_LABEL and not 0 <= v < len(self.names)]:
                raise ValueError(
                    f"{table[index]['clip_id']}: class {bad[0]}, but there are {len(self.names)} classes; "
                    "mend its label, or give -100 where it is not known"
                )
