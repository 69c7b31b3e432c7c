# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Class weights against imbalance, from the training clips."""

import numpy as np
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight


def balanced_class_weights(table: Dataset, num_classes: int) -> torch.Tensor:
    """Weights `[C]` that give every class the same share of the loss: n / (classes present * count), scikit-learn's.

    Args:
        table: the training clips; `segment_labels` are counted where the table has them, else `label`. -100 is not counted.
        num_classes: C. A class without a training clip gets weight 1, which only a validation loss ever meets.

    Raises:
        ValueError: several labels a clip, or no label at all.
    """
    segments = "segment_labels" in table.column_names
    rows = table["segment_labels" if segments else "label"]
    if segments:
        rows = [label for row in rows for label in row]
    elif any(isinstance(label, (list, tuple, np.ndarray)) for label in rows):
        raise ValueError(
            "class_weights: balanced weighs one class a clip, and these clips have several labels; set class_weights: none"
        )
    labels = np.array(rows, dtype=np.int64)
    labels = labels[labels != -100]
    if not len(labels):
        raise ValueError("class_weights: no training clip has a label; set class_weights: none")
    present = np.unique(labels)
    weights = torch.ones(num_classes)
    weights[present] = torch.from_numpy(compute_class_weight("balanced", classes=present, y=labels)).float()
    return weights
