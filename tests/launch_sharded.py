# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""`train.py` under Accelerate's FSDP2 on a CPU, which Accelerate itself offers on GPUs only."""

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

import train


settled = AcceleratorState.__init__


def settle_on_fsdp(self, *args, **kwargs):
    settled(self, *args, **kwargs)
    plugin = kwargs.get("fsdp_plugin") or getattr(self, "fsdp_plugin", None)
    if plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin


if __name__ == "__main__":
    AcceleratorState.__init__ = settle_on_fsdp
    train.main()
