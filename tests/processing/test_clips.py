# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding by seconds: right frames, aligned sound, both decoders alike, and an answer to every bad file."""

import gc
import io
import ntpath
import os
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from clip_factory import (
    beep_onset,
    numbered_frames,
    read_number,
    read_numbers,
    tone,
    write_flash_and_beep,
    write_numbered,
)

from processing import clip_decoders, clips, torchcodec_clips
from processing.clips import ClipError, ClipRequest, clip_window, frame_times, load_clip, probe_clip, safe_join
from processing.data.clip_rows import table_path
from processing.generate.clip_writing import write_clip


HAS_TORCHCODEC = clip_decoders.torchcodec_decoders() is not None
DECODERS = [
    "pyav",
    pytest.param("torchcodec", marks=pytest.mark.skipif(not HAS_TORCHCODEC, reason="torchcodec does not load here")),
]
needs_torchcodec = pytest.mark.skipif(not HAS_TORCHCODEC, reason="torchcodec does not load here")
needs_skipped_frames = pytest.mark.skipif(
    not hasattr(av.VideoCodecContext, "field_order"), reason="PyAV before 18.1 decodes every frame"
)
VARIABLE = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.09, 40))  # seconds of a variable frame rate

VARIANTS = {
    "plain": {"path": "a.mp4"},
    "mov": {"path": "a.mov"},
    "mkv": {"path": "a.mkv"},
    "webm": {"path": "a.webm", "sampling_rate": 48000},
    "avi": {"path": "a.avi"},
    "slow": {"path": "a.mp4", "fps": 12.5},
    "ntsc": {"path": "a.mp4", "fps": 30000 / 1001},
    "late_start": {"path": "a.mp4", "start_time": 1.5},
    "late_sound": {"path": "a.mp4", "audio_start_time": 0.5},
    "late_picture": {"path": "a.mkv", "start_time": 0.48, "audio_start_time": 0.0},
    "variable_rate": {"path": "a.mp4", "frame_times": VARIABLE},
    "variable_rate_mkv": {"path": "a.mkv", "frame_times": VARIABLE},
    "rotated": {"path": "a.mp4", "rotation": 90},
    "stereo": {"path": "a.mp4", "layout": "stereo", "sampling_rate": 44100},
    "surround": {"path": "a.mp4", "layout": "5.1", "sampling_rate": 48000},
    "rate_22050": {"path": "a.mp4", "sampling_rate": 22050},
    "rate_8000": {"path": "a.mp4", "sampling_rate": 8000},
    "no_audio": {"path": "a.mp4", "sound": False},
    "no_video": {"path": "a.m4a", "picture": False},
    "wav": {"path": "a.wav", "picture": False},
}


def write_variant(folder, name):
    options = dict(VARIANTS[name])
    return write_numbered(folder / options.pop("path"), **options)


# Both decoders


@needs_torchcodec
@pytest.mark.parametrize("window", [(None, None), (0.31, 1.17)])
@pytest.mark.parametrize("name", VARIANTS)
def test_decoders_agree(tmp_path, name, window):
    path = write_variant(tmp_path, name)
    loaded = {
        decoder: load_clip(
            path, ClipRequest(*window, num_frames=8, sampling_rate=16000, on_missing="none", decoder=decoder)
        )
        for decoder in ("pyav", "torchcodec", "auto")
    }
    want = loaded.pop("pyav")
    for decoder, got in loaded.items():
        assert (got.start, got.end) == (want.start, want.end)
        assert (got.frames is None) == (want.frames is None) and (got.waveform is None) == (want.waveform is None)
        if want.frames is not None:
            torch.testing.assert_close(got.frame_times, want.frame_times, atol=1e-6, rtol=0)
            difference = (got.frames.int() - want.frames.int()).abs()
            assert difference.max() <= 4 and difference.float().mean() < 0.5, decoder
        if want.waveform is not None:
            torch.testing.assert_close(got.waveform, want.waveform, atol=1e-4, rtol=0)


@needs_torchcodec
def test_decoders_agree_on_every_frame(tmp_path):
    path = write_variant(tmp_path, "variable_rate")
    clips_ = [
        load_clip(path, ClipRequest(0.5, 1.5, streams=("video",), decoder=decoder))
        for decoder in ("pyav", "torchcodec")
    ]
    assert torch.equal(clips_[0].frame_times, clips_[1].frame_times)
    assert read_numbers(clips_[0].frames) == read_numbers(clips_[1].frames)


@needs_torchcodec
def test_decoders_agree_on_grid(shared_path):
    files = sorted((shared_path("data/grid_s1") / "clips").glob("*.mp4"))[:20]
    for file in files:
        want, got = (
            load_clip(file, ClipRequest(1.2, 1.84, num_frames=8, sampling_rate=16000, decoder=decoder))
            for decoder in ("pyav", "torchcodec")
        )
        assert torch.equal(got.frame_times, want.frame_times)
        assert (got.frames.int() - want.frames.int()).abs().float().mean() < 0.5
        torch.testing.assert_close(got.waveform, want.waveform, atol=1e-3, rtol=0)


