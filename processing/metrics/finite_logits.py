# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The check that a model's logits are numbers, before a class is read from them."""

from collections.abc import Sequence

import numpy as np


MAX_NAMES = 3  # in the message


def check_finite(logits: np.ndarray, clips: Sequence[str] | None = None) -> None:
    """
    Refuse logits that are NaN or infinite: the largest of several NaN is the first, so that they would count as class 0.

    Args:
        logits: `[n, ...]`, of n clips.
        clips: their n names, for the message; None: their rows.

    Raises:
        ValueError: naming the clips, the cause and the cure.
    """
    finite = np.isfinite(logits).all(axis=tuple(range(1, logits.ndim)))  # [n]
    rows = np.flatnonzero(~finite)
    if not len(rows):
        return
    names = [f"clip {row}" if clips is None else str(clips[row]) for row in rows[:MAX_NAMES]]
    if len(rows) > MAX_NAMES:
        names.append(f"{len(rows) - MAX_NAMES} more")
    raise ValueError(
        f"{', '.join(names)}: the model's logits are NaN or infinite, because its training diverged or the loss scale of "
        "fp16 overflowed; train with a lower learning rate, or with bf16 in place of fp16"
    )
