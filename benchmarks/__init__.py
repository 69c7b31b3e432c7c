# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What MA-AVT costs, measured beside what it is compared with: `python -m benchmarks.bench` (docs/performance.md)."""