def test_auto_uses_what_is_there(tmp_path, monkeypatch):
    path = write_variant(tmp_path, "plain")
    assert isinstance(clip_decoders.open_file(str(path), "a.mp4"), clip_decoders.PyAVFile)
    for module in (clip_decoders, torchcodec_clips):
        monkeypatch.setattr(module, "torchcodec_decoders", lambda: None)
    assert read_numbers(load_clip(path, ClipRequest(times=[0.1, 1.0])).frames) == [2, 25]
    with pytest.raises(ImportError, match='decoder="pyav"'):
        load_clip(path, ClipRequest(decoder="torchcodec"))


def test_torchcodec_without_ffmpeg_is_not_tried_anew_with_every_clip(tmp_path, monkeypatch):
    torchcodec = pytest.importorskip("torchcodec")
    monkeypatch.setattr(torchcodec, "ffmpeg_major_version", None, raising=False)
    clip_decoders.torchcodec_decoders.cache_clear()
    try:
        assert clip_decoders.torchcodec_decoders() is None
        path = write_variant(tmp_path, "plain")
        assert isinstance(clip_decoders.open_file(str(path), "a.mp4"), clip_decoders.PyAVFile)
    finally:
        clip_decoders.torchcodec_decoders.cache_clear()


@needs_torchcodec
def test_torchcodec_without_pyav(tmp_path, monkeypatch):
    path = write_variant(tmp_path, "late_start")
    want, want_info = load_clip(path, ClipRequest(0.2, 1.9, num_frames=4)), probe_clip(path)
    monkeypatch.setattr(clip_decoders, "has_pyav", lambda: False)
    clips._cached_info.cache_clear()
    got, info = load_clip(path, ClipRequest(0.2, 1.9, num_frames=4)), probe_clip(path)
    clips._cached_info.cache_clear()
    assert torch.equal(got.frames, want.frames)
    torch.testing.assert_close(got.waveform, want.waveform, atol=1e-4, rtol=0)
    assert info.has_video and info.has_audio and info.start == pytest.approx(want_info.start)
    assert info.duration == pytest.approx(want_info.duration, abs=0.05)


@needs_torchcodec
def test_pyav_reads_what_torchcodec_refuses(tmp_path, monkeypatch):
    path = write_variant(tmp_path, "plain")

    def fail(self, times):
        raise RuntimeError("no more frames")

    monkeypatch.setattr(clip_decoders.TorchcodecFile, "frames_at", fail)
    assert read_numbers(load_clip(path, ClipRequest(times=[1.0])).frames) == [25]
    assert read_numbers(load_clip(path, ClipRequest(times=[1.0], decoder="torchcodec")).frames) == [25]
    monkeypatch.setattr(clips, "has_pyav", lambda: False)
    with pytest.raises(ClipError, match=r"a\.mp4: path: cannot be decoded"):
        load_clip(path, ClipRequest(times=[1.0], decoder="torchcodec"))


# Frames that nobody sees are not decoded


def count_decoded(monkeypatch) -> list:
    """The list to which the time of every frame is added that PyAV decodes from now on."""
    decoded = []
    for name in ("_decoded", "_decoded_packets"):
        decode = getattr(clip_decoders.PyAVFile, name)

        def counted(self, *args, decode=decode):
            for frame in decode(self, *args):
                decoded.append(
                    float(frame.pts * self.video.time_base) if isinstance(frame, av.VideoFrame) else frame.time
                )
                yield frame

        monkeypatch.setattr(clip_decoders.PyAVFile, name, counted)
    return decoded


@pytest.mark.parametrize(
    "name",
    ["plain", "mkv", "webm", "avi", "late_start", "late_picture", "variable_rate", "variable_rate_mkv", "rotated"],
)
def test_frames_are_those_of_decoding_them_all(tmp_path, monkeypatch, name):
    options = dict(VARIANTS[name])
    if "frame_times" not in options:
        options["seconds"] = 6.0
    path = str(write_numbered(tmp_path / options.pop("path"), **options))
    decoded = count_decoded(monkeypatch)
    rng = np.random.default_rng(0)
    for count in (1, 4, 8, 40):
        times = rng.uniform(-0.1, 6.2 if "frame_times" not in options else 2.2, count) + options.get("start_time", 0.0)
        file = clip_decoders.PyAVFile(path, "clip")
        frames = file.frames_at(times)
        after = len(decoded)
        expected = file._read_runs(times, file._full_run)
        file.close()
        assert torch.equal(frames.pixels, expected.pixels)
        np.testing.assert_allclose(frames.seconds, expected.seconds, atol=1e-9, rtol=0)
        if expected.stream_end is not None:
            assert frames.stream_end == pytest.approx(expected.stream_end, abs=0.1)
        elif (
            frames.stream_end is not None
        ):  # all that follows was skipped: where the stream ends is known all the same
            assert frames.stream_end > max(times)
        assert after <= len(decoded) - after
        decoded.clear()


