# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: tables, a merged model, an adapter, their cards, and what goes to the Hub.

Everything is written to a hidden folder first and renamed when all of it is there, `results.json` last: a run that is
killed before leaves no `results.json`.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedConfig, ProcessorMixin, Trainer

from modeling_maavt import export_adapter
from processing.data.atomic_writing import write_csv, write_text
from processing.data.stream_sources import HUB
from training.common.class_reports import write_class_reports
from training.common.plots import plots_of_run
from training.common.results import markdown_table, package_versions, plain_text, small_table_note

from .arguments import Recipe, recorded_arguments, training_record
from .baseline import baseline_rows
from .card import CARD_PICTURES, PICTURES, architecture_text, backbone_license, write_card
from .data import Clips, RunData
from .evaluation import Evaluation, evaluate_model, predict
from .model import build_model, merged_model, parameter_counts
from .official_scores import official_scores, official_tables
from .report import report_of_run
from .retrieval import retrieval_scores
from .upload import push_run


logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished-results"
TRAINING_LOG = "training_log.json"  # what the Trainer logged; its own state names folders of this machine
TRAINED_PARTS = {
    "adapter": "learned tokens and heads",
    "full": "all weights",
    "linear_probe": "the classifier alone",
    "lora": "the classifier",
    "lavish": "LAVISH adapters and a classifier",
}


def evaluate(trainer: Trainer, recipe: Recipe, clips: Clips, data: RunData) -> tuple[Evaluation, dict]:
    """The test table with its baseline, and the further figures that papers report for this set."""
    measured = evaluate_model(trainer, recipe, data, clips.label_names)

    def on_validation():
        return predict(trainer, data.split("validation", noise_db=recipe.train_noise))

    official = official_scores(measured.predictions, data.tables[data.tested], clips.label_names, on_validation)
    # The regression is fitted on a table, which a stream has not, and chosen on validation.
    if recipe.evaluation.baseline and data.tested == "test" and recipe.run.should_save and clips.stream is None:
        measured.rows.extend(baseline_rows(recipe, data, len(clips.label_names)))
    return measured, official


def save(
    trainer: Trainer, recipe: Recipe, clips: Clips, data: RunData, trained: dict, measured: Evaluation, official: dict
) -> dict:
    """Writes results, model, adapter and cards, and uploads them where asked. Returns what `results.json` holds.

    To be called by every process: the first one writes.
    """
    run = recipe.run
    model = whole_model(trainer, recipe, clips)
    results = describe(recipe, clips, trainer.model, trained)
    results |= official | {"rows": measured.rows, "threshold": measured.threshold}
    if recipe.evaluation.retrieval and run.should_save:
        loader = run.per_device_eval_batch_size, run.dataloader_num_workers
        results["retrieval"] = retrieval_scores(model.to(run.device), data.clips(data.tested), *loader)
        logger.info("Retrieval among the test clips: %s", results["retrieval"])
    results["minutes"] = round((time.time() - recipe.started) / 60, 2)

    if run.should_save:
        output = Path(run.output_dir)
        staged = output / UNFINISHED
        shutil.rmtree(staged, ignore_errors=True)  # of a run that was killed
        write_results(staged, results, measured.records, official_tables(official))
        write_class_reports(staged)
        # For a look: plots, report, and pictures in the card.
        plots_of_run(staged, output / "trainer_state.json")
        if line := report_of_run(staged, results, measured, recipe, data):
            with open(staged / "results.md", "a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")
        kinds = []
        if not run.evaluate_only:
            kinds = save_model(staged, output, model, data.processor, results, trainer.state.log_history)
        publish(staged, output, removed={"model", "adapter"} - set(kinds) if kinds else set())
        print((output / "results.md").read_text(encoding="utf-8"))
        for kind in kinds:
            print(f"The {kind} is in {output / kind}")
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()
    if run.push_to_hub and run.should_save:  # last: a Hub that refuses costs nothing
        push_run(
            run.output_dir,
            run.hub_model_id,
            recipe.evaluation.hub_upload,
            private=run.hub_private_repo,
            token=run.hub_token,
            revision=run.hub_revision,
        )
    return results


def describe(recipe: Recipe, clips: Clips, model: nn.Module, trained: dict) -> dict:
    """The part of `results.json` that says what ran."""
    trained_parameters, parameters = parameter_counts(model)
    data, report = recipe.data, clips.report
    return {
        "arguments": recorded_arguments(recipe),
        "training": training_record(recipe.run, trained["steps"]),
        "label_names": clips.label_names,
        "splits": report["splits"],
        "num_frames": data.num_frames,
        "window": data.table.window,
        "parameters": parameters,
        "trainable": trained_parameters,
        "versions": package_versions(),
        "card": card_texts(recipe, report, model.config, trained_parameters, parameters),
        **trained,
    }


