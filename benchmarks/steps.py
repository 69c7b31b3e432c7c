# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What each fast path gives: the model with one of them taken away, beside the whole, interleaved.

python -m benchmarks.steps
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from modeling_maavt import MAAVTModel, attention_maavt, layer_maavt, linear_maavt

from .speed import DTYPES
from .workload import Step, build_batch, build_model, for_inference, inputs_of, interleaved, ratio


def without(name: str) -> contextlib.AbstractContextManager:
    """Takes the plain path of one thing."""
    if name == "packed_layers":  # what is packed stays packed: the next turn shall not pay for it
        nothing = {"packed_linears": lambda states, modules: None, "forget": lambda modules: None}
        return mock.patch.multiple(linear_maavt, **nothing)
    if name == "short_attention":
        return mock.patch.object(attention_maavt, "plain_backward_is_faster", lambda query, key: False)
    if name == "rows_left_out":
        return mock.patch.object(MAAVTModel, "_may_leave_rows_out", lambda self, kwargs: False)
    if name == "computed_again":
        return mock.patch.object(layer_maavt, "LARGEST_KEPT", float("inf"))
    return contextlib.nullcontext()


NAMES = ("packed_layers", "short_attention", "rows_left_out", "computed_again")


def run_without(name: str, function: Callable) -> Callable:
    def run() -> None:
        with without(name):
            function()

    return run


def settings(clips: int, blocks: int) -> Iterator[tuple[str, Callable]]:
    for name, dtype in DTYPES.items():
        batch = build_batch(clips, dtype=dtype)
        model = for_inference(build_model(dtype, blocks=blocks))
        yield f"forward.{name}", torch.inference_mode()(lambda model=model, batch=batch: model(**inputs_of(batch)))
        yield f"train.{name}", Step(build_model(dtype, blocks=blocks), lambda model, batch=batch: model(**batch).loss)


def measure(clips: int = 4, blocks: int = 4) -> dict[str, float]:
    """`steps.<what>.<path>`: how many times slower without that path; 1 where it is not taken in that dtype."""
    results = {}
    for what, function in settings(clips, blocks):
        seconds = interleaved({name: run_without(name, function) for name in ("", *NAMES)}, repeats=5)
        results |= {f"steps.{what}.{name}": ratio(seconds, name, "") for name in NAMES}
    return results | {"steps.blocks": blocks}


if __name__ == "__main__":
    print(json.dumps(measure()))