@pytest.mark.parametrize("decoder", DECODERS)
def test_headers_are_read_once(tmp_path, monkeypatch, decoder):
    """mkv does not say how long its streams are: they are looked through for it."""
    path = write_variant(tmp_path, "mkv")
    scans, scan = [], clip_decoders.PyAVFile._scan_end
    monkeypatch.setattr(clip_decoders.PyAVFile, "_scan_end", lambda self: scans.append(self) or scan(self))
    windows = [(0.1, 0.5), (0.6, 1.0), (1.1, 1.5)]
    numbers = [
        read_numbers(load_clip(path, ClipRequest(*window, num_frames=1, decoder=decoder)).frames) for window in windows
    ]
    assert numbers == [[7], [20], [32]] and len(scans) == 1
    assert clip_window(path)[1] == pytest.approx(2.0, abs=0.1) and len(scans) == 1
    write_numbered(path, 4.0)
    assert clip_window(path)[1] == pytest.approx(4.0, abs=0.1) and len(scans) == 2  # another file now


@needs_skipped_frames
def test_few_frames_of_a_clip_take_less_decoding(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "a.mp4", 8.0)
    decoded = count_decoded(monkeypatch)
    want = [12, 37, 62, 87, 112, 137, 162, 187]
    assert read_numbers(load_clip(path, ClipRequest(num_frames=8, streams=("video",))).frames) == want
    assert len(decoded) < 0.7 * 200


@pytest.mark.parametrize("name", ["plain", "mkv", "late_start", "late_picture"])
def test_before_its_first_frame_a_file_shows_that(tmp_path, name):
    file = clip_decoders.PyAVFile(write_variant(tmp_path, name), "clip")
    times = np.array([-0.1, -0.05])
    frames, expected = file.frames_at(times), file._read_runs(times, file._full_run)
    file.close()
    assert torch.equal(frames.pixels, expected.pixels) and np.allclose(frames.seconds, expected.seconds)
    assert read_numbers(frames.pixels) == [0, 0]


def test_nothing_is_decoded_after_the_last_frame_that_is_shown(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "a.mp4", 8.0)
    decoded = count_decoded(monkeypatch)
    assert read_numbers(load_clip(path, ClipRequest(times=[0.5, 3.0], streams=("video",))).frames) == [12, 75]
    assert max(decoded) <= 3.0 + 4 / 25  # a few later frames may be references


