# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""First calls of a new user, who has transformers and a folder. Run in a process that cannot import this package.

python -I first_calls.py FOLDER OUTPUT writes {name of the call: what it returned} as JSON, or {"error": one line}.
"""

import io
import json
import sys
import warnings
from pathlib import Path


class Hidden:
    """An editable install puts the repository on the path: its packages are hidden."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_deepavfusion", "modeling_maavt", "processing", "training"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Hidden())

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import (  # noqa: E402
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForVideoClassification,
    AutoProcessor,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    pipeline,
)


ROOT = Path(sys.argv[1])
CLIPS = [str(path) for path in sorted((ROOT / "data" / "clips").glob("*.mp4"))]
TRUST = {"trust_remote_code": True}
SYSTEMS = ("maavt", "deepavfusion")


def expected_scores(folder: str, **inputs) -> list[list[float]]:
    """What the model says of the processor's batch, without a pipeline."""
    model = AutoModelForVideoClassification.from_pretrained(ROOT / folder, **TRUST).eval()
    with torch.inference_mode():
        return model(**AutoProcessor.from_pretrained(ROOT / folder, **TRUST)(**inputs)).logits.softmax(-1).tolist()


def pipeline_video(folder):
    classify = pipeline("video-classification", model=str(ROOT / folder), **TRUST)
    batched = classify(CLIPS[:3], batch_size=2)
    return {
        "one": classify(CLIPS[0]),
        "list": batched,
        "one by one": [classify(clip) for clip in CLIPS[:3]],
        "window": classify((CLIPS[0], 0.0, 0.3), top_k=1),
        "expected": expected_scores(folder, clips=CLIPS[:3]),
        "expected window": expected_scores(folder, clips=[(CLIPS[0], 0.0, 0.3)]),
        "deaf": expected_scores(folder, videos=CLIPS[:1]),
        "config": str(classify.model.config),
    }


def pipeline_without_audio(folder):
    """One clip of a batch has no audio track."""
    silent = str(ROOT / "silent.mp4")
    classify = pipeline("video-classification", model=str(ROOT / folder), **TRUST)
    return {
        "found": classify([CLIPS[0], silent], batch_size=2),
        "expected": expected_scores(folder, clips=[CLIPS[0], silent], on_missing="none"),
    }


def pipeline_rows(folder):
    """The same clip as a path, an open file and rows of `load_dataset("videofolder")`; and what is no clip."""
    classify = pipeline("video-classification", model=str(ROOT / folder), **TRUST)
    content = Path(CLIPS[0]).read_bytes()
    rows = [{"path": CLIPS[0], "bytes": None}, {"path": None, "bytes": content}, content, io.BytesIO(content)]
    return {
        "path": classify(CLIPS[0]),
        "rows": [classify(row) for row in rows],
        "number": said(classify, inputs=[CLIPS[0], 0.0, 0.4]),
        "frames": said(classify, inputs=np.zeros((2, 8, 8, 3), np.uint8)),
        "past the end": said(classify, inputs=(CLIPS[0], 5.0, 8.0)),
        "whole row": said(classify, inputs={"video": rows[0], "label": 0}),
    }


def pipeline_audio(folder):
    classify = pipeline("audio-classification", model=str(ROOT / folder), **TRUST)
    rate = classify.processor.feature_extractor.sampling_rate
    waveform = np.sin(np.arange(rate) / 20).astype(np.float32)
    return {
        "file": classify(CLIPS[0]),
        "array": classify({"array": waveform, "sampling_rate": rate}),
        "raw": classify({"raw": waveform, "sampling_rate": rate}),
        "expected file": expected_scores(folder, audio=CLIPS[:1]),
        "expected array": expected_scores(folder, audio=[{"array": waveform, "sampling_rate": rate}]),
    }


def pipeline_saved_again(folder):
    """From remote code into another folder, and a pipeline of that folder."""
    classify = pipeline("video-classification", model=str(ROOT / folder), **TRUST)
    classify.save_pretrained(ROOT / f"{folder}_again")
    again = pipeline("video-classification", model=str(ROOT / f"{folder}_again"), **TRUST)
    return [classify(CLIPS[0]), again(CLIPS[0])]


def pipeline_multi_label():
    return pipeline("video-classification", model=str(ROOT / "multi_label"), **TRUST)(CLIPS[0])


def pipeline_without_trust(folder):
    try:
        pipeline("video-classification", model=str(ROOT / folder))
    except ValueError as error:
        return str(error)


def audio_auto_class(folder):
    return type(AutoModelForAudioClassification.from_pretrained(ROOT / folder, **TRUST)).__name__


