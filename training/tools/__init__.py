# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Commands that start many runs or work on finished ones."""
