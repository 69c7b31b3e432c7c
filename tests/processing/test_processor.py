# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The processor and its parts: every kind of input, missing modalities, bad input, saving, remote code."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from clip_factory import numbered_frames, read_numbers, tone, write_flash_and_beep, write_numbered
from PIL import Image
from transformers import AutoFeatureExtractor, AutoProcessor, AutoVideoProcessor, ViTImageProcessor
from transformers.video_utils import VideoMetadata

from processing import (
    ClipError,
    ClipRequest,
    MAAVTFeatureExtractor,
    MAAVTProcessor,
    MAAVTVideoProcessor,
    load_clip,
)
from processing.clip_decoders import torchcodec_decoders
from processing.generate.clip_writing import write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip(folder):
    return str(write_numbered(folder / "clip.mp4"))


@pytest.fixture(scope="module")
def other(folder):
    return str(write_numbered(folder / "other.webm", 1.5, sampling_rate=48000))


@pytest.fixture(scope="module")
def silent(folder):
    return str(write_numbered(folder / "silent.mp4", sound=False))


@pytest.fixture(scope="module")
def blind(folder):
    return str(write_numbered(folder / "blind.m4a", picture=False))


def small(**video):
    """A processor whose pictures stay readable: no resizing, no scaling."""
    pixels = {"do_resize": False, "do_rescale": False, "do_normalize": False, **video}
    return MAAVTProcessor(MAAVTFeatureExtractor(num_frames=96), MAAVTVideoProcessor(**pixels))


def assert_equal(got, want):
    assert set(got) == set(want)
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-6, rtol=0)


# Kinds of input


def test_default_batch(clip, other):
    batch = MAAVTProcessor()(clips=[clip, other], return_tensors="pt")
    assert batch["pixel_values_videos"].shape == (2, 8, 3, 224, 224)
    assert batch["input_features"].shape == (2, 1, 112, 448)
    assert batch["has_video"].tolist() == [True, True] and batch["has_audio"].dtype == torch.bool
    for name in ("pixel_values_videos", "input_features"):
        assert batch[name].dtype == torch.float32 and torch.isfinite(batch[name]).all()
    assert batch["pixel_values_videos"].abs().max() <= 1


def test_clips_equal_videos_and_audio(clip, other):
    processor = MAAVTProcessor()
    want = processor(clips=[clip, other])
    assert_equal(processor(videos=[clip, other], audio=[clip, other]), want)
    assert_equal(
        processor(videos=[clip, Path(other).read_bytes()], audio=[{"path": clip, "bytes": None}, other]), want
    )
    assert_equal(processor(clips=[(clip, None, None), (other, 0.0, None)]), want)
    assert_equal(processor(clips=[processor.load_clip(clip), processor.load_clip(other)]), want)
    one = processor(videos=clip, audio=clip, return_tensors="pt")
    assert_equal(one, {name: value[:1] for name, value in want.items()})


def test_the_first_bad_file_of_several_is_named(clip, folder):
    with pytest.raises(ClipError, match=r"first\.mp4"):
        MAAVTProcessor()(clips=[clip, str(folder / "first.mp4"), str(folder / "second.mp4"), clip])


def test_arrays_equal_files(clip):
    processor = MAAVTProcessor(MAAVTFeatureExtractor(num_frames=200))
    want = processor(clips=clip)
    loaded = load_clip(clip, ClipRequest(num_frames=8, sampling_rate=16000))
    channels_first, last = loaded.frames, loaded.frames.permute(0, 2, 3, 1)
    pictures = [Image.fromarray(frame.numpy()) for frame in last]
    for frames in (
        channels_first,
        channels_first.numpy(),
        last.contiguous(),
        last.numpy(),
        pictures,
        list(last.numpy()),
    ):
        for videos in (frames, [frames]):
            for audio in (
                loaded.waveform,
                [loaded.waveform.numpy()],
                {"array": loaded.waveform, "sampling_rate": 16000},
            ):
                assert_equal(processor(videos=videos, audio=audio, sampling_rate=16000), want)
    batch = processor(videos=torch.stack([channels_first] * 2), audio=np.stack([loaded.waveform] * 2))
    assert_equal({name: value[1:] for name, value in batch.items()}, want)
    batch = processor(videos=[clip, channels_first], audio=[loaded.waveform, clip])  # mixed
    assert_equal({name: value[1:] for name, value in batch.items()}, want)


