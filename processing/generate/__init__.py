# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips with known truth, written by this package: demo digits and sounding shapes."""