def trunk_alone(folder):
    """A vector for each clip, without a word on the heads that are left out."""
    trunk, report = AutoModel.from_pretrained(ROOT / folder, output_loading_info=True, **TRUST)
    processor = AutoProcessor.from_pretrained(ROOT / folder, **TRUST)
    with torch.inference_mode():
        vectors = trunk.eval()(**processor(CLIPS[:2])).pooler_output
    return {
        "vectors": len(vectors),
        "length": float(vectors.norm(dim=-1).max()),
        "clips": list(torch.nn.functional.normalize(vectors.unflatten(0, (2, -1)).mean(1), dim=-1).shape),
        "finite": bool(vectors.isfinite().all()),
        "report": [sorted(report[name]) for name in ("missing_keys", "unexpected_keys")],
        "code": type(trunk).__module__,
    }


def processor_of_a_path(folder):
    batch = AutoProcessor.from_pretrained(ROOT / folder, **TRUST)(CLIPS[0])
    return {name: list(value.shape) for name, value in batch.items()}


def processor_of_decoders(folder):
    """What a data set of videos yields: picture alone, unless the file is read again for its audio."""
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    processor = AutoProcessor.from_pretrained(ROOT / folder, **TRUST)
    whole = processor(clips=CLIPS[:1])
    apart = processor(videos=[VideoDecoder(CLIPS[0])], audio=[AudioDecoder(CLIPS[0])])
    names = ("pixel_values_videos", "input_features")
    return {
        "apart": max(float((apart[name] - whole[name]).abs().max()) for name in names),
        "decoder as clip": said(processor, clips=[VideoDecoder(CLIPS[0])]),
    }


def processor_of_odd_arrays(folder):
    processor = AutoProcessor.from_pretrained(ROOT / folder, **TRUST)
    wave = np.sin(np.arange(16000) / 20).astype(np.float32)
    return {
        "integers": said(processor, videos=np.zeros((2, 3, 8, 8), np.uint16)),
        "loud": said(processor, audio=wave * 1e30, sampling_rate=16000),
        "channel first": said(processor, audio=[wave[None]], sampling_rate=16000),
    }


def unknown_class(folder):
    model = AutoModelForVideoClassification.from_pretrained(ROOT / folder, **TRUST)
    clip = AutoProcessor.from_pretrained(ROOT / folder, **TRUST)(CLIPS[0])
    return said(model, **clip, labels=torch.tensor([7]))


def said(call, **inputs):
    """The error, or the names of what came."""
    try:
        return sorted(call(**inputs))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def clip_data(folder, clips):
    processor = AutoProcessor.from_pretrained(ROOT / folder, **TRUST)
    rows = []
    for index, clip in enumerate(clips):
        batch = processor(clip)
        rows.append({name: value[0] for name, value in batch.items()} | {"labels": index % 3})
    return processor, rows


def arguments(name: str, **changes) -> TrainingArguments:
    return TrainingArguments(
        str(ROOT / name),
        use_cpu=True,
        per_device_train_batch_size=3,
        max_steps=2,
        report_to="none",
        disable_tqdm=True,
        **changes,
    )


def top1(prediction):
    """As in every tutorial."""
    return {"top1": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trainer(folder):
    """A plain Trainer: trains, evaluates, predicts, stops early and saves the processor; nobody sets label_names."""
    model = AutoModelForVideoClassification.from_pretrained(ROOT / folder, **TRUST)
    processor, rows = clip_data(folder, CLIPS[:6])
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    plain = Trainer(
        model,
        arguments(f"run_{folder}", metric_for_best_model="top1", **options),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
        compute_metrics=top1,
        callbacks=[EarlyStoppingCallback(1)],
    )
    plain.train()
    plain.save_model()
    predictions = plain.predict(rows)
    return {
        "evaluation": plain.evaluate(),
        "best": plain.state.best_metric,
        "predictions": list(predictions.predictions.shape),
        "labels": predictions.label_ids.tolist(),
        "processor": type(AutoProcessor.from_pretrained(ROOT / f"run_{folder}", **TRUST)).__name__,
        "pipeline": len(pipeline("video-classification", model=str(ROOT / f"run_{folder}"), **TRUST)(CLIPS[0])),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    answers = {}
    for call in (
        pipeline_video,
        pipeline_without_audio,
        pipeline_rows,
        pipeline_audio,
        pipeline_saved_again,
        pipeline_without_trust,
        audio_auto_class,
        trunk_alone,
        processor_of_a_path,
        processor_of_decoders,
        processor_of_odd_arrays,
        unknown_class,
        trainer,
    ):
        for system in SYSTEMS:
            answers[f"{call.__name__} {system}"] = answer(call, system)
    answers["pipeline_multi_label"] = answer(pipeline_multi_label)
    Path(sys.argv[2]).write_text(json.dumps(answers))


def answer(call, *given):
    try:
        return call(*given)
    except Exception as error:
        import traceback

        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


main()
