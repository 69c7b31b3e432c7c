# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Fills `model_card.md` with what a run used and measured."""

import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, model_info
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from processing.data.atomic_writing import write_text
from training.common.results import markdown_table, plain_text, small_table_note
from training.common.shipped_files import shipped_file


PICTURES = "pictures"  # folder beside the card
CARD_PICTURES = {
    "training_curves.png": "Losses and validation figures by epoch",
    "confusion_matrix.png": "Confusion matrix of the test clips: rows are true classes, columns predicted ones",
}

USAGE_MODEL = """from transformers import AutoModelForVideoClassification, AutoProcessor

model = AutoModelForVideoClassification.from_pretrained("{name}", trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
outputs = model(**processor(clips=["clip.mp4"], return_tensors="pt"))
print(model.config.id2label[outputs.logits[0].argmax().item()], outputs.match_logits)"""

USAGE_ADAPTER = """from transformers import AutoProcessor
from modeling_maavt import MAAVTForAudioVisualClassification

model = MAAVTForAudioVisualClassification.from_pretrained("{name}").eval()  # fetches the backbone, then adds the adapter
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
outputs = model(**processor(clips=["clip.mp4"], return_tensors="pt"))
print(model.config.id2label[outputs.logits[0].argmax().item()], outputs.match_logits)"""

NOTES = """In the rows `audio` and `video` the model is given one modality only. Combined: the share of pairs that are right, which
means a matched pair that is accepted and classified rightly, or a mismatched pair that is rejected. The threshold {threshold}
was chosen on validation. The interval is a bootstrap over groups."""


def backbone_license(name: str, given: str | None = None) -> str:
    """The license as given, or as the backbone's own card states it, or 'not stated'."""
    if given:
        return given
    readme = Path(name) / "README.md"
    try:
        data = ModelCard.load(readme).data if readme.is_file() else None
        data = data or (None if Path(name).exists() else model_info(name).card_data)
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError):
        return "not stated"
    return getattr(data, "license", None) or "not stated"


def license_identifier(backbone_license: str) -> str:
    """A short name for the card's metadata; a license that takes a sentence stands in the card's own section."""
    word = backbone_license.lower()
    return f"backbone-{word}" if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", word) else "see-the-license-section"


def hub_name(backbone: str) -> str | None:
    """The backbone's Hub name, or None for a local folder."""
    return backbone if re.fullmatch(r"[\w.-]+/[\w.-]+", backbone) else None


def eval_results(rows: list[dict], dataset: str) -> list[EvalResult]:
    """The model's own rows in the form that the Hub lists."""
    results = []
    for row in (r for r in rows if r["model"] == "maavt"):
        condition = "clean" if row["noise"] in ("any", "clean") else f"white noise, {row['noise']} dB"
        for key, metric in (("top1", "accuracy"), ("macro_f1", "f1"), ("match_auroc", "roc_auc")):
            if row.get(key) is not None:
                results.append(
                    EvalResult(
                        task_type="video-classification",
                        dataset_type=dataset,
                        dataset_name=dataset,
                        dataset_config=condition,
                        dataset_split="test",
                        metric_type=metric,
                        metric_name=f"{metric} ({row['input']})",
                        metric_value=round(float(row[key]), 4),
                    )
                )
    return results


def training_text(results: dict) -> str:
    """How it was trained, in sentences."""
    training = results["training"]
    text = (
        f"{results['card']['recipe']} Trained for {results['epochs']:g} epochs ({training['steps']} steps of "
        f"{training['batch_size']} clips): {training['optimizer']}, learning rate {training['learning_rate']:g}, scheduler "
        f"{training['scheduler']} with {training['warmup_steps']} warmup steps, weight decay "
        f"{training['weight_decay']:g}, seed {training['seed']}."
    )
    best = results.get("best")
    if best:
        text += f" Epoch {best['epoch']:g} was the best on validation ({best['metric']} {best['value']:.3f})."
    return text


def results_notes(results: dict) -> str:
    """How to read the table of results."""
    notes = small_table_note(results["rows"])
    if results["threshold"] is not None:
        notes += "\n\n" + NOTES.format(threshold=round(results["threshold"], 3))
    return notes.strip()


def card_pictures(directory: Path) -> str:
    """The pictures that lie beside the card, as Markdown."""
    shown = [name for name in CARD_PICTURES if (directory / PICTURES / name).is_file()]
    return "\n\n".join(f"![{CARD_PICTURES[name]}]({PICTURES}/{name})" for name in shown)


def write_card(directory: Path, results: dict, *, name: str, adapter: bool = False) -> Path:
    """Writes `directory/README.md`; arguments as for `card_text`. Returns its path."""
    write_text(directory / "README.md", card_text(directory, results, name=name, adapter=adapter))
    return directory / "README.md"


def card_text(directory: Path, results: dict, *, name: str, adapter: bool = False) -> str:
    """The card from the template and a run's `results`, with the pictures of `directory`.

    Args:
        results: what `train.py` writes to `results.json`.
        name: how a user names the checkpoint: a repository of the Hub, or a folder.
        adapter: the folder holds an adapter to the backbone, not a whole model.
    """
    arguments, card = results["arguments"], results["card"]
    # What the Hub reads from the card's header.
    data = ModelCardData(
        license="other",
        license_name=license_identifier(card["backbone_license"]),
        library_name="peft" if adapter else "transformers",
        base_model=hub_name(card["backbone"]),
        pipeline_tag="video-classification",
        tags=["audio-visual", "maavt", "audio-classification", "video-classification"],
        model_name=card["title"],
        eval_results=eval_results(results["rows"], card["data_name"]) or None,
    )
    # What a reader sees.
    split_rows = [{"split": split, **counts} for split, counts in results["splits"].items()]
    usage = USAGE_ADAPTER if adapter else USAGE_MODEL
    window = results.get("window")
    text = ModelCard.from_template(
        data,
        template_path=str(shipped_file("model_card.md")),
        title=card["title"],
        summary=card["summary"],
        usage=usage.format(name=name),
        num_frames=results["num_frames"],
        window_text=f"Trained on windows of {window} s; cut longer clips into such windows." if window else "",
        label_names=", ".join(map(plain_text, results["label_names"])),
        data_description=card["data_description"],
        data_license=card["data_license"],
        split_table=markdown_table(split_rows, {"split": "split", "clips": "clips", "groups": "groups"}),
        skipped_text=card["skipped"],
        results_table=markdown_table(results["rows"]),
        results_notes=results_notes(results),
        pictures=card_pictures(directory),
        recipe_text=training_text(results),
        recipe=yaml.safe_dump(arguments, sort_keys=True, allow_unicode=True).replace("```", "` ` `").strip(),
        backbone=card["backbone"],
        backbone_license=card["backbone_license"],
        versions=", ".join(f"{package} {number}" for package, number in results["versions"].items()),
    )
    return str(text)
