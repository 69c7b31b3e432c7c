# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The losses against loops over clips and segments: segments, missing modalities, -100, soft and multi-hot labels, weights."""

import math

import pytest
import torch
from tiny_models import tiny_inputs, tiny_model


CLIPS, SEGMENTS, CLASSES = 5, 2, 5
HAS_VIDEO = torch.tensor([True, True, False, True, True])
HAS_AUDIO = torch.tensor([True, False, True, True, True])
IS_MATCHED = torch.tensor([True, True, True, False, True])


def labels_of(kind: str, per_segment: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (CLIPS, SEGMENTS) if per_segment else (CLIPS,)
    if kind == "index":
        labels = torch.randint(CLASSES, shape, generator=generator)
    elif kind == "soft":
        labels = torch.rand((*shape, CLASSES), generator=generator)
        labels = labels / labels.sum(-1, keepdim=True)
    else:
        labels = torch.randint(2, (*shape, CLASSES), generator=generator)
    labels[4] = -100
    return labels


def sample_loss(logits: list[float], label, kind: str, weights: list[float]) -> list[tuple[float, float]]:
    """(loss, weight) of every term of one sample."""
    if kind == "multi-hot":
        sigmoid = [1 / (1 + math.exp(-value)) for value in logits]
        return [(-math.log(p if y == 1 else 1 - p), 1.0) for p, y in zip(sigmoid, label, strict=True) if y != -100]
    shares = [1.0 if c == label else 0.0 for c in range(CLASSES)] if kind == "index" else list(label)
    if label == -100 or -100 in shares:
        return []
    total = sum(math.exp(value) for value in logits)
    terms = [w * y * -math.log(math.exp(x) / total) for w, y, x in zip(weights, shares, logits, strict=True)]
    weight = sum(w * y for w, y in zip(weights, shares, strict=True))
    return [(sum(terms) / weight, weight)]


@pytest.mark.parametrize("per_segment", [False, True])
@pytest.mark.parametrize("kind", ["index", "soft", "multi-hot", "weighted index", "weighted soft"])
def test_classification_loss_of_the_model(kind, per_segment):
    model, kind_of_label = tiny_model(), kind.removeprefix("weighted ")
    weights = [1.0] * CLASSES
    if kind != kind_of_label:
        weights = [0.5, 2.0, 1.0, 3.0, 1.5]
        model.set_class_weights(weights)
    if kind == "multi-hot":
        model.config.problem_type = "multi_label_classification"
    inputs, labels = tiny_inputs(CLIPS, frames=4, segments=SEGMENTS), labels_of(kind_of_label, per_segment)
    presence = {"has_video": HAS_VIDEO, "has_audio": HAS_AUDIO}
    loss = model(**inputs, **presence, labels=labels, is_matched=IS_MATCHED).classification_loss

    logits = model(**inputs, **presence).segment_logits  # (B, S, C)
    terms = []
    for clip in range(CLIPS):
        if not IS_MATCHED[clip]:
            continue
        rows = logits[clip] if per_segment else [logits[clip].mean(0)]
        targets = labels[clip] if per_segment else [labels[clip]]
        for row, label in zip(rows, targets, strict=True):
            terms += sample_loss(row.tolist(), label.tolist(), kind_of_label, weights)
    expected = sum(value * weight for value, weight in terms) / sum(weight for _, weight in terms)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("per_segment", [False, True])
def test_matching_and_contrast_of_the_model(per_segment):
    model, inputs = tiny_model(), tiny_inputs(CLIPS, frames=4, segments=SEGMENTS)
    is_matched = IS_MATCHED[:, None].repeat(1, SEGMENTS)
    if per_segment:
        is_matched[0, 1] = False
    given = is_matched if per_segment else IS_MATCHED
    outputs = model(**inputs, has_video=HAS_VIDEO, has_audio=HAS_AUDIO, is_matched=given)

    # Matching: complete pairs alone; per clip the mean of the logits of its segments.
    logits = model(**inputs, has_video=HAS_VIDEO, has_audio=HAS_AUDIO).segment_match_logits  # (B, S)
    terms = []
    for clip in (0, 3, 4):
        rows = zip(logits[clip].tolist(), is_matched[clip].tolist(), strict=True)
        if not per_segment:
            rows = [(logits[clip].mean().item(), IS_MATCHED[clip].item())]
        terms += [math.log1p(math.exp(-logit if matched else logit)) for logit, matched in rows]
    assert outputs.matching_loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)

    # Contrast: complete matched pairs, each segment one pair, all others of the batch its negatives.
    states = model.maavt(**inputs)
    video, audio = model.maavt.contrastive_head(
        states.video_shared_states.flatten(0, 1), states.audio_shared_states.flatten(0, 1)
    )
    kept = [c * SEGMENTS + s for c in (0, 4) for s in range(SEGMENTS) if is_matched[c, s]]
    temperature, blocks = model.config.temperature, []
    for block in range(video.shape[1]):
        v = [video[i, block] / video[i, block].norm() for i in kept]
        a = [audio[i, block] / audio[i, block].norm() for i in kept]
        scores = [[(x @ y).item() / temperature for y in a] for x in v]
        losses = []
        for i in range(len(kept)):
            row, column = scores[i], [line[i] for line in scores]
            losses += [math.log(sum(math.exp(x - scores[i][i]) for x in axis)) for axis in (row, column)]
        blocks.append(sum(losses) / len(losses))
    assert outputs.contrastive_loss_per_block.tolist() == pytest.approx(blocks, rel=1e-4, abs=1e-6)