def test_torchcodec_decoders(clip):
    decoders = torchcodec_decoders()
    if decoders is None:
        pytest.skip("torchcodec does not load here")
    processor = MAAVTProcessor()
    batch = processor(videos=decoders.VideoDecoder(clip), audio=decoders.AudioDecoder(clip))
    want = processor(clips=clip)
    assert torch.equal(batch["pixel_values_videos"], want["pixel_values_videos"])
    torch.testing.assert_close(batch["input_features"], want["input_features"], atol=0.05, rtol=0)


def test_decoders_that_datasets_gives(clip):
    """Both modalities of `load_dataset("videofolder")`, on the clock of the file."""
    decoders = torchcodec_decoders()
    if decoders is None:
        pytest.skip("torchcodec does not load here")
    processor = MAAVTProcessor()
    want = processor(clips=[clip])
    video, audio = decoders.VideoDecoder(clip), decoders.AudioDecoder(clip)
    with pytest.raises(ClipError, match=r"datasets\.Video\(decode=False\)"):
        processor(clips=[video])
    video._hf_encoded = audio._hf_encoded = {"path": clip, "bytes": None}
    assert_equal(processor(clips=[video]), want)
    assert torch.equal(processor(audio=[audio])["input_features"], want["input_features"])


def test_a_file_gives_both_modalities(clip):
    processor = MAAVTProcessor()
    both = processor(clip)
    assert both["has_video"].all() and both["has_audio"].all()
    assert_equal(both, processor(clips=[clip]))


def test_trainer_saves_and_loads_the_processor(clip, tmp_path):
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    processor = MAAVTProcessor(video_processor=MAAVTVideoProcessor(size={"height": 32, "width": 32}))
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    frames = processor(clips=[clip])["pixel_values_videos"][0]
    rows = [{"pixel_values": frame, "labels": 0} for frame in frames]
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True, save_steps=1)
    trainer = Trainer(ViTForImageClassification(config), arguments, train_dataset=rows, processing_class=processor)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    for folder in (tmp_path / "checkpoint-1", tmp_path / "final"):
        loaded = AutoProcessor.from_pretrained(folder)
        assert type(loaded) is MAAVTProcessor and loaded.to_dict() == processor.to_dict()


def test_one_modality(clip):
    processor = MAAVTProcessor()
    both = processor(clips=clip)
    picture = processor(videos=clip)
    assert set(picture) == {"pixel_values_videos", "has_video", "has_audio"}
    assert torch.equal(picture["pixel_values_videos"], both["pixel_values_videos"])
    assert picture["has_audio"].tolist() == [False]
    sound = processor(audio=clip)
    assert set(sound) == {"input_features", "has_video", "has_audio"}
    torch.testing.assert_close(sound["input_features"], both["input_features"], atol=1e-6, rtol=0)


def test_missing_per_sample(clip, silent, blind):
    processor = MAAVTProcessor()
    batch = processor(clips=[silent, clip, blind], on_missing="none")
    assert batch["has_video"].tolist() == [True, True, False]
    assert batch["has_audio"].tolist() == [False, True, True]
    assert (batch["pixel_values_videos"][2] == 0).all() and (batch["input_features"][0] == 0).all()
    want = processor(clips=clip)
    for name in ("pixel_values_videos", "input_features"):
        torch.testing.assert_close(batch[name][1], want[name][0], atol=1e-6, rtol=0)
    arrays = processor(videos=[None, clip], audio=[clip, None])
    assert arrays["has_video"].tolist() == [False, True] and arrays["has_audio"].tolist() == [True, False]
    assert (arrays["pixel_values_videos"][0] == 0).all()
    nothing = processor(clips=[silent, silent], on_missing="none")
    assert "input_features" not in nothing and nothing["has_audio"].tolist() == [False, False]


