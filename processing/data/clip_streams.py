# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips as they come from shards: shuffled in a buffer, shared out over processes and workers, each once an epoch."""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Features, IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, get_worker_info

from processing.clips import Clip, ClipError

from .clip_dataset import PAIRING, ClipDataset
from .conventions import MODALITIES
from .stream_sources import RowReader, read_remote
from .worker_records import WorkerRecord


logger = logging.getLogger(__name__)

POSITION = "stream_position"


class ClipStream(torch.utils.data.IterableDataset):
    """One epoch of decoded and processed clips; items as `ClipDataset` makes them.

    Shards are dealt to processes (`split_dataset_by_node`) and to the workers of a `DataLoader`, in an order drawn from
    (seed, epoch); where their number is no multiple of `world_size`, every process reads all and keeps its share of the
    rows. Augmentation and noise of a clip are drawn from (seed, epoch, clip id), whoever decodes it.

    Mismatched pairs differ from those of a table: the partner is one of the last `partner_buffer` clips that the same
    worker has read in this epoch, not any clip of the set, and where none of those has another class and another group
    the pair stays matched (so do the first clips of an epoch).

    Args:
        rows: undecoded rows, as `open_source` gives them.
        reader: makes table rows of them.
        processor, seed, mismatch_probability, modalities, num_frames, augmentation, noise_db, clean_probability,
            on_missing, mark_noise: as for `ClipDataset`.
        shuffle_buffer: rows, with the bytes of their clips, that each worker keeps and draws from; 1 reads in order.
        partner_buffer: rows that each worker keeps as partners.
        rank, world_size: of this process.
        keep: function of a row; rows for which it is False are skipped.
        held_out: clip ids and groups that must not come, as they are validated or tested on.
        on_broken: "raise", or "skip": what cannot be decoded is logged and skipped.

    Raises:
        ValueError: a bad option; while reading, a clip that is held out.
        ClipError: while reading, a clip that cannot be decoded.
    """

    def __init__(
        self,
        rows: IterableDataset,
        reader: RowReader,
        processor: Any,
        *,
        seed: int = 0,
        mismatch_probability: float = 0.0,
        modalities: Sequence[str] = MODALITIES,
        shuffle_buffer: int = 100,
        partner_buffer: int = 50,
        rank: int = 0,
        world_size: int = 1,
        keep: Callable[[Mapping[str, Any]], bool] | None = None,
        held_out: Collection[str] = (),
        on_broken: str = "raise",
        **options: Any,
    ):
        # Options that contradict each other.
        if not 0 <= mismatch_probability <= 1:
            raise ValueError(f"{mismatch_probability=}; give a probability between 0 and 1")
        if mismatch_probability > 0 and len(set(modalities)) < 2:
            raise ValueError(
                f"modalities={modalities!r}: mismatched pairs need video and audio; set mismatch_probability to 0"
            )
        if shuffle_buffer < 1 or partner_buffer < 1:
            raise ValueError(f"{shuffle_buffer=}, {partner_buffer=}; give 1 or more")
        if on_broken not in ("raise", "skip"):
            raise ValueError(f'on_broken={on_broken!r}; use "raise" or "skip"')
        self.rows, self.reader, self.seed = rows, reader, seed
        self.mismatch_probability = mismatch_probability
        self.shuffle_buffer, self.partner_buffer = shuffle_buffer, partner_buffer
        self.rank, self.world_size = rank, world_size
        self.keep, self.held_out, self.on_broken = keep, frozenset(held_out), on_broken
        self._options = {"processor": processor, "seed": seed, "training": True, "modalities": modalities, **options}
        if "segment_labels" not in reader.columns:  # whose number only a row tells
            _ShownPair([], 0, 0, reader, **self._options)  # refuses bad options now and not in a worker
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that already run
        self._record = WorkerRecord.here()
        self._resume: dict[str, Any] = {"epoch": None}

    @property
    def num_shards(self) -> int:
        """That this process reads: more workers than this would have nothing to do."""
        shards = self.rows.num_shards
        if shards % self.world_size:
            return shards  # every process reads all shards, and gives its share of the rows
        return shards // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is, in running workers too."""
        self._epoch.fill_(epoch)

    def go_on(self, epoch: int, positions: Mapping[int, int], fill: Mapping[int, int]) -> None:
        """In this epoch, pass over the rows that each worker has read before, undecoded.

        `fill` says how many empty items a worker gives first, so that the workers take turns where they stopped.
        """
        self._resume = {"epoch": epoch, "positions": dict(positions), "fill": dict(fill)}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        info = get_worker_info()
        worker, epoch = info.id if info is not None else 0, int(self._epoch)
        # An interrupted epoch goes on behind the rows that were given.
        passed = 0
        if self._resume["epoch"] == epoch:
            passed = self._resume["positions"].get(worker, 0)
            yield from ({} for _ in range(self._resume["fill"].get(worker, 0)))
        recent: deque[dict[str, Any]] = deque(maxlen=self.partner_buffer)
        for position, cells in enumerate(self._order(epoch), start=1):
            row = self.reader(cells)
            if self.keep is not None and not self.keep(row):
                continue
            self._check_held_out(row)
            # Rows that were given still count as partners, undecoded.
            item = None if position <= passed else self._item(row, recent, epoch)
            recent.append(row)
            if item is not None:
                yield item | {POSITION: torch.tensor([worker, epoch, position])}

    def _order(self, epoch: int) -> IterableDataset:
        # The seed of the epoch orders shards and buffer, and processes share the rows.
        rows = self.rows
        if self.shuffle_buffer > 1:
            seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
            rows = rows.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        if self.world_size > 1:
            rows = split_dataset_by_node(rows, self.rank, self.world_size)
        return rows

    def _check_held_out(self, row: Mapping[str, Any]) -> None:
        for kind in ("clip_id", "group"):
            if row[kind] in self.held_out:
                raise ValueError(
                    f"{kind} {row[kind]!r} is validated or tested on and stands in the training stream too; mend the "
                    "splits or the group column"
                )

    def _item(self, row: dict[str, Any], recent: Iterable[dict[str, Any]], epoch: int) -> dict | None:
        number = int.from_bytes(hashlib.blake2b(row["clip_id"].encode(), digest_size=7).digest(), "big")
        # Item 0 of a small data set: the clip itself, or a pair with a recent one.
        others = recent if self.mismatch_probability > 0 else ()
        pairs = _ShownPair([row, *others], number, epoch, self.reader, **self._options)
        pairs.draw(self.mismatch_probability)
        pairs._record = self._record
        try:
            return pairs[0]
        except ClipError as error:
            if self.on_broken == "raise":
                raise
            logger.warning("skipped in the stream: %s", error)
            return None


