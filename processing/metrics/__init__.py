# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Arrays in, numbers out: metrics, bootstrap intervals and paired tests."""

IGNORED_LABEL = -100  # a label that does not count; PyTorch's cross-entropy ignores it too
