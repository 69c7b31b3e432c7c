# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Separation of sound sources: SDR, SIR and SAR of BSS Eval, through mir_eval."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .accumulated import MeasuredMetric


SILENCE = 1e-5  # mean square below which a waveform counts as silent: -50 dB of full scale


class SeparationScore(MeasuredMetric):
    """SDR, SIR and SAR in dB: mean over sources and mixtures; which estimate belongs to which source is given.

    `compute(predictions=[n, sources, samples] estimates, references=[n, sources, samples])` -> `sdr`, `sir`, `sar`,
    `num_mixtures`, `num_skipped`. Mixtures of which a source or an estimate is nearly silent (mean square below 1e-5)
    are skipped and counted: the figures are undefined there. Every mixture is measured when it is added.

    Raises ImportError without mir_eval, ValueError for other shapes, and when every mixture was skipped.
    """

    source = "Vincent et al., Performance Measurement in Blind Audio Source Separation, IEEE TASLP 2006; mir_eval"

    def measure(self, prediction: Any, reference: Any) -> np.ndarray:
        return bss_eval(prediction, reference).ravel()

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        heard = [np.asarray(row, dtype=np.float64).reshape(3, -1) for row in predictions if len(row)]
        if not heard:
            raise ValueError(f"references: all {len(predictions)} mixtures have a silent source or estimate")
        sdr, sir, sar = np.mean([row.mean(1) for row in heard], axis=0)
        return {
            "sdr": float(sdr),
            "sir": float(sir),
            "sar": float(sar),
            "num_mixtures": len(heard),
            "num_skipped": len(predictions) - len(heard),
        }


def bss_eval(estimates: Any, sources: Any) -> np.ndarray:
    """`[3, sources]`: SDR, SIR, SAR of estimates against sources `[sources, samples]`; `[0, 0]` where one is silent.

    Raises:
        ImportError: mir_eval is not there.
        ValueError: shapes that differ, or are no `[sources, samples]`.
    """
    try:
        from mir_eval.separation import bss_eval_sources
    except ImportError as error:
        raise ImportError("SDR, SIR and SAR need mir_eval 0.8; pip install 'mir_eval>=0.8,<0.9'") from error
    estimates, sources = (np.asarray(values, dtype=np.float64) for values in (estimates, sources))
    if estimates.shape != sources.shape or sources.ndim != 2:
        raise ValueError(f"estimates {estimates.shape}, sources {sources.shape}; give [sources, samples] for both")
    if min(np.square(values).mean(1).min() for values in (estimates, sources)) < SILENCE:
        return np.zeros((0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mir_eval 0.8 announces that 0.9 leaves it to others
        return np.stack(bss_eval_sources(sources, estimates, compute_permutation=False)[:3])