class _ShownPair(ClipDataset):
    """A row and the rows before it, as a data set of which item 0 alone is shown: the row, or a pair with one of them."""

    def __init__(self, rows: Sequence[dict[str, Any]], number: int, epoch: int, reader: RowReader, **options: Any):
        super().__init__(_Rows(rows, reader.features()), **options)
        self._number, self._shown = number, (0, 0)
        self.set_epoch(epoch)

    def draw(self, mismatch_probability: float) -> None:
        """Choose what item 0 shows, as `ClipDataset.pair` does of a whole table."""
        generator = self._generator(0, PAIRING)
        row = self.table[0]
        if row["video"] is None or row["audio"] is None or generator.random() >= mismatch_probability:
            return
        # A partner replaces the video or the audio, each half of the time.
        keep_video = generator.random() < 0.5
        partners = [other for other in range(1, len(self.table)) if self._is_partner(0, other)]
        if partners:
            partner = partners[int(generator.integers(len(partners)))]
            self._shown = (0, partner) if keep_video else (partner, 0)

    def pair(self, index: int) -> tuple[int, int]:
        return self._shown

    def _generator(self, index: int, purpose: int) -> np.random.Generator:
        return super()._generator(self._number, purpose)  # by the clip, not by its positions

    def _decode(self, row: dict[str, Any], kind: str, *arguments: Any) -> Clip:
        return super()._decode(row | {kind: read_remote(row[kind])}, kind, *arguments)


class _Rows(list):
    """A few rows with what a `datasets.Dataset` has: columns by name, and their types."""

    def __init__(self, rows: Sequence[dict[str, Any]], features: Features):
        super().__init__(rows)
        self.features, self.column_names = features, list(features)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


