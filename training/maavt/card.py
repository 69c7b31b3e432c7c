# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Fills `model_card.md` with what a run used and measured."""

import re
from pathlib import Path

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
    model_info,
)
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from transformers import PreTrainedConfig

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
outputs = model(**processor(clips=["{clip}"], return_tensors="pt"))
print(model.config.id2label[outputs.logits[0].argmax().item()]{match})"""

USAGE_ADAPTER = """from transformers import AutoProcessor
from modeling_maavt import MAAVTForAudioVisualClassification  # of the maavt package

model = MAAVTForAudioVisualClassification.from_pretrained("{name}").eval()  # loads the backbone, then the adapter
processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
outputs = model(**processor(clips=["{clip}"], return_tensors="pt"))
print(model.config.id2label[outputs.logits[0].argmax().item()]{match})"""

MA_AVT = "[MA-AVT](https://arxiv.org/abs/2406.04930) (Mahmud, Mo, Tian, Marculescu, CVPR Workshops 2024)"
MATCH_NOTE = (
    "`match_logits` is {high} where video and audio seem to be of one {of_one}; `class_agreement` is the probability that video "
    "alone and audio alone name the same class. "
)
MATCH_LIMIT = """- The match score and `class_agreement` say whether video and audio are of one *class*, not whether they were recorded together:
  they can hardly tell a clip's own audio from that of another clip of its class. Do not use them to detect dubbing, replaced
  audio or audio that is out of step.
"""
PATCHES_LIMIT = """- The columns "same class" say how well the match score tells a clip's audio from that of another clip of its class. Audio that
  is out of step, dubbed or synthesized was not trained on and is not in the table: measure it on clips of your own before you use
  the score to detect it (for audio out of step, `training.tools.out_of_step` of the maavt package does). `class_agreement`
  says only whether video and audio are of one *class*.
"""
NOTES = """In the rows `audio` and `video` the model is given one modality only. Match AUROC: the match logit of matched pairs against
that of pairs whose audio is of another class, and of another clip of the same class. Agreement: `class_agreement` in its place.
Other audio: how often the class of the video, or that of the audio, is named where they differ. Combined: the share of pairs that
are right, which means a matched pair that is accepted and classified rightly, or a pair of two classes that is rejected. The
threshold {threshold} was chosen on validation. The interval is a bootstrap over groups."""


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


def architecture_text(config: PreTrainedConfig) -> str:
    """What the model is, in a sentence: MA-AVT with the tokens that it has, or a baseline without."""
    inputs = {"video": "frames", "audio": "spectrograms"}
    reads = " and ".join(inputs[name] for name in inputs if name in config.modalities)
    if not config.num_audio_tokens + config.num_visual_tokens + config.num_shared_tokens:
        parts = "without learned tokens"
        if config.lavish_config is not None:
            parts = "with LAVISH adapters between the streams"
        return f"It is a baseline for {MA_AVT}: one vision transformer reads {reads}, {parts}."
    counts = {
        "audio": config.num_audio_tokens,
        "visual": config.num_visual_tokens,
        "shared": config.num_shared_tokens,
        "background": config.background_mining,
    }
    *most, last = [name for name, count in counts.items() if count]
    parts = f"learned {', '.join(most)} and {last} tokens" if most else f"learned {last} tokens"
    return f"The model is {MA_AVT}: one vision transformer reads {reads}, with {parts}."


def usage_notes(results: dict, match: str | bool, adapter: bool) -> str:
    """What a user of the snippet has to know."""
    count, window = results["num_frames"], results.get("window")
    frames = "one frame" if count == 1 else f"{count} frames"
    patches = match == "patches"
    text = ""
    if match:
        high = "above the threshold under the table" if patches else "positive"
        text = MATCH_NOTE.format(high=high, of_one="clip" if patches else "class")
    modalities = results["card"].get("modalities", ["video", "audio"])
    if len(modalities) == 2:
        text += "Either input may be missing."
    else:
        text += f"The model reads the {modalities[0]} alone, and ignores the rest."
    text += f" The processor takes {frames} of each clip."
    if window:
        text += f" Trained on windows of {window} s; cut longer clips into such windows."
    if adapter:
        text += " These files are the adapter alone: what was trained, without the backbone."
    if adapter and hub_name(results["card"]["backbone"]) is None:
        text += " The backbone is not on the Hub: `adapter_config.json` names the folder that held it."
    return text


def license_text(card: dict) -> str:
    """Whose licenses the weights are under."""
    text = f"Backbone: {card['backbone']}. Its license: {card['backbone_license']}.\n\n"
    if card.get("license"):
        text += (
            f"The trained weights are under {card['license']}; they derive from the backbone and from the data above."
        )
    else:
        text += "The trained weights derive from the backbone and from the data above, so both licenses apply."
    return text + " The code is Apache-2.0."


def hub_name(backbone: str) -> str | None:
    """The backbone's Hub name, or None for a local folder."""
    return backbone if re.fullmatch(r"[\w.-]+/[\w.-]+", backbone) else None