def test_missing_streams_of_videos_and_audio(clip, silent, blind, folder):
    processor = small()
    for path in (silent, Path(silent), Path(silent).read_bytes()):
        batch = processor(videos=[path], audio=[path], on_missing="none")
        assert batch["has_video"].tolist() == [True] and batch["has_audio"].tolist() == [False]
    batch = processor(videos=[clip, clip, blind], audio=[clip, silent, Path(clip)], on_missing="none")
    assert batch["has_video"].tolist() == [True, True, False] and batch["has_audio"].tolist() == [True, False, True]
    # audio that ends before the seconds that are heard
    short = write_clip(folder / "short.mp4", numbered_frames(100), tone(0.5))
    batch = processor(videos=[clip], audio=[short], on_missing="none")
    assert batch["has_video"].tolist() == [True] and batch["has_audio"].tolist() == [False]
    with pytest.raises(ClipError, match="short.mp4: window: .*the audio stream ends at 0.500 s"):
        processor(videos=[clip], audio=[short])
    # a bad file is no missing stream
    with pytest.raises(ClipError, match="gone.mp4.*no such file"):
        processor(videos=[clip], audio=[folder / "gone.mp4"], on_missing="none")


def test_one_file_by_two_kinds_of_path_is_read_once(clip, monkeypatch):
    calls = []
    load_clip = MAAVTProcessor.load_clip
    monkeypatch.setattr(MAAVTProcessor, "load_clip", lambda *args: calls.append(args) or load_clip(*args))
    assert_equal(small()(videos=[clip], audio=[Path(clip)]), small()(clip))
    assert len(calls) == 2


def test_numpy_output(clip):
    batch = MAAVTProcessor()(clips=clip, return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in batch.values())
    assert batch["has_audio"].dtype == bool


# Frames and windows


def frame_numbers(batch, row=0):
    return read_numbers(batch["pixel_values_videos"][row])


def test_frame_sampling(clip):
    processor = small()
    window = (clip, 0.4, 1.2)
    assert frame_numbers(processor(clips=window, num_frames=4)) == [12, 17, 22, 27]
    assert frame_numbers(processor(clips=window, videos_kwargs={"num_frames": 4})) == [12, 17, 22, 27]
    assert frame_numbers(processor(clips=window, fps=5)) == [12, 17, 22, 27]
    assert frame_numbers(processor(clips=window, times=[0.5, 1.1])) == [12, 27]
    assert processor(clips=window)["pixel_values_videos"].shape[1] == 8
    assert small(frames_per_clip=2)(clips=window)["pixel_values_videos"].shape[1] == 2
    assert processor(videos=numbered_frames(12))["pixel_values_videos"].shape[1] == 12  # passed frames are kept
    assert frame_numbers(processor(videos=numbered_frames(12), num_frames=3)) == [2, 6, 10]


@pytest.mark.parametrize("window", [(-0.5, 2.0), (0.0, 2.4), (-0.5, 2.5), (float("nan"), 1.0), (0.0, float("inf"))])
def test_windows_outside_the_file_are_refused(clip, window):
    """The 0.96 s that are heard lie inside the file, the caller's window does not: as in `load_clip`."""
    with pytest.raises(ClipError) as of_file:
        load_clip(clip, ClipRequest(*window))
    for source in (clip, Path(clip).read_bytes()):
        with pytest.raises(ClipError) as caught:
            small()(clips=(source, *window))
        name = clip if source is clip else "bytes"
        assert str(caught.value) == str(of_file.value).replace(clip, name)
        assert caught.value.field == "window" and "2.0" in str(caught.value)
    small()(clips=(clip, 0.0, 2.04))  # as much as rounding may add


def test_a_window_of_numpy_numbers(clip):
    batch = small()(clips=(clip, np.float32(0.4), np.int64(1)), num_frames=4)
    assert frame_numbers(batch) == frame_numbers(small()(clips=(clip, 0.4, 1.0), num_frames=4))


def test_frames_lie_under_the_sound(folder):
    """A clip longer than the spectrogram: the frames are from the seconds that are heard."""
    path = str(write_numbered(folder / "ten.mp4", 10.0, fps=10))
    processor = small()  # hears 0.96 s in the middle
    assert frame_numbers(processor(clips=path, num_frames=4)) == [46, 48, 51, 53]
    vggsound = MAAVTProcessor(MAAVTFeatureExtractor.from_preset("vggsound"), processor.video_processor)
    assert frame_numbers(vggsound(clips=path, num_frames=1)) == [55]  # the middle of seconds 3 to 8
    ave = MAAVTProcessor(MAAVTFeatureExtractor.from_preset("ave"), processor.video_processor)
    assert frame_numbers(ave(clips=path, num_frames=10)) == list(range(5, 100, 10))
    with pytest.raises(ValueError, match="num_frames=8 for 10 segments of audio; give a multiple of 10"):
        ave(clips=path)


