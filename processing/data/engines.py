# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Who calls a function for many clips: processes of this machine, or Ray on one machine or many. Both give equal results."""

import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from .isolated_calls import END, TIME_LIMIT, Lost, isolated_calls


ENGINES = ("process", "ray")
BLOCK_ITEMS = 64  # of a Ray task at most; what a dying machine costs
STARTS = 3  # of an item whose Ray worker dies


@dataclass(frozen=True)
class Engine:
    """How many processes call a function, and where.

    Args:
        name: "process": processes of this machine; "ray": Ray, which has to be installed (`pip install 'ray[data]'`).
        workers: how many; 0: this process calls; None: one for each core (of Ray's cluster), on this machine at most 8.
        address: of a running Ray cluster ("auto": the one of this machine). None: the one that RAY_ADDRESS names, or
            one that is started here and ends with this process.
        gpus: that each Ray worker has for itself.
        start_method: of processes on this machine; None: the platform's.

    Raises:
        ValueError: an unknown engine, or an address without Ray.
    """

    name: str = "process"
    workers: int | None = None
    address: str | None = None
    gpus: int = 0
    start_method: str | None = None

    def __post_init__(self):
        if self.name not in ENGINES:
            raise ValueError(f"engine: {self.name!r} must be one of {', '.join(ENGINES)}")
        if self.address is not None and self.name != "ray":
            raise ValueError(f"address: {self.address} is for Ray; add --engine ray")

    def calls(
        self, function: Callable[[Any], Any], items: Iterable[Any], time_limit: float | None = TIME_LIMIT
    ) -> Iterator[tuple[Any, Any]]:
        """(item, `function(item)`) of each item as they come; a `Lost` stands for the result of a call that ended its
        process or took more than `time_limit` seconds (None: it may take for ever).

        Function, items and results can be pickled. Ray calls an item again whose worker died of something else.

        Raises:
            Exception: what the function raised.
            ImportError: Ray is not installed.
        """
        if self.name == "ray":
            return _ray_calls(self, function, list(items), time_limit)
        if self.workers == 0:
            return ((item, function(item)) for item in items)
        workers = self.workers or min(8, os.cpu_count() or 1)
        return isolated_calls(function, items, workers=workers, time_limit=time_limit, start_method=self.start_method)


IN_THIS_PROCESS = Engine(workers=0)


def _ray_calls(
    engine: Engine, function: Callable, items: Sequence[Any], time_limit: float | None
) -> Iterator[tuple[Any, Any]]:
    workers = _connect(engine)
    import ray

    if not items:
        return
    # Of few items each worker gets a few blocks.
    block_items = max(1, min(BLOCK_ITEMS, len(items) // (4 * workers)))
    num_blocks = -(-len(items) // block_items)
    rows = [{"number": number, "item": pickle.dumps(item)} for number, item in enumerate(items)]
    starts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Starts).remote()
    data = ray.data.from_items(rows, override_num_blocks=num_blocks).map_batches(
        _Caller,
        fn_constructor_args=(pickle.dumps(function), time_limit, starts),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(workers, num_blocks)),
        num_cpus=1,
        num_gpus=engine.gpus or None,
    )
    for batch in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            raised, result = pickle.loads(row["outcome"])
            if raised:
                raise result
            yield items[row["number"]], result


class _Starts:
    """Counts how often an item was begun and not ended. Ray begins a block anew, for ever, when its worker has died."""

    def __init__(self):
        self.open: Counter[int] = Counter()

    def begin(self, number: int) -> int:
        self.open[number] += 1
        return self.open[number]

    def end(self, number: int) -> None:
        self.open.pop(number, None)


class _Caller:
    """What a Ray worker holds: one process that calls the function, replaced when an item has ended it.

    An item that ends its process is thus named in the words that it has without Ray. One that takes the whole worker with
    it, as a lack of memory does, is given up after so many starts.
    """

    def __init__(self, function: bytes, time_limit: float | None, starts: Any):
        self.function, self.time_limit, self.starts = pickle.loads(function), time_limit, starts
        self.item: Any = None
        self.results = self._start()

    def _start(self) -> Iterator[tuple[Any, Any]]:
        waiting = iter(lambda: self.item, END)  # gives whatever `item` is when a result is asked for
        # A Ray worker has threads, which a fork would copy half: the process starts from a server without any.
        options = {"workers": 1, "time_limit": self.time_limit, "start_method": "forkserver"}
        return isolated_calls(self.function, waiting, **options)

    def __call__(self, batch: pa.Table) -> pa.Table:
        outcomes = [pickle.dumps(self._call(row["number"], row["item"])) for row in batch.to_pylist()]
        return pa.table({"number": batch["number"], "outcome": pa.array(outcomes, pa.large_binary())})

    def _call(self, number: int, item: bytes) -> tuple[bool, Any]:
        """Whether the function raised, and what it raised or returned."""
        import ray

        if ray.get(self.starts.begin.remote(number)) > STARTS:
            return False, Lost(f"its Ray worker died {STARTS} times; is there enough memory?")
        self.item = pickle.loads(item)
        try:
            outcome = (False, next(self.results)[1])
        except Exception as error:  # of the function: it is raised where the results are read
            outcome = (True, error)
            self.results = self._start()
        self.starts.end.remote(number)
        return outcome


def _connect(engine: Engine) -> int:
    """Connects to Ray, or starts it here without dashboard and network. Returns how many workers to have."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")  # a busy machine starts a worker in minutes
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine: Ray is not installed; pip install 'ray[data]'") from error
    if not ray.is_initialized():
        options = {"log_to_driver": False, "logging_level": logging.ERROR}
        if engine.address or os.environ.get("RAY_ADDRESS"):
            options["address"] = engine.address
        else:
            num_cpus = max(engine.workers or 0, os.cpu_count() or 1)
            options |= {"num_cpus": num_cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        ray.init(**options)
    ray.data.DataContext.get_current().enable_progress_bars = False  # one bar for the clips is enough
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    available = ray.cluster_resources()
    room = int(available.get("CPU", 1))
    if engine.gpus:
        room = int(available.get("GPU", 0) // engine.gpus)
    if not room:
        raise ValueError("engine: no machine of the Ray cluster has a GPU; give --device cpu")
    return min(engine.workers or room, room)
