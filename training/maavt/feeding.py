# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a run's clips come from: decoded as they are needed, kept in memory, or decoded ahead of time."""

import torch
from datasets import DatasetDict
from torch import nn
from transformers import ProcessorMixin

from processing.data.block_state_cache import BlockStateCache, build_block_state_cache
from processing.data.clip_cache import ClipCache
from processing.data.engines import Engine
from processing.data.feature_cache import FeatureCache, build_feature_cache, changes_frames_at_random

from .arguments import Recipe


def clip_source(
    recipe: Recipe, processor: ProcessorMixin, tables: DatasetDict
) -> tuple[ProcessorMixin | ClipCache | FeatureCache, DatasetDict]:
    """What loads clips for the data sets, and the tables to give them. A dry run writes nothing, so no cache either."""
    data, run = recipe.data, recipe.run
    folder = data.feature_cache or data.block_states
    if folder and not run.dry_run:
        cache = build_feature_cache(
            folder,
            processor,
            tables,
            num_frames=data.num_frames,
            streams=tuple(data.modalities),
            engine=cache_engine(recipe),
            **cached_forms(recipe),
        )
        return cache, cache.tables
    if data.cache_gb:
        return ClipCache(processor, data.cache_gb), tables
    return processor, tables


def cache_engine(recipe: Recipe) -> Engine:
    """Who fills the feature cache: as many processes as the loader has workers, or all of Ray's."""
    if recipe.data.cache_engine == "ray":
        return Engine("ray")
    start_method = getattr(recipe.run, "dataloader_multiprocessing_context", None)
    return Engine(workers=recipe.run.dataloader_num_workers, start_method=start_method)


def cached_forms(recipe: Recipe) -> dict[str, str]:
    """The latest form of frames and audio that comes before everything that the run changes at random."""
    augmentation, forms = recipe.augmentation, {"frames": "resized", "audio": "spectrogram"}
    if augmentation is not None and changes_frames_at_random(augmentation):
        forms["frames"] = "decoded"
    noisy = [level for level in recipe.evaluation.evaluation_noise_db if str(level) != "clean"]
    gain = augmentation is not None and augmentation.gain_db != 0
    if noisy or gain or recipe.train_noise is not None:
        forms["audio"] = "waveform"
    return forms


def block_state_source(recipe: Recipe, cache: FeatureCache, model: nn.Module) -> BlockStateCache:
    """What gives the model the states that enter its first prompted block, in the type in which it computes them.

    Args:
        cache: of `clip_source`.
        model: a `MAAVTForAudioVisualClassification`, also inside a `PeftModel`; goes to the run's device.

    Raises:
        ValueError: its tokens enter at once, its match head reads patches, or dropout makes its frozen blocks random.
    """
    # States can be kept only of blocks that see no learned token and no dropout.
    trunk = getattr(model, "get_base_model", lambda: model)().maavt
    if trunk.config.prompt_start_layer == 0:
        raise ValueError(
            "block_states: the learned tokens enter before the first block, so that nothing can be kept; set "
            "model_config.prompt_start_layer above 0, or leave block_states out"
        )
    if trunk.config.background_mining and trunk.config.match_head == "patches":
        raise ValueError(
            'block_states: the match head "patches" reads the patches before the first block; set '
            "model_config.match_head to bilinear, or leave block_states out"
        )
    vision = trunk.config.vision_config
    if vision.hidden_dropout_prob or vision.attention_probs_dropout_prob:
        raise ValueError(
            "block_states: the backbone's dropout changes its blocks from step to step; leave one of both out"
        )
    # The model's frozen blocks compute them on the run's device.
    run = recipe.run
    model.to(run.device)

    def states_of(**inputs: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return trunk.block_states(**{name: value.to(run.device) for name, value in inputs.items()})

    return build_block_state_cache(
        recipe.data.block_states,
        cache,
        states_of,
        trunk.block_states_fingerprint(),
        batch_size=run.per_device_eval_batch_size,
        dtype=next(trunk.encoder.parameters()).dtype,
    )
