# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's recipes: pre-training, its probes, and a file for each task."""
