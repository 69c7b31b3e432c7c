# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: a merged model, an adapter, their cards, and what goes to the Hub."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import create_repo, upload_folder
from peft import PeftModel
from torch import nn
from transformers import ProcessorMixin, Trainer

from modeling_maavt import export_adapter
from training.common.results import package_versions
from training.trainer.checkpoints import DAMAGED, REMOVED, STAGED

from .arguments import ArgumentTuple, RunArguments, recorded_arguments
from .card import backbone_license, write_card
from .model import lora_rank, merged_model, parameter_counts


logger = logging.getLogger(__name__)


def clear_checkpoints(args: RunArguments) -> None:
    """Deletes the checkpoints of an earlier run if asked to. Raises FileExistsError where they would be mixed up."""
    found = sorted(Path(args.output_dir).glob("checkpoint-*"))
    if found and not args.overwrite_output_dir:
        raise FileExistsError(
            f"output_dir: {args.output_dir} holds {len(found)} checkpoints of an earlier run; go on from them with "
            "--resume_from_checkpoint true, start over with --overwrite_output_dir, or choose another --output_dir"
        )
    unfinished = [STAGED, REMOVED, *([DAMAGED] if args.overwrite_output_dir else [])]
    leftovers = [path for prefix in unfinished for path in Path(args.output_dir).glob(f"{prefix}checkpoint-*")]
    for folder in found + leftovers:
        shutil.rmtree(folder)


def describe(arguments: ArgumentTuple, model: nn.Module, report: dict) -> dict:
    """The part of `results.json` that is known before the evaluation."""
    model_args, data_args, eval_args, args = arguments
    trained, total = parameter_counts(model)
    backbone = backbone_name(model_args.model_name_or_path, model)
    path = Path(data_args.data)
    data_name = eval_args.data_name or (path.parent.name if path.suffix == ".csv" else path.name)
    what = {
        "adapter": "learned tokens and heads",
        "full": "all weights",
        "linear_probe": "the classifier alone",
        "lora": "the classifier alone",
        "lavish": "LAVISH adapters and a classifier",
    }
    rank = lora_rank(model_args)
    lora = f", with LoRA of rank {rank}" if rank else ""
    num_classes = len(report["classes"])
    left_out = report["skipped_by_reason"] | report.get("left_out_before", {})
    reasons = ", ".join(f"{number} ({reason})" for reason, number in left_out.items())
    return {
        "arguments": recorded_arguments(arguments),
        "label_names": report["classes"],
        "splits": report["splits"],
        "num_frames": data_args.num_frames,
        "window": data_args.window,
        "parameters": total,
        "trainable": trained,
        "versions": package_versions(),
        "card": {
            "title": eval_args.model_title or f"MA-AVT on {data_name}",
            "summary": f"Classifies video clips into {num_classes} classes, from video and audio together. "
            f"The backbone is {backbone}. What was trained: {what[model_args.tuning]}{lora}.",
            "backbone": backbone,
            "backbone_license": backbone_license(model_args.model_name_or_path, eval_args.backbone_license),
            "data_name": data_name,
            "data_description": eval_args.data_description or f"{data_name}: {num_classes} classes.",
            "data_license": eval_args.data_license,
            "skipped": f"Skipped clips: {reasons or 'none'}.",
            "recipe": f"{trained:,} of {total:,} parameters were trained. What differs from the package's defaults:",
        },
    }


def backbone_name(name: str, model: nn.Module) -> str:
    """The backbone as a card names it: its Hub name, or what it is and the last part of a local folder's path."""
    if not Path(name).exists():
        return name
    config = model.config
    return f"a ViT of {config.num_hidden_layers} layers, {config.hidden_size} wide (local folder `{Path(name).name}`)"


def whole_model(trainer: Trainer, build: Callable[[], nn.Module]) -> nn.Module | None:
    """The trained model with all its weights, to be called by every process; None where nothing is to be saved.

    FSDP leaves each process its shard: there the weights are gathered into a new model, made by `build`.
    """
    if not trainer.is_fsdp_enabled:
        return trainer.model
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.args.should_save:
        return None
    model = build()
    model.load_state_dict(weights)
    return model


def save_outputs(
    directory: Path, model: nn.Module, processor: ProcessorMixin, results: dict, name: str | None
) -> dict:
    """Writes `model/` (plain AutoModel checkpoint) and, for PEFT runs, `adapter/`; both with processor and card.

    Merging changes `model`: call this last. Returns the paths.
    """
    paths = {"model": directory / "model"}
    if isinstance(model, PeftModel):
        paths["adapter"] = directory / "adapter"
        export_adapter(model, paths["adapter"])
    merged_model(model).save_pretrained(paths["model"])
    for kind, path in paths.items():
        processor.save_pretrained(path)
        write_card(path, results, name=name or str(path), adapter=kind == "adapter")
    return {kind: str(path) for kind, path in paths.items()}


def upload(folder: str | Path, args: RunArguments) -> str:
    """One commit with weights, code, processor and card. Returns the address of the repository."""
    repository = create_repo(
        args.hub_model_id or Path(args.output_dir).name,
        private=args.hub_private_repo,
        token=args.hub_token,
        exist_ok=True,
    )
    upload_folder(
        repo_id=repository.repo_id,
        folder_path=folder,
        token=args.hub_token,
        revision=args.hub_revision,
        commit_message="Fine-tuned MA-AVT",
    )
    logger.info("uploaded to %s", repository)
    return str(repository)
