# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""MA-AVT's recipe: arguments, data, model, evaluation, baselines, outputs."""
