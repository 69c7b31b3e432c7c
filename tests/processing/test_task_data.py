# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Labeled frames and mixtures: generated shapes, and the published sets' layouts on small generated trees."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from clip_factory import tone, write_numbered
from tiny_sets import five_seconds, picture, table, write_s4
from torch.utils.data import DataLoader

from processing import (
    ClipRequest,
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    load_clip,
)
from processing.data.labeled_frames import LabeledFrame, LabeledFrames, fit_map, read_duet, read_mask, window_around
from processing.data.mixtures import Mixtures, read_pairs
from processing.generate.clip_writing import write_clip
from processing.generate.sounding_shapes import KINDS, ShapeSettings, shape_mask, write_shapes
from processing.prepare.avsbench import read_avss, read_ms3, read_s4
from processing.prepare.source_boxes import read_flickr, read_vggss


def small_processor(size: int = 48) -> DeepAVFusionProcessor:
    sound = DeepAVFusionFeatureExtractor(num_bins=16, num_frames=16, hop_length=3000)
    return DeepAVFusionProcessor(
        sound, DeepAVFusionVideoProcessor(size={"height": size, "width": size}, do_center_crop=False)
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    settings = ShapeSettings(num_train=4, num_test=8, num_pairs=2, frames_per_clip=2, video_noise=4.0)
    return write_shapes(tmp_path_factory.mktemp("shapes") / "clips", settings)


# ---- generated shapes


def test_masks_lie_on_the_shape_that_sounds(shapes):
    """In the decoded mp4: the mask's pixels have one bright color, and the loudest frequency is the kind's tone."""
    with open(shapes / "duet.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 24 and {row["split"] for row in lines} == {"train", "test"}
    for cells, row in zip(lines[:8], read_duet(shapes, "train"), strict=True):
        assert cells["kind"] != cells["silent"] and row.label == cells["color"]
        clip = load_clip(row.audio, ClipRequest(times=[row.time]))
        mask = read_mask(row.mask).bool()
        inside, rest = clip.frames[0].float()[:, mask], clip.frames[0].float()[:, ~mask]
        assert inside.amax(0).mean() > 150 and rest.amax(0).median() < 80
        spectrum = torch.fft.rfft(clip.waveform).abs()
        assert spectrum.argmax() / 3 == pytest.approx(KINDS[cells["kind"]], abs=1)
        box = [int(cells[side]) for side in ("left", "top", "right", "bottom")]
        assert mask[box[1] : box[3], box[0] : box[2]].sum() == mask.sum() and mask.sum() > 30


def test_clips_for_classification_are_seconds_of_training_and_whole_tests(shapes):
    with open(shapes / "clips.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 12 + ["test"] * 8
    assert [(float(row["start"]), float(row["end"])) for row in rows[:3]] == [(0, 1), (1, 2), (2, 3)]
    assert (float(rows[-1]["start"]), float(rows[-1]["end"])) == (0, 3)
    colors = {row.audio.rsplit("/", 1)[-1]: row.label for row in read_duet(shapes, "test")}
    assert {row["file_name"].rsplit("/", 1)[-1]: row["color"] for row in rows[12:]} == colors


def test_both_shapes_are_seen_and_one_is_marked(shapes):
    for row in read_duet(shapes, "test"):
        frame = load_clip(row.audio, ClipRequest(times=[row.time], streams=("video",))).frames[0].float()
        bright = int((frame.amax(0) > 130).sum())
        assert bright > 1.3 * int(read_mask(row.mask).sum())


def test_shapes_are_the_same_for_a_seed(tmp_path, shapes):
    settings = ShapeSettings(num_train=1, num_test=1, num_pairs=2, frames_per_clip=2, video_noise=4.0)
    again = write_shapes(tmp_path / "again", settings)
    for name in ("masks/train_0000_0.png", "masks/test_0000_1.png"):  # an encoder need not repeat itself
        assert (again / name).read_bytes() == (shapes / name).read_bytes()
    with pytest.raises(ValueError, match="kind='star'"):
        shape_mask("star", (8.0, 8.0), 16)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something that was not written here"):
        write_shapes(tmp_path / "other", settings)


# ---- examples


def test_examples_of_a_target(shapes):
    rows = read_duet(shapes, "test")
    masks = LabeledFrames(rows, small_processor(), "mask", cache=True)
    boxes = LabeledFrames(rows, small_processor(), "boxes")
    colors = LabeledFrames(rows, small_processor(), "class", ["blue", "green", "red", "yellow"])
    one = masks[3]
    assert one["pixel_values_videos"].shape == (1, 3, 48, 48) and one["input_features"].shape == (1, 16, 16)
    assert one["labels"].shape == (48, 48) and one["labels"].unique().tolist() == [0, 1]
    assert torch.equal(one["labels"], read_mask(rows[3].mask))
    box = boxes[3]["labels"]
    assert (box[one["labels"].bool()] == 1).all() and box.sum() < 2.5 * one["labels"].sum()
    assert colors[3]["labels"].item() == ["blue", "green", "red", "yellow"].index(rows[3].label)
    assert masks[3]["pixel_values_videos"] is one["pixel_values_videos"]  # kept
    with pytest.raises(ValueError, match="has no class"):
        LabeledFrames(rows, small_processor(), "class", ["blue"])
    with pytest.raises(ValueError, match="target='depth'"):
        LabeledFrames(rows, small_processor(), "depth")


def test_sound_around_a_frame_stays_inside_the_clip():
    assert window_around(2.5, 3.0, 5.0) == (1.0, 4.0) and window_around(None, 3.0, 10.0) == (3.5, 6.5)
    assert window_around(0.5, 3.0, 5.0) == (0.0, 3.0) and window_around(4.9, 3.0, 5.0) == (2.0, 5.0)
    assert window_around(1.0, 3.0, 2.0) == (0.0, 2.0)


def test_maps_are_cut_as_their_frames():
    """A white square on black, through the video processor and through `fit_map`."""
    frame = torch.zeros(1, 3, 60, 90, dtype=torch.uint8)
    frame[:, :, 20:40, 30:50] = 255
    for fields in (
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 32, "width": 32}},
        {"do_center_crop": False},
    ):
        processor = DeepAVFusionVideoProcessor(do_normalize=False, **{"size": {"height": 30, "width": 30}, **fields})
        pixels = processor(frame, return_tensors="pt").pixel_values_videos[0, 0, 0]
        fitted = fit_map((frame[0, 0] > 0).long(), processor)
        assert fitted.shape == pixels.shape
        assert ((pixels > 0.5) != fitted.bool()).float().mean() < 0.02


# ---- AVSBench


MASK = np.zeros((30, 40))
MASK[10:20, 10:20] = 255


def test_s4(tmp_path):
    write_s4(tmp_path, MASK)
    train, test = read_s4(tmp_path, "train"), read_s4(tmp_path, "test")
    assert len(train) == 1 and [row.time for row in test] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert train[0].label == "dog" and {row.group for row in test} == {"v2"}
    example = LabeledFrames(test, small_processor())[4]
    assert example["labels"].sum() == round(100 * 48 * 48 / 1200)
    brightness = example["pixel_values_videos"].mean((0, 2, 3)) * torch.tensor([0.229, 0.224, 0.225])
    assert (brightness + torch.tensor([0.485, 0.456, 0.406])).mean() == pytest.approx(200 / 255, abs=0.01)
    (tmp_path / "s4_data/visual_frames/test/ukulele/v2/v2_4.png").unlink()
    with pytest.raises(ValueError, match=r"masks \[4\] have no frame"):
        read_s4(tmp_path, "test")
    with pytest.raises(ValueError, match="split='eval'"):
        read_s4(tmp_path, "eval")
    with pytest.raises(ValueError, match="s4_meta_data.csv: no such table"):
        read_s4(tmp_path / "gone", "test")


def test_ms3(tmp_path):
    table(tmp_path / "ms3_meta_data.csv", ["video_id", "split"], [["a_b", "val"], ["c", "train"]])
    for number in range(1, 6):
        picture(tmp_path / "ms3_data/visual_frames/a_b" / f"a_b.mp4_{number}.png", np.zeros((30, 40, 3)))
        picture(tmp_path / "ms3_data/gt_masks/val/a_b" / f"a_b_{number}.png", MASK)
    five_seconds(tmp_path / "ms3_data/audio_wav/val/a_b.wav")
    rows = read_ms3(tmp_path, "val")
    assert [row.time for row in rows] == [0.5, 1.5, 2.5, 3.5, 4.5] and rows[2].frame.endswith("a_b.mp4_3.png")
    (tmp_path / "ms3_data/audio_wav/val/a_b.wav").unlink()
    with pytest.raises(ValueError, match="a_b.wav: no such file"):
        read_ms3(tmp_path, "val")


def test_avss(tmp_path):
    table(tmp_path / "metadata.csv", ["vid", "uid", "split", "label"], [["x", "u1", "test", "v2"]])
    for number in range(10):
        picture(tmp_path / "v2/u1/frames" / f"{number}.jpg", np.zeros((30, 40, 3)))
        picture(tmp_path / "v2/u1/labels_semantic" / f"{number}.png", MASK / 255 * 70)
    (tmp_path / "v2/u1").mkdir(exist_ok=True)
    write_clip(tmp_path / "v2/u1/audio.wav", waveform=tone(10.0))
    rows = read_avss(tmp_path, "test")
    assert [row.time for row in rows] == [k + 0.5 for k in range(10)]
    assert LabeledFrames(rows, small_processor())[9]["labels"].unique().tolist() == [0, 70]


# ---- boxes


def test_vggss(tmp_path):
    entries = [
        {"file": "abc_000010", "class": "dog barking", "bbox": [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]},
        {"file": "gone_000000", "class": "cat", "bbox": [[0.1, 0.1, 0.9, 0.9]]},
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    write_numbered(tmp_path / "clips" / "abc_000010.mp4", 4.0, fps=5)
    rows = read_vggss(tmp_path)
    assert len(rows) == 1 and rows[0].label == "dog barking" and rows[0].time is None
    consensus = LabeledFrames(rows, small_processor(), "boxes")[0]["labels"]
    assert consensus.mean() == 0.5 and (consensus[:24, :24] == 1).all() and (consensus[:24, 24:] == 0).all()
    entries[0]["bbox"] = [[10, 10, 50, 50]]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        read_vggss(tmp_path)
    with pytest.raises(ValueError, match="is a test set"):
        read_vggss(tmp_path, "train")
    shutil.rmtree(tmp_path / "clips")
    with pytest.raises(ValueError, match="none of 2 clips"):
        read_vggss(tmp_path)


def test_flickr(tmp_path):
    box = "<bbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bbox>"
    annotators = [(0, 0, 128, 256), (0, 0, 128, 128), (128, 128, 256, 256)]
    text = "".join(f"<annotator>{box.format(*sides)}</annotator>" for sides in annotators)
    (tmp_path / "annotations").mkdir()
    for name in ("1", "2"):
        (tmp_path / "annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
        picture(tmp_path / "frames" / f"{name}.jpg", np.zeros((256, 256, 3)))
        (tmp_path / "audio").mkdir(exist_ok=True)
        write_clip(tmp_path / "audio" / f"{name}.wav", waveform=tone(4.0))
    (tmp_path / "test.txt").write_text("2\n")
    rows = read_flickr(tmp_path)
    assert [row.group for row in rows] == ["2"]
    consensus = LabeledFrames(rows, small_processor(), "boxes")[0]["labels"]
    quarters = [consensus[r : r + 24, c : c + 24].unique().tolist() for r in (0, 24) for c in (0, 24)]
    assert quarters == [[1.0], [0.0], [0.5], [0.5]]  # two agree on the first
    (tmp_path / "annotations" / "2.xml").write_text("<annotation><bbox>")
    with pytest.raises(ValueError, match="2.xml: no boxes"):
        read_flickr(tmp_path)


# ---- mixtures


def test_mixtures_are_sums_of_waveforms(shapes):
    files, pairs = read_pairs(shapes / "pairs.csv", split="test")
    assert len(pairs) == 2
    processor = DeepAVFusionProcessor(
        video_processor=DeepAVFusionVideoProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    )
    mixtures = Mixtures(files, processor, pairs, cache=True)
    example, sources = mixtures[0], mixtures.sources(0)
    assert sources.shape == (2, 48000) and example["pixel_values_videos"].shape == (1, 3, 32, 32)
    for name, waveform in (("input_features", sources.sum(0)), ("labels", sources[0]), ("other_features", sources[1])):
        want = processor.feature_extractor(waveform, sampling_rate=16000).input_features[0]
        torch.testing.assert_close(example[name], want)
    swapped = Mixtures(files, processor, [pair[::-1] for pair in pairs])[0]
    assert torch.equal(swapped["labels"], example["other_features"])
    several = Mixtures(files, processor, pairs, cache=True, num_frames=3)
    shown = []
    for epoch in range(8):
        several.set_epoch(epoch)
        shown.append(several[0]["pixel_values_videos"])
        assert torch.equal(several[0]["pixel_values_videos"], shown[-1]) and shown[-1].shape == (1, 3, 32, 32)
    assert any(torch.equal(frame, example["pixel_values_videos"]) for frame in shown)  # of three one is the middle
    assert len({frame.sum().item() for frame in shown}) > 1


def test_partners_change_with_the_epoch_and_come_from_another_group():
    groups = [name for name in "aabbccdd" for _ in range(5)]
    mixtures = Mixtures([f"{index}.mp4" for index in range(40)], None, groups=groups, seed=3)
    first = [mixtures.pair(index) for index in range(40)]
    assert first == [mixtures.pair(index) for index in range(40)]
    assert all(a == index and groups[a] != groups[b] for index, (a, b) in enumerate(first))
    mixtures.set_epoch(1)
    assert sum(mixtures.pair(index) != pair for index, pair in enumerate(first)) > 30
    with pytest.raises(ValueError, match="2 clips of 1 groups"):
        Mixtures(["a", "b"], None, groups=["x", "x"])
    with pytest.raises(ValueError, match="num_frames=0"):
        Mixtures(["a", "b"], None, num_frames=0)


class Partners(Mixtures):
    """Pairs in place of examples."""

    def __getitem__(self, index):
        return self.pair(index)


def test_running_workers_draw_other_partners_in_the_next_epoch():
    mixtures = Partners([f"{index}.mp4" for index in range(20)], None)
    loader = DataLoader(mixtures, batch_size=None, num_workers=1, persistent_workers=True)
    first = [tuple(pair) for pair in loader]
    mixtures.set_epoch(1)
    second = [tuple(pair) for pair in loader]
    assert second == [mixtures.pair(index) for index in range(20)] != first


def test_lists_of_pairs_are_checked(tmp_path):
    table(tmp_path / "pairs.csv", ["one", "two"], [["a", "b"]])
    with pytest.raises(ValueError, match="needs first and second"):
        read_pairs(tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match="no such list"):
        read_pairs(tmp_path / "gone.csv")


def test_labeled_frame_without_its_target_is_named(tmp_path):
    with pytest.raises(ValueError, match="a.wav: has no mask"):
        LabeledFrames([LabeledFrame("a.wav")], small_processor())
    with pytest.raises(ValueError, match="cannot be read"):
        read_mask(str(tmp_path / "gone.png"))
