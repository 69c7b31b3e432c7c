# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of time and memory, each beside what it is compared with: `make bench` (docs/performance.md)."""
