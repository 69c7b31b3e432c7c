# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training run is made of: arguments, model building, trainer, evaluation table, baseline, card."""