class StreamBatches(torch.utils.data.IterableDataset):
    """Batches of a stream, epoch after epoch; knows where it is and can go on from there.

    An epoch ends when every worker of this process has given all its clips, so each comes once; the last batch of each
    worker may be small. Processes do not wait for each other's epochs: one with fewer clips starts its next one earlier.

    Args:
        stream: what to read.
        batch_size: clips of a batch.
        collate_fn: items to batch.
        num_workers: processes that read and decode; no more than there are shards are started.
        epochs: how many; None goes on without end.
        loader_options: for the `DataLoader` of the workers.
    """

    def __init__(
        self,
        stream: ClipStream,
        batch_size: int,
        collate_fn: Callable,
        *,
        num_workers: int = 0,
        epochs: int | None = None,
        **loader_options: Any,
    ):
        self.stream, self.batch_size, self.epochs = stream, batch_size, epochs
        self.num_workers = min(num_workers, stream.num_shards)
        # A worker without a shard would have nothing to do.
        if self.num_workers < num_workers:
            logger.warning(
                "stream: %d loader workers for %d shards a process; %d are used, write more shards for more",
                num_workers,
                stream.num_shards,
                self.num_workers,
            )
        if self.num_workers == 0:
            for name in ("prefetch_factor", "persistent_workers", "multiprocessing_context"):
                loader_options.pop(name, None)
        self._options = {"collate_fn": collate_fn, "num_workers": self.num_workers, **loader_options}
        self._workers = DataLoader(stream, batch_size, **self._options)
        self.epoch, self.batches = 0, 0
        self._positions: dict[int, int] = {}
        self._turn = 0
        self._empty_batches = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches from where the last iteration or a loaded state stopped."""
        yield from ({} for _ in range(self._empty_batches))
        self._empty_batches = 0
        while self.epochs is None or self.epoch < self.epochs:
            # Where each worker stopped; empty batches bring the workers into turn.
            fresh = not self._positions
            fill = dict.fromkeys(range(self._turn), self.batch_size)
            self.stream.set_epoch(self.epoch)
            self.stream.go_on(self.epoch, self._positions, fill)
            for batch in self._workers:
                positions = batch.pop(POSITION, None)
                if positions is None:  # an empty one, which only takes its turn
                    continue
                # The last row of the batch says how far its worker is.
                worker, _, position = positions[-1].tolist()
                self._positions[worker] = position
                self._turn = (worker + 1) % max(self.num_workers, 1)
                self.batches += 1
                yield batch
            if fresh and not self._positions:
                raise ValueError(f"the stream gave process {self.stream.rank} no clip; are there enough shards?")
            self.epoch, self._positions, self._turn = self.epoch + 1, {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the batches that were taken so far end. Fits into JSON."""
        return {
            **self._layout(),
            "epoch": self.epoch,
            "batches": self.batches,
            "positions": {str(worker): position for worker, position in self._positions.items()},
            "turn": self._turn,
        }

    def load_state_dict(self, state: Mapping[str, Any], *, empty_batches: bool = False) -> None:
        """Go on behind those batches: the rows before are read again in this epoch, but not decoded.

        Args:
            state: what `state_dict` gave.
            empty_batches: give an empty batch for each of those, for a caller that counts them off.

        Raises:
            ValueError: the stream was laid out over other processes, workers, batches or buffers.
        """
        layout = self._layout()
        changed = [
            f"{name}: {state.get(name)}, now {value}" for name, value in layout.items() if state.get(name) != value
        ]
        if changed:
            raise ValueError(f"a stream goes on only as it was begun ({'; '.join(changed)}); give the same again")
        self.epoch, self.batches, self._turn = state["epoch"], state["batches"], state["turn"]
        self._positions = {int(worker): position for worker, position in state["positions"].items()}
        self._empty_batches = state["batches"] if empty_batches else 0
        self._workers = DataLoader(self.stream, self.batch_size, **self._options)  # persistent ones know no new state

    def loader(self) -> DataLoader:
        """These batches as a `DataLoader`, which training loops expect."""
        return DataLoader(self, batch_size=None, collate_fn=_as_is)

    def _layout(self) -> dict[str, int]:
        stream = self.stream
        return {
            "seed": stream.seed,
            "rank": stream.rank,
            "world_size": stream.world_size,
            "num_workers": self.num_workers,
            "batch_size": self.batch_size,
            "shuffle_buffer": stream.shuffle_buffer,
            "partner_buffer": stream.partner_buffer,
            "num_shards": stream.rows.num_shards,
        }


def _as_is(batch: Any) -> Any:
    return batch