def write_h264(path, options):
    """100 numbered frames, coded by x264 with these options."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in numbered_frames(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def test_fields_are_decoded_together(tmp_path, monkeypatch):
    path = write_h264(tmp_path / "a.mp4", {"x264-params": "tff=1:bframes=3"})
    file = clip_decoders.PyAVFile(path, "clip")
    order = file.video.codec_context.field_order if hasattr(file.video.codec_context, "field_order") else None
    file.close()
    if order is None:
        pytest.skip("this PyAV does not tell the order of fields")
    decoded = count_decoded(monkeypatch)
    assert order != clip_decoders.PROGRESSIVE
    expected = load_clip(path, ClipRequest(times=[0.5, 2.2, 3.0], streams=("video",))).frames
    assert decoded == sorted(decoded)  # once
    monkeypatch.setattr(clip_decoders, "PROGRESSIVE", order)  # a stream that begins as whole frames
    decoded.clear()
    assert torch.equal(load_clip(path, ClipRequest(times=[0.5, 2.2, 3.0], streams=("video",))).frames, expected)
    assert decoded.count(0.0) == 2  # read once more, with every frame


@needs_skipped_frames
def test_a_decoder_that_skips_too_much_is_asked_again(tmp_path, monkeypatch):
    path = write_numbered(tmp_path / "a.mp4", 4.0)

    def key_frames_only(self, packets, needed):
        for packet in packets:
            self.video.codec_context.skip_frame = "NONKEY"
            yield from packet.decode()

    monkeypatch.setattr(clip_decoders.PyAVFile, "_decoded_packets", key_frames_only)
    decoded = count_decoded(monkeypatch)
    assert read_numbers(load_clip(path, ClipRequest(times=[1.0, 2.2, 3.0], streams=("video",))).frames) == [25, 55, 75]
    assert decoded.count(decoded[0]) == 2  # from the beginning once more


def test_h264_in_avi_is_decoded_once(tmp_path, monkeypatch):
    """The packets there do not say when they are shown."""
    path = write_h264(tmp_path / "a.avi", {"bf": "3"})
    decoded = count_decoded(monkeypatch)
    assert len(load_clip(path, ClipRequest(times=[0.5, 2.2, 3.0], streams=("video",))).frames) == 3
    assert len(decoded) <= 100


@needs_skipped_frames
def test_pictures_of_two_sizes_are_named(tmp_path, monkeypatch):
    path = write_variant(tmp_path, "plain")
    convert, sizes = clip_decoders.PyAVFile._to_rgb, iter([64, 32])
    monkeypatch.setattr(clip_decoders.PyAVFile, "_to_rgb", lambda self, frame: convert(self, frame)[: next(sizes)])
    with pytest.raises(ClipError, match="96x32 and 96x64; write it again in one size"):
        load_clip(path, ClipRequest(times=[0.1, 1.0]))


def test_long_file_is_not_read_whole(tmp_path, monkeypatch):
    count = 1500
    frames = np.zeros((count, 32, 32, 3), np.uint8)
    path = write_clip(tmp_path / "long.mp4", frames, tone(300), fps=5, sampling_rate=16000)
    decoded = count_decoded(monkeypatch)
    clip = load_clip(path, ClipRequest(200.0, 202.0, num_frames=4, sampling_rate=16000))
    assert clip.frames.shape[0] == 4 and len(clip.waveform) == 32000
    assert min(decoded) > 195 and max(decoded) < 205 and len(decoded) < 80
    decoded.clear()
    load_clip(path, ClipRequest(times=[10.0, 290.0], streams=("video",)))  # far apart: two seeks, not one long read
    assert len(decoded) < 40


# The right frames at the right times


def test_frame_times_are_centers():
    np.testing.assert_allclose(frame_times(1.0, 3.0, 4), [1.25, 1.75, 2.25, 2.75])


@pytest.mark.parametrize("decoder", DECODERS)
def test_frame_on_the_screen(tmp_path, decoder):
    path = write_variant(tmp_path, "plain")
    times = [0.0, 0.039, 0.041, 1.0, 1.05, 1.999]
    clip = load_clip(path, ClipRequest(times=times, streams=("video",), decoder=decoder))
    assert read_numbers(clip.frames) == [0, 0, 1, 25, 26, 49]
    np.testing.assert_allclose(clip.frame_times, [0, 0, 0.04, 1.0, 1.04, 1.96], atol=1e-6)
    unsorted = load_clip(path, ClipRequest(times=times[::-1], streams=("video",), decoder=decoder))
    assert torch.equal(unsorted.frames, clip.frames.flip(0))


@pytest.mark.parametrize("decoder", DECODERS)
def test_variable_frame_rate(tmp_path, decoder):
    path = write_variant(tmp_path, "variable_rate")
    times = np.linspace(0.1, VARIABLE[-1], 30)
    clip = load_clip(path, ClipRequest(times=times, streams=("video",), decoder=decoder))
    assert read_numbers(clip.frames) == [int(np.searchsorted(VARIABLE, t + 1e-3, "right")) - 1 for t in times]


@pytest.mark.parametrize("decoder", DECODERS)
def test_count_rate_and_all_frames(tmp_path, decoder):
    path = write_variant(tmp_path, "plain")
    options = {"streams": ("video",), "decoder": decoder}
    assert read_numbers(load_clip(path, ClipRequest(0.4, 1.2, num_frames=4, **options)).frames) == [12, 17, 22, 27]
    assert read_numbers(load_clip(path, ClipRequest(0.4, 1.2, fps=5, **options)).frames) == [12, 17, 22, 27]
    assert read_numbers(load_clip(path, ClipRequest(0.41, 0.6, **options)).frames) == [10, 11, 12, 13, 14]
    assert len(load_clip(path, ClipRequest(**options)).frames) == 50
    assert (
        len(load_clip(path, ClipRequest(0.4, 0.44, num_frames=8, **options)).frames) == 8
    )  # more than there are: repeated


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("decoder", DECODERS)
def test_rotation(tmp_path, decoder, rotation):
    frames = numbered_frames(10)
    path = write_clip(tmp_path / "a.mp4", frames, rotation=rotation)
    clip = load_clip(path, ClipRequest(times=[0.21], streams=("video",), decoder=decoder))
    upright = np.rot90(np.asarray(clip.frames[0]), rotation // 90, axes=(1, 2))  # counter-clockwise: turned back
    assert upright.shape == (3, 64, 96) and read_number(upright) == 5
    info = probe_clip(path)
    assert (info.height, info.width) == ((96, 64) if rotation != 180 else (64, 96))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["plain", "mkv", "webm", "late_start", "late_sound", "late_picture", "variable_rate"])
def test_sound_and_picture_are_aligned(tmp_path, name, decoder):
    options = dict(VARIANTS[name])
    path, event = tmp_path / options.pop("path"), 1.2
    if "audio_start_time" in options and "start_time" in options:
        path = write_clip(  # the picture starts 0.48 s after the sound
            path,
            np.repeat(np.array([0, 235], np.uint8), 18)[:, None, None, None] * np.ones((64, 96, 3), np.uint8),
            np.concatenate([np.zeros(19200, np.float32), tone(0.8, 16000, 1000, 0.5)]),
            **options,
        )
    else:
        path = write_flash_and_beep(path, event, **options)
    lead = probe_clip(path).start
    event = event + options.get("start_time", 0.0) - lead if name != "late_picture" else 1.2
    clip = load_clip(path, ClipRequest(event - 0.5, event + 0.3, sampling_rate=16000, decoder=decoder))
    white = clip.frames.float().mean((1, 2, 3)) > 120
    flash = float(clip.frame_times[white][0])
    onset = clip.start + beep_onset(clip.waveform, 16000)
    assert flash == pytest.approx(event, abs=0.002 if name != "variable_rate" else 0.09)
    assert onset == pytest.approx(event, abs=0.015)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("rate", [None, 16000, 44100])
def test_window_equals_crop_of_the_whole(tmp_path, decoder, rate):
    noise = np.random.default_rng(1).standard_normal(88200).astype(np.float32) * 0.1
    path = write_clip(tmp_path / "a.mp4", numbered_frames(50), noise, sampling_rate=22050)
    options = {"streams": ("audio",), "sampling_rate": rate, "decoder": decoder}
    whole = load_clip(path, ClipRequest(**options))
    part = load_clip(path, ClipRequest(0.8, 1.6, **options))
    rate = whole.sampling_rate
    assert len(part.waveform) == round(0.8 * rate)
    start = round(0.8 * rate)
    torch.testing.assert_close(part.waveform, whole.waveform[start : start + len(part.waveform)], atol=2e-3, rtol=0)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_mono_keeps_the_level_of_equal_channels(tmp_path, layout, decoder):
    path = write_clip(tmp_path / "a.mkv", None, tone(1, 48000), sampling_rate=48000, layout=layout)
    waveform = load_clip(path, ClipRequest(streams=("audio",), sampling_rate=16000, decoder=decoder)).waveform
    assert waveform.ndim == 1
    assert waveform[4000:12000].square().mean().sqrt() == pytest.approx(0.3 / 2**0.5, rel=0.03)


def test_surround_weights(tmp_path):
    sound = np.zeros((6, 48000), np.float32)
    sound[2] = tone(1, 48000)  # the center alone
    path = write_clip(tmp_path / "a.mkv", None, sound, sampling_rate=48000, layout="5.1")
    waveform = load_clip(path, ClipRequest(streams=("audio",))).waveform
    assert waveform[8000:40000].square().mean().sqrt() == pytest.approx(0.3 / 2**0.5 / 3.4142, rel=0.05)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("native", [8000, 22050, 44100, 48000])
def test_resampling_keeps_pitch_and_level(tmp_path, native, decoder):
    path = write_clip(tmp_path / "a.mkv", None, tone(2, native, 1000), sampling_rate=native)
    waveform = load_clip(
        path, ClipRequest(0.0, 2.0, streams=("audio",), sampling_rate=16000, decoder=decoder)
    ).waveform
    assert waveform.shape == (32000,)
    spectrum = torch.fft.rfft(waveform[8000:24000])
    assert spectrum.abs().argmax() == 1000  # bins of 1 Hz
    assert waveform[8000:24000].square().mean().sqrt() == pytest.approx(0.3 / 2**0.5, rel=0.02)


def test_streams_of_different_length(tmp_path):
    path = write_clip(tmp_path / "a.mp4", numbered_frames(50), tone(1.0))
    clip = load_clip(path, ClipRequest(num_frames=4))
    assert len(clip.waveform) == 32000 and clip.waveform[20000:].abs().max() == 0  # silence after the sound's end
    path = write_clip(tmp_path / "b.mp4", numbered_frames(25), tone(2.0))
    assert read_numbers(load_clip(path, ClipRequest(times=[0.5, 1.9])).frames) == [12, 24]  # the last frame stays
    with pytest.raises(ClipError, match="video stream ends at 1.000 s"):
        load_clip(path, ClipRequest(1.5, 1.9, num_frames=2))


@pytest.mark.parametrize(("frames", "seconds", "ended"), [(50, 0.5, "audio"), (12, 2.0, "video")])
def test_a_stream_that_ended_before_the_window_is_missing(tmp_path, frames, seconds, ended):
    path = write_clip(tmp_path / "a.mp4", numbered_frames(frames), tone(seconds))
    request = ClipRequest(1.0, 1.5, num_frames=2, on_missing="none")
    clip = load_clip(path, request)
    if ended == "audio":
        assert clip.waveform is None and clip.sampling_rate is None and read_numbers(clip.frames) == [28, 34]
    else:
        assert clip.frames is None and clip.frame_times is None and len(clip.waveform) == 8000
    with pytest.raises(ClipError, match=f'{ended} stream ends at 0.*; give an earlier window, or on_missing="none"'):
        load_clip(path, replace(request, on_missing="raise"))
    with pytest.raises(ClipError, match=f"{ended} stream ends at 0.*; give an earlier window$"):
        load_clip(path, replace(request, streams=(ended,)))


# What can be read, and what it says about itself


@pytest.mark.parametrize("decoder", ["auto", *DECODERS])
def test_sources(tmp_path, decoder):
    path = write_variant(tmp_path, "plain")
    data = path.read_bytes()
    want = load_clip(path, ClipRequest(0.5, 1.0, num_frames=2, decoder=decoder))
    sources = [str(path), data, io.BytesIO(data), {"path": str(path), "bytes": None}, {"path": "x", "bytes": data}]
    for source in sources:
        got = load_clip(source, ClipRequest(0.5, 1.0, num_frames=2, decoder=decoder))
        assert torch.equal(got.frames, want.frames) and torch.equal(got.waveform, want.waveform)
    with open(path, "rb") as file:
        assert torch.equal(load_clip(file, ClipRequest(0.5, 1.0, num_frames=2, decoder=decoder)).frames, want.frames)


@needs_torchcodec
def test_torchcodec_decoders_as_sources(tmp_path, monkeypatch):
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    path = write_variant(tmp_path, "plain")
    monkeypatch.setattr(clip_decoders, "has_pyav", lambda: False)  # where PyAV is, it reads the audio of files
    want = load_clip(path, ClipRequest(0.5, 1.0, num_frames=2, decoder="torchcodec"))
    video = load_clip(VideoDecoder(path), ClipRequest(0.5, 1.0, num_frames=2, streams=("video",)))
    audio = load_clip(AudioDecoder(path), ClipRequest(0.5, 1.0, streams=("audio",)))
    assert torch.equal(video.frames, want.frames) and torch.equal(audio.waveform, want.waveform)
    with pytest.raises(ClipError, match="audio"):
        load_clip(VideoDecoder(path), ClipRequest(0.5, 1.0))


def test_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    path = write_variant(tmp_path, "plain")
    shutil.copy(path, tmp_path / "concat:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert probe_clip("concat:a.mp4").has_video


def test_probe(tmp_path):
    info = probe_clip(write_variant(tmp_path, "stereo"))
    assert (info.has_video, info.has_audio, info.fps, info.height, info.width) == (True, True, 25.0, 64, 96)
    assert (info.sampling_rate, info.num_channels, info.start) == (44100, 2, 0.0)
    assert info.duration == pytest.approx(2.0, abs=0.01)
    late = probe_clip(write_numbered(tmp_path / "late.mkv", start_time=1.5))
    assert late.duration == pytest.approx(2.1, abs=0.06) and late.start == pytest.approx(1.44, abs=0.07)
    silent = probe_clip(write_variant(tmp_path, "no_audio"))
    assert not silent.has_audio and silent.sampling_rate is None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc lists the open files")
def test_files_are_closed_at_once(tmp_path):
    """Without waiting for the cyclic garbage collector, also where a file turns out not to be readable."""
    good, bad = write_variant(tmp_path, "mkv"), write_variant(tmp_path, "plain")
    open_files = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            probe_clip(good)
            load_clip(good, ClipRequest(num_frames=2))
            with pytest.raises(ClipError, match="max_pixels"):
                probe_clip(bad, max_pixels=100)
            open_files.append(len(os.listdir("/proc/self/fd")))
    finally:
        gc.enable()
    assert open_files[0] == open_files[-1]


def test_clip_window(tmp_path):
    path = write_variant(tmp_path, "plain")
    assert clip_window(path) == (0.0, pytest.approx(2.0))
    assert clip_window(path, ClipRequest(0.5)) == (0.5, pytest.approx(2.0))
    assert clip_window(path, ClipRequest(0.5, 1.0)) == (0.5, 1.0)


def test_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode(None))
        audio = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        audio.sample_rate = 16000
        container.mux(sound.encode(audio))
        container.mux(sound.encode(None))
    assert not probe_clip(path).has_video
    clip = load_clip(path, ClipRequest(on_missing="none"))
    assert clip.frames is None and len(clip.waveform) >= 16000


def test_headers_are_read_again_when_the_file_changes(tmp_path):
    path = write_numbered(tmp_path / "a.mp4", 1.0)
    assert load_clip(path, ClipRequest(num_frames=1)).end == pytest.approx(1.0)
    write_numbered(path, 2.0)
    os.utime(path, ns=(1, 1))
    assert load_clip(path, ClipRequest(num_frames=1)).end == pytest.approx(2.0)


# Missing streams


@pytest.mark.parametrize("decoder", ["auto", *DECODERS])
def test_missing_streams(tmp_path, decoder):
    silent, blind = write_variant(tmp_path, "no_audio"), write_variant(tmp_path, "no_video")
    with pytest.raises(ClipError, match='audio: the file has no audio stream; .*on_missing="none"') as caught:
        load_clip(silent, ClipRequest(num_frames=2, decoder=decoder))
    assert caught.value.field == "audio" and str(silent) in str(caught.value)
    with pytest.raises(ClipError, match="video: the file has no video stream") as caught:
        load_clip(blind, ClipRequest(num_frames=2, decoder=decoder))
    assert caught.value.field == "video"
    clip = load_clip(silent, ClipRequest(num_frames=2, on_missing="none", decoder=decoder))
    assert clip.waveform is None and clip.sampling_rate is None and len(clip.frames) == 2
    clip = load_clip(blind, ClipRequest(num_frames=2, on_missing="none", decoder=decoder))
    assert clip.frames is None and clip.frame_times is None and len(clip.waveform) == 32000
    with pytest.raises(ClipError, match="no such stream"):
        load_clip(silent, ClipRequest(streams=("audio",), on_missing="none", decoder=decoder))


# Bad input: every message names the file and the cure


def bad_files(folder):
    whole = write_numbered(folder / "whole.mp4").read_bytes()
    mkv = write_numbered(folder / "whole.mkv").read_bytes()
    fast = folder / "fast.mp4"
    with (
        av.open(str(folder / "whole.mp4")) as source,
        av.open(str(fast), "w", options={"movflags": "faststart"}) as target,
    ):
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    fast = fast.read_bytes()
    return {
        "text.mp4": (b"This is no clip.\n" * 50, "not a media file"),
        "empty.mp4": (b"", "is empty"),
        "stub.flv": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        "no_index.mp4": (whole[: len(whole) // 2], "cut off or damaged"),
        "half_index.mp4": (
            whole[: whole.index(b"vide", whole.index(b"moov")) + 20],
            "cut off, or its video has a codec",
        ),
        "cut.mp4": (fast[: int(len(fast) * 0.6)], "cut off"),
        "cut.mkv": (mkv[: int(len(mkv) * 0.5)], "cut off"),
        "playlist.mp4": (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "is a playlist"),
        "concat.mp4": (b"ffconcat version 1.0\nfile whole.mp4\n", "is a playlist"),
    }


@pytest.mark.parametrize("decoder", ["auto", *DECODERS])
@pytest.mark.parametrize(
    "name",
    ["text.mp4", "empty.mp4", "no_index.mp4", "half_index.mp4", "cut.mp4", "cut.mkv", "playlist.mp4", "concat.mp4"],
)
def test_broken_files(tmp_path, name, decoder):
    data, message = bad_files(tmp_path)[name]
    (tmp_path / name).write_bytes(data)
    for source in (tmp_path / name, {"path": name, "bytes": data}):
        for read in (probe_clip, lambda s, **options: load_clip(s, ClipRequest(num_frames=4, **options))):
            with pytest.raises(ClipError, match=message) as caught:
                read(source, decoder=decoder)
            assert name in str(caught.value) and caught.value.field == "path"


def test_zero_frames(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.add_stream("libx264", rate=25).width = 64
        container.streams.video[0].height, container.streams.video[0].pix_fmt = 64, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    for decoder in ("auto", "pyav"):
        for read in (probe_clip, lambda s, **options: load_clip(s, ClipRequest(num_frames=2, **options))):
            with pytest.raises(ClipError, match="no frames") as caught:
                read(path, decoder=decoder)
            assert caught.value.field == "video" and str(path) in str(caught.value)


def test_no_such_file(tmp_path):
    for name, message in (("gone.mp4", "no such file"), (".", "is a folder")):
        with pytest.raises(ClipError, match=message) as caught:
            load_clip(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)
    with pytest.raises(ClipError, match="is no clip"):
        load_clip(3.5)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.mp4",
        "https://example.com/a.mp4",
        "ftp://example.com/a.mp4",
        "file:/etc/hostname",
        "file:///etc/hostname",
        "concat:a.mp4|b.mp4",
        "data:video/mp4;base64,AAAA",
        "pipe:0",
        "subfile,,start,0,end,10,,:a.mp4",
        "rtmp://example.com/live",
    ],
)
def test_protocols_are_refused(url):
    with pytest.raises(ClipError, match="refused|no such file"):
        load_clip(url)
    with pytest.raises(ClipError):
        probe_clip({"path": url, "bytes": None})


def test_protocols_can_be_asked_for(tmp_path):
    path = write_variant(tmp_path, "plain")
    clip = load_clip(f"file:{path}", ClipRequest(times=[1.0], allow_remote=True))
    assert read_numbers(clip.frames) == [25]


@pytest.mark.parametrize(
    "window, message",
    [
        ((0.0, 2.2), "passes the end at 2.000 s"),
        ((3.0, 4.0), "passes the end"),
        ((-0.5, 1.0), "empty or negative"),
        ((1.0, 1.0), "empty or negative"),
        ((1.5, 1.0), "empty or negative"),
        ((float("nan"), 1.0), "empty or negative"),
    ],
)
def test_bad_windows(tmp_path, window, message):
    path = write_variant(tmp_path, "plain")
    with pytest.raises(ClipError, match=message) as caught:
        load_clip(path, ClipRequest(*window, num_frames=2))
    assert caught.value.field == "window" and str(path) in str(caught.value)


def test_window_may_pass_the_end_by_a_little(tmp_path):
    path = write_variant(tmp_path, "plain")
    clip = load_clip(path, ClipRequest(1.0, 2.04, num_frames=4))
    assert len(clip.waveform) == round(1.04 * 16000) and read_number(clip.frames[-1]) >= 47


@pytest.mark.parametrize("times", [[], [float("nan")], [-1.0], [2.5], [[0.5]]])
def test_bad_times(tmp_path, times):
    with pytest.raises(ClipError) as caught:
        load_clip(write_variant(tmp_path, "plain"), ClipRequest(times=times))
    assert caught.value.field == "times"


def test_bad_arguments(tmp_path):
    path = write_variant(tmp_path, "plain")
    for options in (
        {"num_frames": 2, "fps": 5},
        {"num_frames": 0},
        {"fps": -1},
        {"streams": ()},
        {"streams": ("picture",)},
        {"on_missing": "skip"},
        {"decoder": "vlc"},
    ):
        with pytest.raises(ValueError):
            load_clip(path, ClipRequest(**options))


def test_safe_join(tmp_path):
    assert safe_join(tmp_path, "a/b.mp4") == str(tmp_path / "a" / "b.mp4")
    assert safe_join(tmp_path, "a/../b.mp4") == str(tmp_path / "b.mp4")
    for name in ("../b.mp4", "a/../../b.mp4", "/etc/hostname", "", "http://x/y.mp4", "concat:a", "a\0b", ".."):
        with pytest.raises(ClipError):
            safe_join(tmp_path, name)


def test_names_that_begin_at_the_root_leave_the_folder(tmp_path, monkeypatch):
    for name in ("/secret/a.mp4", "//secret/a.mp4", "/../a.mp4"):
        with pytest.raises(ClipError, match="leaves the folder"):
            safe_join(tmp_path, name)
    # elsewhere than on Windows a backslash is a part of a name like any other
    if os.sep == "/":
        assert safe_join(tmp_path, r"\a.mp4") == str(tmp_path / r"\a.mp4")
        write_numbered(tmp_path / r"\a.mp4", 0.5)
        assert probe_clip(safe_join(tmp_path, r"\a.mp4")).has_video
    # Windows, with the `isabs` of Python 3.13
    path = SimpleNamespace(**vars(ntpath))
    path.isabs = lambda name: name[1:3] in (":\\", ":/") or name.startswith((r"\\", "//"))
    monkeypatch.setattr(clips, "os", SimpleNamespace(fspath=os.fspath, sep="\\", path=path))
    assert safe_join(r"C:\set", "a/b.mp4") == r"C:\set\a\b.mp4"
    for name in (
        "/secret/a.mp4",
        r"\secret\a.mp4",
        r"\\host\share\a.mp4",
        "//host/a.mp4",
        "C:/a.mp4",
        "C:a.mp4",
        r"..\a",
    ):
        with pytest.raises(ClipError, match="leaves the folder"):
            safe_join(r"C:\set", name)
        if not name.startswith(("C:a", "..")):
            with pytest.raises(ClipError, match="is absolute"):
                table_path(r"C:\set", name, allow_absolute_paths=False)
            assert table_path(r"C:\set", name, allow_absolute_paths=True)


def test_error_survives_worker_processes(tmp_path):
    with pytest.raises(ClipError) as caught:
        load_clip(tmp_path / "gone.mp4")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path, copy.field) == (str(caught.value), caught.value.path, "path")

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return load_clip(tmp_path / "gone.mp4")

    with pytest.raises(ClipError, match="no such file"):
        next(iter(torch.utils.data.DataLoader(Files(), num_workers=1)))


# Writing


def test_writer_leaves_no_half_files(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="nothing to write"):
        write_clip(tmp_path / "a.mp4")
    for frames in (np.zeros((2, 63, 64, 3), np.uint8), np.zeros((2, 64, 64, 3), np.float32), numbered_frames(0)):
        with pytest.raises(ValueError):
            write_clip(tmp_path / "a.mp4", frames)
    for name, options in (("a.txt", {}), ("a.wav", {}), ("a.mkv", {"rotation": 90}), ("a.mp4", {"rotation": 45})):
        with pytest.raises(ValueError):
            write_clip(tmp_path / name, numbered_frames(2), **options)
    with pytest.raises(ValueError, match="layout"):
        write_clip(tmp_path / "a.mp4", numbered_frames(2), np.zeros((3, 100)), layout="stereo")
    assert list(tmp_path.iterdir()) == []
    write_clip(tmp_path / "a.mp4", torch.from_numpy(numbered_frames(2)), torch.zeros(3200))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
