# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Items of `ClipDataset`: what they show, that they are reproducible, and that mismatched pairs are mismatched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clip_factory import numbered_frames, read_number, tone
from datasets import ClassLabel, Dataset
from torch.utils.data import DataLoader

from processing import DeepAVFusionFeatureExtractor, DeepAVFusionProcessor, DeepAVFusionVideoProcessor
from processing.clips import ClipError
from processing.data.augmentation import ClipAugmentation, add_white_noise
from processing.data.clip_dataset import ClipDataset
from processing.data.clip_tables import build_clip_table
from processing.data.collators import AudioVisualCollator
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.clip_writing import write_clip
from processing.processing_maavt import MAAVTProcessor
from processing.video_processing_maavt import MAAVTVideoProcessor


CLIPS = 12
LABELS = [number % 3 for number in range(CLIPS)]
GROUPS = [number // 2 for number in range(CLIPS)]


def frequency(number):
    return 300 + 100 * number


@pytest.fixture(scope="module")
def processor():
    sound = MAAVTFeatureExtractor(
        sampling_rate=4000, n_fft=256, win_length=256, hop_length=62, num_bins=64, num_frames=32
    )
    return MAAVTProcessor(sound, MAAVTVideoProcessor(size={"height": 64, "width": 96}))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Clip n shows the number n and sounds at `frequency(n)`."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["file_name,label,group,split"]
    for number in range(CLIPS):
        frames = np.repeat(numbered_frames(number + 1)[number:], 10, axis=0)
        write_clip(folder / f"{number}.mp4", frames, tone(0.5, frequency=frequency(number)), fps=20)
        rows.append(f"{number}.mp4,c{LABELS[number]},g{GROUPS[number]},train")
    (folder / "metadata.csv").write_text("\n".join(rows))
    options = {"validation_fraction": 0, "test_fraction": 0, "check": "none"}
    return build_clip_table(folder, **options)[0]["train"]


def shown(item):
    """The number in the picture of an item."""
    return read_number(255 * (item["pixel_values_videos"][0] / 2 + 0.5))


def heard(item, processor):
    """The number whose tone an item sounds at."""
    spectrum = item["input_features"][0].mean(-1)
    templates = [
        processor.feature_extractor(tone(0.5, 4000, frequency(number)), sampling_rate=4000)["input_features"][0, 0]
        for number in range(CLIPS)
    ]
    return int(np.argmax([torch.dot(spectrum, template.mean(-1)) for template in templates]))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_matched_item(table, processor):
    dataset = ClipDataset(table, processor, num_frames=4)
    item = dataset[5]
    assert len(dataset) == CLIPS
    assert item["pixel_values_videos"].shape == (4, 3, 64, 96) and item["input_features"].shape == (1, 64, 32)
    assert item["has_video"] and item["has_audio"] and item["is_matched"] and item["labels"] == LABELS[5]
    assert item["labels"].dtype == torch.int64 and item["is_matched"].dtype == torch.bool
    assert shown(item) == 5 == heard(item, processor)
    assert equal(dataset[-1], dataset[CLIPS - 1])
    with pytest.raises(IndexError):
        dataset[CLIPS]


def test_mismatched_pairs_differ_in_class_and_group(table, processor):
    dataset = ClipDataset(table, processor, training=True, mismatch_probability=0.3, seed=1)
    pictures, sounds, matched = [], [], 0
    for epoch in range(100):
        dataset.set_epoch(epoch)
        for index in range(CLIPS):
            picture, sound = dataset.pair(index)
            if picture == sound:
                assert picture == index
                matched += 1
                continue
            assert index in (picture, sound)
            assert LABELS[picture] != LABELS[sound] and GROUPS[picture] != GROUPS[sound]
            (pictures if picture == index else sounds).append(dataset.pair(index))
    share = 1 - matched / (100 * CLIPS)
    assert share == pytest.approx(0.3, abs=0.05)
    assert len(pictures) == pytest.approx(len(sounds), rel=0.3)  # either stream is kept about as often
    assert len({sound for _, sound in pictures}) == CLIPS  # and every clip serves as a partner


def test_a_mismatched_item_shows_one_clip_and_sounds_like_another(table, processor):
    dataset = ClipDataset(table, processor, training=True, mismatch_probability=1.0, num_frames=1)
    for index in range(6):
        item, (picture, sound) = dataset[index], dataset.pair(index)
        assert shown(item) == picture and heard(item, processor) == sound and picture != sound
        assert item["labels"] == -100 and not item["is_matched"]


def test_only_the_needed_streams_are_decoded(table, processor, monkeypatch):
    calls = []
    load_clip = MAAVTProcessor.load_clip

    def record(self, source, request):
        calls.append((int(source["path"].split("/")[-1].split(".")[0]), tuple(request.streams)))
        return load_clip(self, source, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", record)
    ClipDataset(table, processor, num_frames=1)[3]
    assert calls == [(3, ("video", "audio"))]
    calls.clear()
    dataset = ClipDataset(table, processor, training=True, mismatch_probability=1.0, num_frames=1)
    dataset[3]
    picture, sound = dataset.pair(3)
    assert calls == [(picture, ("video",)), (sound, ("audio",))]
    calls.clear()
    item = ClipDataset(table, processor, modalities=("audio",))[3]
    assert calls == [(3, ("audio",))]
    assert "pixel_values_videos" not in item and not item["has_video"] and item["has_audio"]
    calls.clear()
    item = ClipDataset(table, processor, modalities=["video"])[3]
    assert calls == [(3, ("video",))] and "input_features" not in item


def test_items_depend_on_seed_epoch_and_index_alone(table, processor):
    options = {"training": True, "mismatch_probability": 0.5, "num_frames": 2, "noise_db": (-5, 20)}
    options["augmentation"] = ClipAugmentation()
    dataset = ClipDataset(table, processor, seed=7, **options)
    dataset.set_epoch(2)
    torch.manual_seed(0)
    expected = [dataset[index] for index in range(CLIPS)]
    torch.manual_seed(1)  # the global generators play no part
    np.random.seed(1)
    resumed = ClipDataset(table, processor, seed=7, **options)
    resumed.set_epoch(2)
    for index in reversed(range(CLIPS)):
        assert equal(resumed[index], expected[index])
    resumed.set_epoch(3)
    assert sum(equal(resumed[index], expected[index]) for index in range(CLIPS)) == 0
    other = ClipDataset(table, processor, seed=8, **options)
    other.set_epoch(2)
    assert [other.pair(index) for index in range(CLIPS)] != [dataset.pair(index) for index in range(CLIPS)]


def test_workers_and_batches_change_nothing_and_see_the_epoch(table, processor):
    options = {"training": True, "mismatch_probability": 0.5, "num_frames": 1, "augmentation": ClipAugmentation()}
    dataset = ClipDataset(table, processor, **options)
    loader = DataLoader(dataset, 5, num_workers=2, collate_fn=AudioVisualCollator(), persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)  # after the workers of epoch 0 have started
        batches = list(loader)
        for index in range(CLIPS):
            batch, item = batches[index // 5], dataset[index]
            for name, value in item.items():
                assert torch.equal(batch[name][index % 5], value), (epoch, index, name)


def test_evaluation_is_fixed(table, processor):
    dataset = ClipDataset(table, processor, noise_db=0.0, augmentation=ClipAugmentation(), num_frames=1)
    first = dataset[4]
    dataset.set_epoch(5)
    assert equal(dataset[4], first)
    clean = ClipDataset(table, processor, num_frames=1)[4]
    assert torch.equal(clean["pixel_values_videos"], first["pixel_values_videos"])  # no augmentation
    assert not torch.equal(clean["input_features"], first["input_features"])


def test_mismatched_copies(table, processor):
    dataset = ClipDataset(table, processor, mismatched_copies=True, num_frames=1, seed=3)
    assert len(dataset) == 2 * CLIPS
    for row in range(CLIPS):
        assert dataset.pair(row) == (row, row)
        picture, sound = dataset.pair(CLIPS + row)
        assert (picture if row % 2 == 0 else sound) == row
        assert LABELS[picture] != LABELS[sound] and GROUPS[picture] != GROUPS[sound]
        line = dataset.describe(CLIPS + row)
        assert line["label"] == -100 and line["is_matched"] is False and line["clip_id"] == f"{row}.mp4"
        assert line["video"] == f"{picture}.mp4" and line["audio"] == f"{sound}.mp4"
        assert dataset.describe(row)["label"] == LABELS[row]
    item = dataset[CLIPS + 1]
    assert heard(item, processor) == 1 and shown(item) == dataset.pair(CLIPS + 1)[0]
    dataset.set_epoch(9)
    assert equal(dataset[CLIPS + 1], item)


def test_same_class_copies_follow_the_others(table, processor):
    dataset = ClipDataset(table, processor, mismatched_copies=True, same_class_copies=True, num_frames=1, seed=3)
    plain = ClipDataset(table, processor, mismatched_copies=True, num_frames=1, seed=3)
    with_namesake = [
        row
        for row in range(CLIPS)
        if any(LABELS[row] == LABELS[other] and GROUPS[row] != GROUPS[other] for other in range(CLIPS))
    ]
    assert with_namesake and len(dataset) == 2 * CLIPS + len(with_namesake)
    assert [dataset.pair(i) for i in range(2 * CLIPS)] == [plain.pair(i) for i in range(2 * CLIPS)]
    for index, row in enumerate(with_namesake, start=2 * CLIPS):
        picture, sound = dataset.pair(index)
        assert (picture if row % 2 == 0 else sound) == row and picture != sound
        assert LABELS[picture] == LABELS[sound] and GROUPS[picture] != GROUPS[sound]
        line = dataset.describe(index)
        assert line["same_class"] and not line["is_matched"] and line["label"] == -100
        assert dataset[index]["labels"] == -100 and not dataset[index]["is_matched"]
    assert not dataset.describe(CLIPS)["same_class"] and dataset.describe(0)["same_class"]
    with pytest.raises(ValueError, match="mismatched_copies"):
        ClipDataset(table, processor, same_class_copies=True)


def test_noise_has_the_asked_level():
    waveform = torch.from_numpy(tone(2.0))
    for level in (-5.0, 0.0, 20.0):
        noise = add_white_noise(waveform, level, seed=1) - waveform
        measured = 10 * torch.log10(waveform.square().mean() / noise.square().mean())
        assert measured == pytest.approx(level, abs=0.2)
    assert torch.equal(add_white_noise(torch.zeros(8), 0.0, seed=1), torch.zeros(8))


def test_a_range_of_noise_leaves_some_clips_clean(table, processor):
    dataset = ClipDataset(table, processor, training=True, noise_db=(-5.0, 20.0), clean_probability=0.25)
    waveform = torch.from_numpy(tone(0.5))
    levels = []
    for epoch in range(20):
        dataset.set_epoch(epoch)
        for index in range(CLIPS):
            noise = dataset._add_noise(waveform, index) - waveform
            level = 10 * torch.log10(waveform.square().mean() / noise.square().mean())
            levels.append(float(level))
    levels = np.array(levels)
    assert np.isinf(levels).mean() == pytest.approx(0.25, abs=0.1)
    noisy = levels[np.isfinite(levels)]
    assert noisy.min() > -5.3 and noisy.max() < 20.3 and np.ptp(noisy) > 20


def test_noisy_clips_are_marked(table, processor):
    plain = ClipDataset(table, processor, training=True)
    noisy = ClipDataset(table, processor, training=True, noise_db=(-5.0, 20.0), clean_probability=0.5, mark_noise=True)
    marks = []
    for epoch in range(3):
        for index in range(CLIPS):
            noisy.set_epoch(epoch), plain.set_epoch(epoch)
            item = noisy[index]
            unchanged = torch.equal(item["input_features"], plain[index]["input_features"])
            assert item["match_mask"].item() == unchanged
            marks.append(unchanged)
    assert any(marks) and not all(marks)
    assert "match_mask" not in plain[0]
    assert "match_mask" not in ClipDataset(table, processor, noise_db=0.0, mark_noise=True)[0]


def test_augmentation_is_one_draw_for_all_frames():
    augmentation = ClipAugmentation()
    frames = torch.randint(255, (1, 3, 40, 60), dtype=torch.uint8).repeat(4, 1, 1, 1)
    features = torch.randn(1, 64, 100) + 3
    state = torch.get_rng_state()
    changed = augmentation.frames(frames, 3)
    assert torch.equal(changed[0], changed[3]) and changed.dtype == torch.uint8
    assert changed.shape[-2:] != frames.shape[-2:]
    assert torch.equal(changed, augmentation.frames(frames, 3))
    flipped = [not torch.equal(ClipAugmentation(None, flip=0.5).frames(frames, seed), frames) for seed in range(200)]
    assert 70 < sum(flipped) < 130
    masked = augmentation.spectrogram(features, 1)
    gone = masked != features
    assert torch.equal(masked[gone], features.mean().expand(int(gone.sum())))
    assert 0 < gone[0].all(0).sum() <= 10 or 0 < gone[0].all(1).sum() <= 6
    waveform = torch.ones(10)
    gains = torch.tensor([augmentation.waveform(waveform, seed)[0] for seed in range(100)])
    assert 0.5 < gains.min() < 0.6 and 1.8 < gains.max() < 2.0
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="flip"):
        ClipAugmentation(flip=2)
    with pytest.raises(ValueError, match="random_resized_crop_scale"):
        ClipAugmentation((0, 1))


def test_frames_keep_their_size_only_for_augmentation(table, processor, monkeypatch):
    small = MAAVTProcessor(processor.feature_extractor, MAAVTVideoProcessor(size={"height": 32, "width": 48}))
    load, sizes = small.load_clip, []

    def loaded(*args, **kwargs):
        clip = load(*args, **kwargs)
        sizes.append(tuple(clip.frames.shape[-2:]))
        return clip

    monkeypatch.setattr(small, "load_clip", loaded)
    for options in ({}, {"augmentation": ClipAugmentation()}, {"augmentation": ClipAugmentation(), "training": True}):
        ClipDataset(table, small, num_frames=1, **options)[0]
    assert sizes == [(32, 48), (32, 48), (64, 96)]


@pytest.fixture(scope="module")
def partial_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    rows = ["file_name,label,split"]
    for number in range(6):
        frames = np.repeat(numbered_frames(number + 1)[number:], 10, axis=0)
        write_clip(
            folder / f"{number}.mp4", None if number == 1 else frames, None if number == 0 else tone(0.5), fps=20
        )
        rows.append(f"{number}.mp4,{'ab'[number % 2]},train")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return build_clip_table(folder, require=(), validation_fraction=0, test_fraction=0)[0]["train"]


def test_missing_modalities(partial_table, processor):
    with pytest.raises(ValueError, match="0.mp4: audio is missing"):
        ClipDataset(partial_table, processor)[0]
    dataset = ClipDataset(partial_table, processor, num_frames=2, on_missing="none")
    items = [dataset[index] for index in range(3)]
    assert "input_features" not in items[0] and "pixel_values_videos" not in items[1]
    batch = AudioVisualCollator()(items)
    assert batch["has_audio"].tolist() == [False, True, True] and batch["has_video"].tolist() == [True, False, True]
    assert batch["pixel_values_videos"].shape == (3, 2, 3, 64, 96) and batch["input_features"].shape == (3, 1, 64, 32)
    assert not batch["pixel_values_videos"][1].any() and not batch["input_features"][0].any()
    assert batch["labels"].tolist() == [0, 1, 0] and batch["is_matched"].all()
    # what lacks a stream is neither mismatched nor a partner
    dataset = ClipDataset(
        partial_table, processor, training=True, mismatch_probability=1.0, num_frames=2, on_missing="none"
    )
    for epoch in range(20):
        dataset.set_epoch(epoch)
        assert dataset.pair(0) == (0, 0) and dataset.pair(1) == (1, 1)
        assert not {0, 1} & {row for index in range(2, 6) for row in dataset.pair(index)}
    with pytest.raises(ValueError, match="0.mp4: neither"):
        ClipDataset(partial_table, processor, modalities=("audio",), on_missing="none")[0]


@pytest.fixture(scope="module")
def short_audio(tmp_path_factory):
    """A table of 4 s of video with 1 s of audio, which nothing has checked; columns replace its cells."""
    path = tmp_path_factory.mktemp("short") / "a.mp4"
    write_clip(path, numbered_frames(40), tone(1.0), fps=10)

    def table(**columns):
        row = {"video": {"path": str(path), "bytes": None}, "audio": {"path": str(path), "bytes": None}}
        row |= {"label": 0, "start": None, "end": None, "group": "a", "clip_id": "a.mp4", **columns}
        return Dataset.from_list([row]).cast_column("label", ClassLabel(names=["a", "b"]))

    return table


def test_audio_that_ended_before_what_is_heard_is_a_missing_modality(short_audio, processor):
    table = short_audio()
    item = ClipDataset(table, processor, num_frames=2, on_missing="none")[0]
    assert not item["has_audio"] and "input_features" not in item and item["has_video"]
    path = table[0]["video"]["path"]
    assert processor(path, on_missing="none")["has_audio"].tolist() == [False]
    with pytest.raises(ClipError, match=f'{path}: window: .*the audio stream ends.*on_missing="none"'):
        processor(path)
    # segments with windows of their own: one that lacks the audio takes it from the clip
    windows = {"segment_windows": [[0.0, 0.5], [2.0, 2.5]], "segment_labels": [0, 1], "segment_matched": [True, True]}
    item = ClipDataset(short_audio(**windows), processor, num_frames=2, on_missing="none")[0]
    assert not item["has_audio"] and len(item["pixel_values_videos"]) == 2


def test_a_stream_that_its_own_file_lacks_is_a_missing_modality(short_audio, processor, tmp_path):
    """Video and audio lie in two files, as in a mismatched pair."""
    mute = write_clip(tmp_path / "mute.mp4", numbered_frames(40), fps=10)
    for audio in (
        {"path": str(mute), "bytes": None},
        {"path": None, "bytes": Path(short_audio()[0]["audio"]["path"]).read_bytes()},
    ):
        table = short_audio(audio=audio)
        item = ClipDataset(table, processor, num_frames=2, on_missing="none")[0]
        assert "pixel_values_videos" in item and "input_features" not in item
        with pytest.raises(ClipError, match="audio"):
            ClipDataset(table, processor, num_frames=2)[0]
        with pytest.raises(ClipError, match="audio"):
            ClipDataset(table, processor, modalities=("audio",), on_missing="none")[0]


@pytest.fixture
def windows(monkeypatch):
    """The `(start, end)` of every clip that is read from now on."""
    windows = []
    load_clip = MAAVTProcessor.load_clip

    def record(self, source, request):
        windows.append((request.start, request.end))
        return load_clip(self, source, request)

    monkeypatch.setattr(MAAVTProcessor, "load_clip", record)
    return windows


def test_parts_of_clips_lie_where_all_streams_run(short_audio, processor, windows):
    for table in (short_audio(), short_audio(start=0.25, end=4.0)):
        dataset = ClipDataset(table, processor, clip_seconds=0.5, num_frames=1, training=True)
        for epoch in range(8):
            dataset.set_epoch(epoch)
            assert dataset[0]["has_audio"]
        assert all(end <= 1.1 for start, end in windows) and windows[-1][0] >= (table[0]["start"] or 0.0)
    ClipDataset(short_audio(), processor, clip_seconds=0.5, num_frames=1, modalities=("video",))[0]
    assert windows[-1] == pytest.approx((1.75, 2.25), abs=0.05)


def test_collator():
    picture, sound = torch.ones(2, 3, 4, 4), torch.ones(1, 4, 4)
    batch = AudioVisualCollator()([{"pixel_values_videos": picture}, {"pixel_values_videos": picture}])
    assert "input_features" not in batch and "labels" not in batch and not batch["has_audio"].any()
    flagged = {"pixel_values_videos": picture, "input_features": 0 * sound, "has_audio": torch.tensor(False)}
    batch = AudioVisualCollator()([flagged, {"pixel_values_videos": picture, "input_features": sound}])
    assert batch["has_audio"].tolist() == [False, True]
    with pytest.raises(ValueError, match="labels"):
        AudioVisualCollator()([{"input_features": sound, "labels": 1}, {"input_features": sound}])
    with pytest.raises(ValueError, match="shapes"):
        AudioVisualCollator()([{"input_features": sound}, {"input_features": sound[..., :2]}])
    with pytest.raises(ValueError, match="empty"):
        AudioVisualCollator()([])


def test_clips_that_cannot_be_mismatched_are_refused(table, processor):
    one_class = table.filter(lambda row: row["label"] == 0)
    with pytest.raises(ValueError, match="no clip of another class and another group"):
        ClipDataset(one_class, processor, training=True, mismatch_probability=0.2)
    ClipDataset(one_class, processor, training=True)
    one_group = table.filter(lambda row: row["group"] == "g0")  # two classes, one group
    with pytest.raises(ValueError, match="no clip of another class and another group"):
        ClipDataset(one_group, processor, mismatched_copies=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ()}, "modalities"),
        ({"modalities": ("video",), "mismatch_probability": 0.2}, "need video and audio"),
        ({"mismatch_probability": 1.2}, "mismatch_probability"),
        ({"mismatched_copies": True, "training": True}, "for evaluation"),
        ({"on_missing": "skip"}, "on_missing"),
    ],
)
def test_bad_options(table, processor, options, message):
    with pytest.raises(ValueError, match=message):
        ClipDataset(table, processor, **options)