@pytest.mark.parametrize("name, options", [("late.mp4", {"start_time": 1.5}), ("late.mkv", {"start_time": 0.8})])
def test_alignment_in_the_batch(folder, name, options):
    """Flash and beep stand in the same place of their inputs."""
    path = write_flash_and_beep(folder / name, 1.2, **options)
    processor = MAAVTProcessor(MAAVTFeatureExtractor(num_frames=96, normalization=None))
    batch = processor(clips=(path, 0.6, 1.56), num_frames=24)
    brightness = batch["pixel_values_videos"][0].mean((1, 2, 3))
    loudness = batch["input_features"][0, 0].amax(0)
    flash = int((brightness > 0).nonzero()[0]) / 24
    beep = int((loudness > loudness.max() - 4).nonzero()[0]) / 96
    assert 0 < flash < 1 and flash == pytest.approx(beep, abs=1.5 / 24)


def test_only_the_needed_stream_is_decoded(clip, monkeypatch):
    from processing import clip_decoders

    for reader in (clip_decoders.PyAVFile, clip_decoders.TorchcodecFile):
        monkeypatch.setattr(reader, "waveform", None)
    assert MAAVTProcessor()(videos=clip)["has_video"].all()
    assert MAAVTProcessor().load_clip(clip, ClipRequest(streams=("video",))).waveform is None
    monkeypatch.undo()
    for reader in (clip_decoders.PyAVFile, clip_decoders.TorchcodecFile):
        monkeypatch.setattr(reader, "frames_at", None)
    assert MAAVTProcessor()(audio=clip)["has_audio"].all()


# Pixels


def test_pixels_against_the_image_processor(clip):
    """Frame by frame the same pixels as a ViT image processor's."""
    frames = load_clip(clip, ClipRequest(num_frames=4, streams=("video",))).frames
    for mean in ([0.5, 0.5, 0.5], [0.485, 0.456, 0.406]):
        want = ViTImageProcessor(image_mean=mean)(list(frames), return_tensors="pt").pixel_values
        got = MAAVTVideoProcessor(image_mean=mean)(frames, return_tensors="pt").pixel_values_videos[0]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["VideoMAEVideoProcessor", "VJEPA2VideoProcessor", "LlavaOnevisionVideoProcessor"])
def test_pixels_of_the_video_processors_of_transformers(clip, name):
    """Resizing, cropping, scaling and normalizing: with the same settings the same pixels, frame by frame."""
    theirs = getattr(transformers, name)(do_sample_frames=False)
    settings = {key: getattr(theirs, key) for key in ("size", "resample", "image_mean", "image_std")}
    if theirs.do_center_crop:
        settings |= {"do_center_crop": True, "crop_size": theirs.crop_size}
    frames = [load_clip(clip, ClipRequest(num_frames=4, streams=("video",))).frames] * 2
    got = MAAVTVideoProcessor(**settings)(frames, return_tensors="pt").pixel_values_videos
    (want,) = theirs(frames, return_tensors="pt").values()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_frames_of_several_layouts_in_one_batch(clip):
    last = numbered_frames(8)  # (T, H, W, 3)
    first = torch.from_numpy(last).permute(0, 3, 1, 2)
    alpha = np.full((*last.shape[:3], 1), 255, np.uint8)
    rgba = np.concatenate([last, alpha], axis=-1)
    layouts = {"last": last, "first": first, "RGBA last": rgba, "RGBA first": np.moveaxis(rgba, -1, 1)}
    layouts["PIL"] = [Image.fromarray(frame) for frame in last]
    layouts["RGBA PIL"] = [Image.fromarray(frame) for frame in rgba]
    processor = small()
    for name, frames in layouts.items():
        for row, videos in ((1, [clip, frames]), (0, [frames, clip])):
            pixels = processor(videos=videos, num_frames=8)["pixel_values_videos"]
            assert torch.equal(pixels[row], first.float()), name
    for videos in ([last, first, rgba], [first, last, rgba]):
        assert torch.equal(
            processor.video_processor(videos).pixel_values_videos, first.float().expand(3, -1, -1, -1, -1)
        )
    assert torch.equal(processor.video_processor(layouts["RGBA PIL"]).pixel_values_videos[0], first.float())
    # PIL images of several modes in one video
    mixed = [layouts["PIL"][0], layouts["RGBA PIL"][1], layouts["PIL"][2].convert("L")]
    pixels = processor(videos=[mixed])["pixel_values_videos"]
    assert torch.equal(pixels[0, :2], first[:2].float()) and pixels.shape == (1, 3, 3, 64, 96)


