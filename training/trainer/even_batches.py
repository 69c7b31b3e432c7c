# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Several processes see what one process would see: each clip once an epoch, in the same order and global batches.

Accelerate fills the last batch of a data set with clips from its beginning, which are then trained on twice and counted
in the loss of an evaluation. Here it is filled with items that no loss counts.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, IterableDataset, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import has_length


class FilledClips(Dataset):
    """A data set of n items; from index n on, copies that count nowhere: no modality, no label, no pair.

    They keep the shapes of a batch and take part in the collectives of every process.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < len(self.dataset):
            return self.dataset[index]
        item = dict(self.dataset[index % len(self.dataset)])
        item |= {"has_video": torch.tensor(False), "has_audio": torch.tensor(False)}
        for name in ("labels", "video_targets", "audio_targets"):
            if name in item:
                item[name] = torch.full_like(torch.as_tensor(item[name]), -100)
        if "is_matched" in item:
            item["is_matched"] = torch.zeros_like(torch.as_tensor(item["is_matched"]))
        return item


class FilledSampler(Sampler[int]):
    """The indices of another sampler, then fillers up to a multiple of the global batch.

    Args:
        sampler: of the n real items.
        multiple: clips in a global batch.
        epoch: says the current epoch; a resumed data loader would not pass it on to the sampler inside.
    """

    def __init__(self, sampler: Sampler, multiple: int, epoch: Callable[[], int]):
        self.sampler, self.epoch = sampler, epoch
        self.length = -(-len(sampler) // multiple) * multiple

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(self.epoch())
        yield from self.sampler
        yield from range(len(self.sampler), self.length)


class EvenBatchTrainer(Trainer):
    """`Trainer` whose processes share out every global batch, also an uneven last one, without repeating a clip.

    Evaluation covers every item even with `dataloader_drop_last`, and its loss is that of the global batch.

    Args:
        train_sampler: gives the order of the training clips instead of a shuffle; its `set_epoch` is called.
    """

    def __init__(self, *args, train_sampler: Sampler | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.train_sampler = train_sampler

    def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **kwargs):
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        processes = self.args.world_size
        if processes > 1 and not self.args.dataloader_drop_last and self._fillable(dataset, is_training):
            dataset = FilledClips(dataset)

            def sampler_fn(filled: Dataset) -> Sampler:
                order = SequentialSampler(filled)
                if is_training and self.train_sampler is not None:
                    order = self.train_sampler
                elif is_training:  # as Accelerate makes of the Trainer's own sampler on one process
                    order = SeedableRandomSampler(filled, data_seed=self.args.data_seed)
                return FilledSampler(order, batch_size * processes, self._epoch)

        elif is_training and self.train_sampler is not None:

            def sampler_fn(clips: Dataset) -> Sampler:
                return FilledSampler(self.train_sampler, 1, self._epoch)

        try:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _epoch(self) -> int:
        return int((self.state.epoch or 0.0) + 1e-6)

    def _fillable(self, dataset: Dataset, is_training: bool) -> bool:
        random_order = not is_training or self.args.train_sampling_strategy == "random"
        return has_length(dataset) and not isinstance(dataset, IterableDataset) and random_order

    def prediction_step(self, *args, **kwargs):
        loss, logits, labels = super().prediction_step(*args, **kwargs)
        # Each process holds its share of the global batch's loss, scaled by their number: the mean is the loss.
        return (loss if loss is None else self.accelerator.reduce(loss, "mean")), logits, labels