def test_parts_of_long_clips(tmp_path, processor, windows):
    for number in range(4):
        label = "ab"[number % 2]
        write_clip(tmp_path / label / f"{number}.mp4", numbered_frames(40), tone(4.0, frequency=300 + number), fps=10)
    table = build_clip_table(tmp_path, validation_fraction=0, test_fraction=0, check="none")[0]["train"]
    evaluation = ClipDataset(table, processor, clip_seconds=1.0, num_frames=1)
    evaluation[0]
    assert windows.pop() == pytest.approx((1.5, 2.5), abs=0.05)
    training = ClipDataset(table, processor, clip_seconds=1.0, num_frames=1, training=True)
    for epoch in range(8):
        training.set_epoch(epoch)
        training[0]
    assert all(end - start == pytest.approx(1.0) and 0 <= start <= 3.05 for start, end in windows)
    assert len({round(start, 3) for start, _ in windows}) == 8


def test_grid_words(shared_path):
    """0.64 s around the word, eight frames by seconds, noise, true mismatches on the held-out groups."""
    table, _ = build_clip_table(
        shared_path("data/grid_s1") / "labels.csv",
        label="command",
        file_name="file",
        start="command_start_s",
        end="command_end_s",
        where={"glitch": 0},
        window=0.64,
        test_split="val",
        check="none",
    )
    dataset = ClipDataset(table["test"], MAAVTProcessor(), mismatched_copies=True, noise_db=0.0, num_frames=8)
    count = len(table["test"])
    item = dataset[0]
    assert item["pixel_values_videos"].shape == (8, 3, 224, 224) and item["input_features"].shape == (1, 112, 448)
    assert all(torch.isfinite(value).all() for value in item.values())
    assert (item["pixel_values_videos"][0] - item["pixel_values_videos"][-1]).abs().mean() > 0.01  # the face moves
    labels, groups = table["test"]["label"], table["test"]["group"]
    for row in range(count):
        picture, sound = dataset.pair(count + row)
        assert labels[picture] != labels[sound] and groups[picture] != groups[sound]


