# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer subclass with its checkpoints, signals, samplers and callbacks."""
