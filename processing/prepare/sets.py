# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The sets that can be prepared, by name. A module of a set has `add_arguments(parser)` and `read(root, options)`."""

from types import ModuleType

from processing.prepare import audioset, ave, crema_d, kinetics_sounds, ravdess, vggsound


SETS: dict[str, ModuleType] = {
    "ave": ave,
    "vggsound": vggsound,
    "crema_d": crema_d,
    "kinetics_sounds": kinetics_sounds,
    "audioset": audioset,
    "ravdess": ravdess,
}