def card_texts(
    recipe: Recipe, report: dict, config: PreTrainedConfig, trained_parameters: int, parameters: int
) -> dict:
    """What the model card says beside the figures."""
    model, card = recipe.model, recipe.evaluation.card
    # The data set's name: given, or its folder's.
    backbone = card.backbone or backbone_name(model.model_name_or_path, config)
    path = Path(recipe.data.data)
    data_name = card.data_name or path.name
    if path.suffix == ".csv" and not card.data_name:
        data_name = path.parent.name
    # What was trained, and what was skipped.
    what = TRAINED_PARTS[model.tuning]
    if model.lora_rank:
        what += f", with LoRA of rank {model.lora_rank}"
    num_classes = len(report["classes"])
    skipped = report["skipped_by_reason"] | report.get("skipped_in_preparation", {})
    reasons = ", ".join(f"{number} ({plain_text(reason)})" for reason, number in skipped.items())
    return {
        "title": card.title or f"MA-AVT on {data_name}",
        "summary": f"Classifies video clips into {num_classes} classes from {from_what(recipe.data.modalities)}. The backbone is "
        f"{backbone}. What was trained: {what}.",
        "modalities": list(recipe.data.modalities),
        "architecture": architecture_text(config),
        "match_head": config.background_mining and config.match_head,
        "license": card.license,
        "backbone": backbone,
        "backbone_license": backbone_license(model.model_name_or_path, card.backbone_license),
        "data_name": data_name,
        "data_description": card.data_description or f"{plain_text(data_name)}: {num_classes} classes.",
        "data_license": card.data_license,
        "data_hub": card.data_hub or dataset_on_hub(recipe.data.data),
        "data_task": card.data_task,
        "skipped": f"Skipped clips: {reasons or 'none'}.",
        "recipe": f"{trained_parameters:,} of {parameters:,} parameters were trained.",
    }


def from_what(modalities: list[str]) -> str:
    if len(modalities) == 1:
        return f"their {modalities[0]} alone"
    return "video and audio together"


def dataset_on_hub(data: str) -> str | None:
    """`user/name` of `hf://datasets/user/name@branch`; None for a local folder."""
    if not data.startswith(HUB):
        return None
    return data.removeprefix(HUB).partition("@")[0].strip("/")


def backbone_name(name: str, config: PreTrainedConfig) -> str:
    """The backbone as a card names it: its Hub name, or what it is and the last part of a local folder's path."""
    if not Path(name).exists():
        return name
    size = f"{config.num_hidden_layers} layers, {config.hidden_size} wide"
    return f"a vision transformer of {size} (from the folder `{Path(name).name}`)"


def whole_model(trainer: Trainer, recipe: Recipe, clips: Clips) -> nn.Module | None:
    """The trained model with all its weights, to be called by every process; None where nothing is to be saved.

    FSDP leaves each process its shard: there the weights are gathered into a new model.
    """
    if not trainer.is_fsdp_enabled:
        return trainer.model
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.args.should_save:
        return None
    model = build_model(recipe, clips.label_names, clips.multi_label)
    model.load_state_dict(weights)
    return model


def write_results(directory: Path, results: dict, records: list[dict], tables: str = "") -> None:
    """`results.json`, `results.md` (with more `tables` below) and `predictions.csv` of one run."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    parts = [markdown_table(results["rows"]), small_table_note(results["rows"]), tables]
    write_text(directory / "results.md", "\n\n".join(filter(None, parts)) + "\n")
    columns = ["clip_id"]
    if records:
        columns = list(records[0])
    write_csv(directory / "predictions.csv", records, columns)


def save_model(
    staged: Path, output: Path, model: nn.Module, processor: ProcessorMixin, results: dict, log: list[dict]
) -> list[str]:
    """Writes `model/` (plain AutoModel checkpoint) and, for PEFT runs, `adapter/` into `staged`.

    Each has processor, card, the card's pictures and the training log. Merging changes `model`: call this last. Returns
    the names of the folders.
    """
    kinds = ["model"]
    if isinstance(model, PeftModel):
        kinds.append("adapter")
        export_adapter(model, staged / "adapter")
    merged_model(model).save_pretrained(staged / "model")
    for kind in kinds:
        processor.save_pretrained(staged / kind)
        write_text(staged / kind / TRAINING_LOG, json.dumps(log, indent=1) + "\n")
        for picture in CARD_PICTURES:
            if (staged / picture).is_file():
                (staged / kind / PICTURES).mkdir(exist_ok=True)
                shutil.copy(staged / picture, staged / kind / PICTURES)
        write_card(staged / kind, results, name=str(output / kind), adapter=kind == "adapter")
    return kinds


def publish(staged: Path, output: Path, removed: Iterable[str] = ()) -> None:
    """Renames everything in `staged` into `output`, `results.json` last; what has such a name there is replaced.

    `removed`: folders of an earlier run that this one has no equal of, such as the adapter.
    """
    finished = output / "results.json"
    finished.unlink(missing_ok=True)  # an earlier one must not stand beside new weights
    replaced = staged / ".replaced"
    replaced.mkdir()
    for name in removed:
        if (output / name).is_dir():
            os.replace(output / name, replaced / name)
    for path in sorted(staged.iterdir(), key=lambda path: path.name == finished.name):
        if path == replaced:
            continue
        target = output / path.name
        if target.is_dir():
            os.replace(target, replaced / path.name)
        os.replace(path, target)
    shutil.rmtree(staged)
