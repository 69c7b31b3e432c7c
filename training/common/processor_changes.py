# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The option `processor` of the recipes: changes to the parts of a processor."""

from collections.abc import Mapping
from typing import Any

from .options import nearest


PARTS = ("feature_extractor", "video_processor")


def changed_processor(processor: Any, changes: Mapping[str, Mapping[str, Any] | None]) -> Any:
    """The processor, with parts rebuilt from their fields and the changes, so that the parts check their values.

    Args:
        processor: a new one or that of a checkpoint; its parts are replaced.
        changes: part to field to value. The field "preset" of the feature extractor names a whole recipe, which
            replaces the fields that the processor has.

    Raises:
        ValueError: an unknown part, field or preset, or a value that the part refuses; names part and field.
    """
    if unknown := sorted(set(changes) - set(PARTS)):
        raise ValueError(f"processor: unknown parts {unknown}; known: {', '.join(PARTS)}")
    for name, fields in changes.items():
        if not fields:
            continue
        if not isinstance(fields, Mapping):
            raise ValueError(f"processor: {name}: give a mapping of fields, not {fields!r}")
        try:
            part = changed_part(getattr(processor, name), fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"processor: {name}: {error}") from error
        setattr(processor, name, part)
    return processor


def changed_part(part: Any, changes: Mapping[str, Any]) -> Any:
    """A new part with the fields of `part` and the changes. Raises ValueError for an unknown field."""
    fields = part.to_dict()
    # A video processor lists its fields; it leaves those that are None out of `to_dict`.
    known = {*fields, *getattr(getattr(part, "valid_kwargs", None), "__annotations__", ())}
    if hasattr(part, "presets"):
        known.add("preset")
    for field in changes:
        if field not in known:
            hint = nearest(str(field), sorted(known)) or f"; known: {', '.join(sorted(known))}"
            raise ValueError(f"unknown field '{field}'{hint}")

    changes = dict(changes)
    if (preset := changes.pop("preset", None)) is not None:
        return type(part).from_preset(preset, **changes)
    return type(part).from_dict(fields | changes)
