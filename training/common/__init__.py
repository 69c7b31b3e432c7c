# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What knows no model: result tables, plots, cards, YAML."""