def test_transparent_parts_of_frames_show_white():
    frames = numbered_frames(2)
    rgba = np.concatenate([frames, np.full((*frames.shape[:3], 1), 51, np.uint8)], axis=-1)
    want = torch.from_numpy(0.2 * frames + 0.8 * 255).permute(0, 3, 1, 2).float()
    videos = {"uint8": rgba, "float": rgba.astype(np.float32), "PIL": [Image.fromarray(frame) for frame in rgba]}
    for name, video in videos.items():
        for pixels in (small()(videos=video), small().video_processor(video)):
            got = pixels["pixel_values_videos"][0].float()
            torch.testing.assert_close(got, want, atol=1, rtol=0, msg=name)
    pixels = small()(videos=rgba.astype(np.float32) / 255)["pixel_values_videos"][0]  # from 0 to 1
    torch.testing.assert_close(pixels, want / 255, atol=1e-5, rtol=0)


def test_the_layout_of_frames_may_be_given():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)  # either axis may be that of colors
    want = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    for processor in (small(), small(input_data_format="channels_last")):
        options = {} if processor.video_processor.input_data_format else {"input_data_format": "channels_last"}
        assert torch.equal(processor(videos=frames, **options)["pixel_values_videos"][0], want)
        assert torch.equal(processor.video_processor(frames, **options).pixel_values_videos[0], want)
        assert processor.video_processor(frames, input_data_format="channels_first").pixel_values_videos.shape[3:] == (
            5,
            3,
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_floating_point_frames_give_the_pixels_of_uint8_frames(clip, dtype):
    processor = MAAVTVideoProcessor(do_resize=False)
    clips = [load_clip(clip, ClipRequest(num_frames=count, streams=("video",))).frames[:2] for count in (3, 4)]
    want = processor(clips, return_tensors="pt").pixel_values_videos
    got = processor([frames.to(dtype) for frames in clips], return_tensors="pt").pixel_values_videos
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_video_processor_reads_files(clip, other):
    processor = MAAVTVideoProcessor()
    batch = processor([clip, other], return_tensors="pt").pixel_values_videos
    assert batch.shape == (2, 8, 3, 224, 224)
    assert torch.equal(processor(clip, return_tensors="pt").pixel_values_videos[0], batch[0])
    assert processor(clip, num_frames=3, return_tensors="pt").pixel_values_videos.shape[1] == 3
    assert processor(clip, fps=5, return_tensors="pt").pixel_values_videos.shape[1] == 10


def test_from_backbone(tmp_path, clip):
    ViTImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=3
    ).save_pretrained(tmp_path)
    processor = MAAVTProcessor.from_backbone(
        str(tmp_path),
        feature_extractor={"preset": "vggsound", "num_segments": 1},
        video_processor={"frames_per_clip": 2},
    )
    video = processor.video_processor
    assert dict(video.size)["height"] == 64 and int(video.resample) == 3
    assert list(video.image_mean) == [0.1, 0.2, 0.3] and list(video.image_std) == [0.4, 0.5, 0.6]
    batch = processor(clips=clip)
    assert batch["pixel_values_videos"].shape == (1, 2, 3, 64, 64)
    assert batch["input_features"].shape == (1, 1, 224, 224)
    default = MAAVTProcessor.from_backbone(str(tmp_path))
    assert default.feature_extractor.transform == "log_mel" and default.video_processor.frames_per_clip == 8


