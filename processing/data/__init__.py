# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows to batches: clip tables, their checks and splits, data sets, augmentation, collators, caches, streams."""