def test_torn_pairs_keep_the_classes_of_their_halves_where_asked(table, processor):
    options = {"seed": 0, "training": True, "mismatch_probability": 0.9, "num_frames": 2}
    dataset = ClipDataset(table, processor, label_mismatched_pairs=True, **options)
    for index in range(len(dataset)):
        picture, sound = dataset.pair(index)
        item = dataset[index]
        assert (item["video_targets"], item["audio_targets"]) == (table[picture]["label"], table[sound]["label"])
        assert item["labels"] == (table[picture]["label"] if picture == sound else -100)
    assert "video_targets" not in ClipDataset(table, processor, **options)[0]
    assert "video_targets" not in ClipDataset(table, processor, num_frames=2, label_mismatched_pairs=True)[0]


@pytest.mark.parametrize("training", [False, True])
def test_a_part_of_two_files_is_of_the_same_seconds(tmp_path, processor, windows, training):
    """Video and audio in files of their own, of which one is longer."""
    video = write_clip(tmp_path / "a.mp4", numbered_frames(40), fps=10)
    audio = write_clip(tmp_path / "a.wav", waveform=tone(2.5))
    columns = {"video": [str(video)] * 2, "audio": [str(audio)] * 2, "label": [0, 1], "group": ["a", "b"]}
    data = Dataset.from_dict(columns).cast_column("label", ClassLabel(names=["x", "y"]))
    table = build_clip_table(data, validation_fraction=0, test_fraction=0, check="none")[0]["train"]
    dataset = ClipDataset(table, processor, clip_seconds=1.0, num_frames=1, training=training)
    for epoch in range(4):
        dataset.set_epoch(epoch)
        dataset[0]
    for first, second in zip(windows[::2], windows[1::2], strict=True):
        assert first == pytest.approx(second) and second[1] <= 2.55


def test_a_random_crop_is_not_cropped_again(table):
    """With a processor that resizes and takes the center, as DeepAVFusion's: a crop of all is the whole frame."""
    sound = DeepAVFusionFeatureExtractor(segment_seconds=0.4)
    centered = DeepAVFusionVideoProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    whole = DeepAVFusionVideoProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    augmentation = ClipAugmentation((1.0, 1.0), (1.5, 1.5), flip=0.0)  # the frames are of 96 x 64
    items = [
        ClipDataset(
            table, DeepAVFusionProcessor(sound, video), num_frames=1, training=True, augmentation=augmentation
        )[0]
        for video in (centered, whole)
    ]
    torch.testing.assert_close(items[0]["pixel_values_videos"], items[1]["pixel_values_videos"])