def test_from_backbone_with_crop(tmp_path):
    config = {
        "image_processor_type": "DeiTImageProcessor",
        "do_center_crop": True,
        "crop_size": {"height": 48, "width": 48},
        "size": {"height": 56, "width": 56},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    size = dict(MAAVTProcessor.from_backbone(str(tmp_path)).video_processor.size)
    assert (size["height"], size["width"]) == (48, 48)


def test_from_backbone_without_image_processor(tmp_path):
    with pytest.raises(OSError):
        MAAVTProcessor.from_backbone(str(tmp_path))


def test_from_deit(shared_path):
    processor = MAAVTProcessor.from_backbone(str(shared_path("weights/deit_tiny")))
    assert list(processor.video_processor.image_mean) == [0.485, 0.456, 0.406]


# Bad input


def test_bad_files(folder, clip, silent, blind):
    processor = MAAVTProcessor()
    text = folder / "text.mp4"
    text.write_text("no clip\n" * 100)
    cut = folder / "cut.mp4"
    cut.write_bytes(Path(clip).read_bytes()[:3000])
    cases = [
        ({"clips": str(folder / "gone.mp4")}, "gone.mp4.*no such file"),
        ({"videos": [clip, str(text)]}, "text.mp4.*not a media file"),
        ({"audio": str(cut)}, "cut.mp4.*cut off"),
        ({"clips": [clip, silent]}, 'silent.mp4: audio: .* on_missing="none"'),
        ({"clips": blind}, "blind.m4a: video: "),
        ({"audio": silent, "on_missing": "none"}, "silent.mp4.*no such stream"),
        ({"clips": (clip, 1.0, 3.0)}, "clip.mp4: window: .*passes the end"),
        ({"clips": (clip, 3.0, None)}, "clip.mp4: window"),
        ({"videos": "http://example.com/a.mp4"}, "refused"),
    ]
    for inputs, message in cases:
        with pytest.raises(ClipError, match=message):
            processor(**inputs)


def test_bad_arrays(clip):
    processor = MAAVTProcessor()
    frames, wave = numbered_frames(4), tone(0.5)
    cases = [
        ({}, "no input"),
        ({"clips": clip, "videos": clip}, "alone"),
        ({"clips": [(clip, 1.0)]}, r"\(file, start, end\)"),
        ({"videos": [clip, clip], "audio": clip}, "2 videos, but 1 of audio"),
        ({"videos": numbered_frames(0)}, "zero frames"),
        ({"videos": [numbered_frames(4), numbered_frames(5)]}, r"videos of \[4, 5\] frames"),
        ({"videos": frames[0, :, :, 0]}, "give frames"),
        ({"videos": np.zeros((4, 7, 64, 64), np.uint8)}, "no color axis"),
        ({"videos": [[frames[0], frames[1, :32]]]}, r"video 0: frames of shapes .*; give frames of one size"),
        ({"videos": np.full((4, 3, 8, 8), np.nan, np.float32)}, "NaN"),
        ({"videos": frames, "num_frames": 9}, "num_frames=9, but the video has 4"),
        ({"videos": frames, "fps": 2}, "frame rate"),
        ({"videos": clip, "num_frames": 2, "fps": 2}, "exclude each other"),
        ({"audio": wave, "sampling_rate": 44100}, "44100 Hz, but this processor needs 16000 Hz"),
        ({"audio": {"array": wave, "sampling_rate": 8000}}, "8000 Hz"),
        ({"audio": np.full(100, np.nan, np.float32)}, "NaN"),
        ({"audio": np.zeros((1, 2, 100), np.float32)}, "give mono samples|rank 3"),
        ({"audio": [np.zeros((2, 100), np.float32)]}, "average the channels"),
        ({"audio": np.zeros(0, np.float32)}, "no samples"),
        ({"audio": np.full(1000, 1e30, np.float32), "sampling_rate": 16000}, r"up to 1e\+30; give .* -1\.\.1"),
        ({"videos": np.zeros((2, 3, 8, 8), np.uint16)}, "uint16 pixels; give uint8"),
        ({"videos": np.full((2, 3, 8, 8), 1e30, np.float32)}, "pixels above 255"),
        ({"videos": [None], "audio": [None]}, "lacks video and audio"),
        ({"clips": clip, "on_missing": "drop"}, 'use "raise" or "none"'),
    ]
    for inputs, message in cases:
        with pytest.raises(ValueError, match=message):
            processor(**inputs)


# Saving and loading


def tuned():
    return MAAVTProcessor(
        MAAVTFeatureExtractor.from_preset("vggsound", segment_start=0.0),
        MAAVTVideoProcessor(size={"height": 32, "width": 48}, frames_per_clip=2, image_mean=[0.1, 0.2, 0.3]),
    )


def test_save_and_load(tmp_path, clip):
    processor = tuned()
    want = processor(clips=clip)
    processor.save_pretrained(tmp_path)
    for loaded in (MAAVTProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is MAAVTProcessor and loaded.to_dict() == processor.to_dict()
        assert_equal(loaded(clips=clip), want)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == processor.feature_extractor.to_dict()
    assert AutoVideoProcessor.from_pretrained(tmp_path).frames_per_clip == 2
    assert_equal(pickle.loads(pickle.dumps(processor))(clips=clip), want)


REMOTE = """
import json, sys
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, AutoVideoProcessor

try:
    import processing
    raise SystemExit("the package is importable: nothing is proven")
except ImportError:
    pass

directory, again, clip, out = sys.argv[1:5]
try:
    AutoProcessor.from_pretrained(directory, trust_remote_code=False)
    raise SystemExit("loaded without trust")
except ValueError:
    pass
processor = AutoProcessor.from_pretrained(directory, trust_remote_code=True)
video = AutoVideoProcessor.from_pretrained(directory, trust_remote_code=True)
sound = AutoFeatureExtractor.from_pretrained(directory, trust_remote_code=True)
batch = dict(processor(clips=[clip, (clip, 0.5, 1.5)], return_tensors="pt"))
batch["video"] = video(clip, return_tensors="pt")["pixel_values_videos"]
batch["sound"] = sound(torch.linspace(-0.5, 0.5, 16000), sampling_rate=16000)["input_features"]
ClipRequest = sys.modules[type(processor).__module__].ClipRequest
loaded = processor.load_clip(clip, ClipRequest(0.5, 1.5))
batch["from_clip"] = processor(clips=loaded)["pixel_values_videos"]
processor.save_pretrained(again)
reloaded = AutoProcessor.from_pretrained(again, trust_remote_code=True)
batch["again"] = reloaded(clips=clip)["input_features"]
torch.save(batch, out)
print(type(processor).__module__)
"""


def test_remote_code(tmp_path, clip):
    """A fresh process that cannot import this package loads the processor and its parts from the saved folder."""
    processor = tuned()
    processor.save_pretrained(tmp_path / "saved")
    saved = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"processor_config.json", "processing_maavt.py", "clips.py", "spectrograms.py"} <= saved
    config = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert config["auto_map"]["AutoProcessor"] == "processing_maavt.MAAVTProcessor"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.update(HF_HUB_OFFLINE="1", HF_MODULES_CACHE=str(tmp_path / "modules"), HF_HOME=str(tmp_path / "home"))
    # -I leaves the working directory out; an editable installation is left out by blocking the name
    block = "import sys; sys.modules['processing'] = sys.modules['modeling_maavt'] = None\n"
    script = tmp_path / "remote.py"
    script.write_text(block + textwrap.dedent(REMOTE))
    names = [str(tmp_path / name) for name in ("saved", "again")]
    command = [sys.executable, "-I", str(script), *names, clip, str(tmp_path / "out.pt")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip().startswith("transformers_modules.")
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    want = processor(clips=[clip, (clip, 0.5, 1.5)])
    for name in want:
        assert torch.equal(got[name], want[name]), name
    assert torch.equal(got["video"], processor.video_processor(clip, return_tensors="pt").pixel_values_videos)
    waveform = torch.linspace(-0.5, 0.5, 16000)
    assert torch.equal(got["sound"], processor.feature_extractor(waveform, sampling_rate=16000).input_features)
    assert torch.equal(got["from_clip"][0], want["pixel_values_videos"][1])
    assert torch.equal(got["again"][0], want["input_features"][0])


@pytest.mark.parametrize("size", [{"height": 32, "width": 48}, {"shortest_edge": 32}])
def test_clips_of_several_sizes(size):
    rng = np.random.default_rng(0)
    shapes = [(2, 40, 60, 3), (2, 50, 50, 3), (2, 40, 60, 3), (2, 60, 40, 3)]
    clips = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    processor = MAAVTVideoProcessor(size=size, default_to_square=False)
    found = processor(clips).pixel_values_videos
    assert isinstance(found, torch.Tensor) == ("height" in size)
    for clip, pixels in zip(clips, found, strict=True):
        (want,) = processor(clip.astype(np.float32)).pixel_values_videos  # resized without rounding
        assert pixels.shape == want.shape and (pixels - want).abs().max() <= 1 / 127.5 + 1e-6
        assert torch.equal(processor(clip).pixel_values_videos[0], pixels)


def test_crop_box_shows_a_part_of_the_picture():
    frames = torch.zeros(2, 3, 40, 80, dtype=torch.uint8)
    frames[:, :, 20:, 20:40] = 255
    processor = MAAVTVideoProcessor(crop_box=[0.5, 0.25, 1.0, 0.5], size={"height": 16, "width": 16})
    pixels = processor(frames, return_tensors="pt").pixel_values_videos
    assert pixels.shape == (1, 2, 3, 16, 16) and (pixels == 1).all()
    again = MAAVTVideoProcessor.from_dict(processor.to_dict())
    assert (again(frames, return_tensors="pt").pixel_values_videos == 1).all()
    for box in ([0.5, 0.0, 0.25, 1.0], [0.0, 0.0, 1.5, 1.0], [0.1, 0.1, 0.101, 0.2]):
        with pytest.raises(ValueError, match="crop_box"):
            processor(frames, crop_box=box, return_tensors="pt")


def test_frame_grid_lays_frames_out_row_by_row():
    frames = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 4, 4).contiguous()
    processor = MAAVTVideoProcessor(frame_grid=[2, 2], do_resize=False, do_rescale=False, do_normalize=False)
    pixels = processor(frames, return_tensors="pt").pixel_values_videos
    assert pixels.shape == (1, 2, 3, 8, 8)
    assert pixels[0, 1, 0, ::4, ::4].tolist() == [[4, 5], [6, 7]]
    with pytest.raises(ValueError, match="multiple of 4 frames, got 6"):
        processor(frames[:6], return_tensors="pt")


def test_one_channel_is_mono():
    processor, waveform = MAAVTProcessor(), tone(1.0)
    want = processor(audio=[waveform], sampling_rate=16000)
    assert_equal(processor(audio=[waveform[None]], sampling_rate=16000), want)


def test_a_waveform_with_gradient_passes_after_inference_mode():
    """Windows and filters that inference mode has cached serve a later backward pass."""
    for preset in ("default", "vggsound", "ave"):
        extractor = MAAVTFeatureExtractor.from_preset(preset, segment_seconds=None, num_frames=37)
        waveform = torch.from_numpy(tone(1.0))
        with torch.inference_mode():
            extractor([waveform], sampling_rate=extractor.sampling_rate)
        waveform.requires_grad_(True)
        extractor([waveform], sampling_rate=extractor.sampling_rate)["input_features"].square().sum().backward()
        assert torch.isfinite(waveform.grad).all() and waveform.grad.abs().max() > 0


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_pil_frames_of_any_mode_are_one_video(mode):
    """A gray image has two axes as an array, and is a frame all the same."""
    frames = [Image.new("L", (64, 64), value).convert(mode) for value in (0, 60, 120)]
    one = small()(videos=frames)["pixel_values_videos"]
    assert one.shape == (1, 3, 3, 64, 64)
    assert one[0, :, 0, 0, 0].tolist() == [0, 60, 120]
    torch.testing.assert_close(small()(videos=[frames])["pixel_values_videos"], one)


def test_one_video_s_metadata_alone(clip):
    frames = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    expected = small()(videos=[frames], fps=10, video_metadata=[{"fps": 30, "total_num_frames": 30}])
    for metadata in ({"fps": 30, "total_num_frames": 30}, VideoMetadata(fps=30, total_num_frames=30)):
        batch = small()(videos=frames, fps=10, video_metadata=metadata)
        assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])


def test_files_are_always_sampled(clip):
    frames = load_clip(clip, ClipRequest(num_frames=5)).frames
    assert small()(videos=frames, do_sample_frames=False)["pixel_values_videos"].shape[1] == 5
    for inputs in (
        {"clips": clip},
        {"clips": [(clip, 0.0, 1.0)]},
        {"clips": [[clip, 0.0, 1.0]]},
        {"videos": clip, "audio": clip},
    ):
        with pytest.raises(ValueError, match="do_sample_frames=False.*leave it out, or give decoded frames"):
            small()(**inputs, do_sample_frames=False)
    assert frame_numbers(small()(clips=clip, times=[0.5, 1.1], do_sample_frames=False)) == [12, 27]
