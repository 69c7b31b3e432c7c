# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From a data set as its distributors give it to a checked `datasets` table: `python -m processing.prepare --help`."""