def write_eval_results(directory: Path, results: dict) -> None:
    """Writes `.eval_results/NAME.yaml`, which the Hub lists beside the card and on the page of the data set.

    Only where the data set is on the Hub: top-1 (mAP of clips with several classes) of video and audio together.
    """
    card = results["card"]
    dataset = card.get("data_hub")
    rows = [row for row in results["rows"] if (row["model"], row["input"], row["noise"]) == ("maavt", "both", "clean")]
    if not dataset or not rows or results["arguments"].get("evaluation_split", "test") != "test":
        return
    metric, value = next((name, rows[0][name]) for name in ("top1", "map") if rows[0].get(name) is not None)
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=card["data_task"],
        value=round(float(value), 4),
        notes=f"{metric} of video and audio, {rows[0]['clips']} test clips, measured by the maavt package",
    )
    folder = directory / EVAL_RESULTS_FOLDER
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
    write_text(folder / f"{dataset.rpartition('/')[2]}.yaml", text)


def eval_results(rows: list[dict], dataset: str, split: str) -> list[EvalResult]:
    """The model's own rows in the older form, `model-index`, which takes data sets that are not on the Hub."""
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
                        dataset_split=split,
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
    if results["threshold"] is not None and results["card"].get("match_head", True):
        notes += "\n\n" + NOTES.format(threshold=round(results["threshold"], 3))
    return notes.strip()


def card_pictures(directory: Path) -> str:
    """The pictures that lie beside the card, as Markdown."""
    shown = [name for name in CARD_PICTURES if (directory / PICTURES / name).is_file()]
    return "\n\n".join(f"![{CARD_PICTURES[name]}]({PICTURES}/{name})" for name in shown)


def write_card(directory: Path, results: dict, **options) -> Path:
    """Writes `directory/README.md`, a `card_text` with these options, and what the Hub reads beside it; returns its path."""
    write_text(directory / "README.md", card_text(directory, results, **options))
    write_eval_results(directory, results)
    return directory / "README.md"


def card_text(directory: Path, results: dict, *, name: str, adapter: bool = False, clip: str = "clip.mp4") -> str:
    """The card from the template and a run's `results`, with the pictures of `directory`.

    Args:
        results: what `train.py` writes to `results.json`.
        name: how a user names the checkpoint: a repository of the Hub, or a folder.
        adapter: the folder holds an adapter to the backbone, not a whole model.
        clip: of the snippet.
    """
    # Runs of version 0.1.0 recorded less.
    card = {"architecture": f"The model is {MA_AVT}.", "match_head": True, **results["card"]}
    measured_on = results["arguments"].get("evaluation_split", "test")
    # What the Hub reads from the card's header. A license that takes a sentence stands in the card's own section.
    license_name = None if card.get("license") else "see-the-license-section"
    data = ModelCardData(
        license=card.get("license") or "other",
        license_name=license_name,
        library_name="peft" if adapter else "transformers",
        base_model=hub_name(card["backbone"]),
        pipeline_tag="video-classification",
        tags=["audio-visual", "maavt", "audio-classification", "video-classification"],
        datasets=card.get("data_hub"),
        model_name=card["title"],
        eval_results=eval_results(results["rows"], card["data_name"], measured_on) or None,
    )
    # What a reader sees.
    split_rows = [{"split": split, **counts} for split, counts in results["splits"].items()]
    usage = USAGE_ADAPTER if adapter else USAGE_MODEL
    match = card["match_head"]  # its kind; before there was a choice, True
    text = ModelCard.from_template(
        data,
        template_path=str(shipped_file("model_card.md")),
        title=plain_text(card["title"]),
        summary=card["summary"],
        architecture=card["architecture"],
        usage=usage.format(name=name, clip=clip, match=", outputs.match_logits" if match else ""),
        usage_notes=usage_notes(results, match, adapter),
        label_names=", ".join(map(plain_text, results["label_names"])),
        data_description=card["data_description"],
        data_license=card["data_license"],
        split_table=markdown_table(split_rows, {"split": "split", "clips": "clips", "groups": "groups"}),
        skipped_text=card["skipped"],
        measured_on=measured_on,
        results_table=markdown_table(results["rows"]),
        results_notes=results_notes(results),
        pictures=card_pictures(directory),
        recipe_text=training_text(results),
        recipe=yaml.safe_dump(results["arguments"], sort_keys=True, allow_unicode=True)
        .replace("```", "` ` `")
        .strip(),
        match_limit=(PATCHES_LIMIT if match == "patches" else MATCH_LIMIT) if match else "",
        license_text=license_text(card),
        versions=", ".join(f"{package} {number}" for package, number in results["versions"].items()),
    )
    return str(text)
