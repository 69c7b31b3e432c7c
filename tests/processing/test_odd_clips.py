# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips as they are in the wild: each gives the frames and the audio that a player shows, or one error that names it."""

import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clip_factory import numbered_frames, read_numbers, tone, write_numbered

from processing import MAAVTProcessor, clip_decoders, clip_types, clips
from processing.clips import ClipError, ClipRequest, load_clip, probe_clip
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.clip_writing import write_clip
from processing.video_processing_maavt import MAAVTVideoProcessor


DECODERS = [
    "pyav",
    pytest.param(
        "torchcodec",
        marks=pytest.mark.skipif(clip_decoders.torchcodec_decoders() is None, reason="torchcodec does not load here"),
    ),
]


def encode(path, options=None, codec="libx264", rate=25, count=100):
    """`count` numbered frames of 96 x 64, coded with these options."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in numbered_frames(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def write_audio(path, samples, *, codec="aac", sampling_rate=48000, layout="mono"):
    """Samples `[channels, n]` in -1..1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sampling_rate, layout=layout)
        for first in range(0, samples.shape[1], 1024):
            interleaved = np.ascontiguousarray(samples[:, first : first + 1024].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(interleaved.astype(np.float32), format="flt", layout=layout)
            frame.sample_rate, frame.pts = sampling_rate, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


# Frames: frame n of 25 a second shows n, whatever the window

# file: its length in frames
NUMBERED = {
    "plain.mp4": 30,
    "av_71.mp4": 30,
    "avi_h264_bframes.avi": 100,
    "avi_mpeg4_bframes.avi": 100,
    "mpeg1.mpg": 100,
    "mpeg2_bframes.mpg": 100,
    "two_sounds.mp4": 30,
    "two_pictures.mkv": 30,
    "raw.h264": 100,
    "h264.ts": 100,
    "x264_openGOP.mp4": 100,
}


def assert_numbered(path, count, decoder):
    assert probe_clip(path, decoder=decoder).duration == pytest.approx(count / 25, abs=0.05)
    whole = load_clip(path, ClipRequest(streams=("video",), decoder=decoder))
    assert read_numbers(whole.frames) == list(range(count))
    for start in (0.0, 0.42, 0.9, count / 25 - 0.3):
        clip = load_clip(path, ClipRequest(start, start + 0.3, num_frames=3, streams=("video",), decoder=decoder))
        wanted = [int((start + offset) * 25 + 1e-6) for offset in (0.05, 0.15, 0.25)]
        assert read_numbers(clip.frames) == wanted
        np.testing.assert_allclose(clip.frame_times, np.array(wanted) / 25, atol=2e-3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", NUMBERED)
def test_every_frame_in_its_place(shared_path, name, decoder):
    assert_numbered(str(shared_path("data/odd_clips") / name), NUMBERED[name], decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.avi", "libx264", {"bf": "3"}),
        ("a.avi", "mpeg4", {"bf": "2", "g": "30"}),
        ("a.mpg", "mpeg2video", {"bf": "2", "g": "20"}),
        ("a.h264", "libx264", {"bf": "3"}),
        ("a.ts", "libx264", {"bf": "3", "g": "20"}),
        ("a.mp4", "libx264", {"x264-params": "open-gop=1:keyint=20:bframes=3"}),
        ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=20:bframes=0"}),
    ],
)
def test_every_frame_of_what_the_test_makes(tmp_path, name, codec, options, decoder):
    assert_numbered(encode(tmp_path / name, options, codec), 100, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("mirror_h.mp4", lambda frames: frames.flip(-1)),
        ("antitranspose.mp4", lambda frames: frames.flip(-1, -2).transpose(-1, -2)),
        ("rot90.mp4", lambda frames: frames.rot90(-1, (-2, -1))),
    ],
)
def test_turned_and_mirrored_tracks(shared_path, name, turn, decoder):
    folder = shared_path("data/odd_clips")
    request = ClipRequest(streams=("video",), decoder=decoder)
    want = turn(load_clip(str(folder / "plain.mp4"), request).frames)
    got = load_clip(str(folder / name), request).frames
    assert got.shape == want.shape and (got.float() - want.float()).abs().mean() < 6


def write_matrix(path, matrix):
    """Give the first track of an mp4 this matrix: `(a, b, c, d)`, x' = a x + c y and y' = b x + d y."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # after version, times, id, duration, layer and volume
    a, b, c, d = (int(value * 65536) for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_all_eight_orientations(tmp_path, matrix, decoder):
    path = Path(encode(tmp_path / "a.mp4", count=5))
    request = ClipRequest(streams=("video",), decoder=decoder)
    plain = load_clip(path, request).frames  # (T, 3, H, W)
    write_matrix(path, matrix)
    shown = load_clip(path, request).frames
    # a pixel at (x, y) from the center goes to (a x + c y, b x + d y)
    a, b, c, d = matrix
    wanted = plain
    if a == 0:
        wanted = wanted.transpose(-1, -2)
    across, down = (a, d) if a else (c, b)
    wanted = wanted.flip([axis for axis, sign in ((-1, across), (-2, down)) if sign < 0])
    assert shown.shape == wanted.shape and (shown.float() - wanted.float()).abs().mean() < 6


# Audio


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("codec", "name"),
    [("aac", "a.mp4"), ("aac", "a.mkv"), ("libopus", "a.mkv"), ("flac", "a.mkv"), ("pcm_s16be", "a.mov")],
)
def test_eight_channels(tmp_path, codec, name, decoder):
    samples = np.repeat(tone(1.0, 48000)[None], 8, 0)
    path = write_audio(tmp_path / name, samples, codec=codec, layout="7.1")
    waveform = load_clip(path, ClipRequest(0.2, 0.8, decoder=decoder, streams=("audio",))).waveform
    assert waveform.std() * 2**0.5 == pytest.approx(0.3, abs=0.01)
    spectrum = torch.fft.rfft(waveform * torch.hann_window(len(waveform))).abs()
    assert spectrum.argmax() / 0.6 == pytest.approx(440, abs=3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["vbr_loud_first.aac", "vbr_noxing.mp3"])
def test_lengths_that_are_estimated_are_counted(shared_path, name, decoder):
    path = str(shared_path("data/odd_clips") / name)
    assert probe_clip(path).duration == pytest.approx(16.04, abs=0.06)
    whole = load_clip(path, ClipRequest(streams=("audio",), decoder=decoder, sampling_rate=16000)).waveform
    assert len(whole) / 16000 == pytest.approx(16.04, abs=0.06)
    part = load_clip(path, ClipRequest(10.0, 12.0, streams=("audio",), sampling_rate=16000)).waveform
    torch.testing.assert_close(part, whole[160000:192000], atol=1e-3, rtol=0)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_default_track_is_heard(shared_path, decoder):
    path = str(shared_path("data/odd_clips") / "two_sounds.mp4")
    clip = load_clip(path, ClipRequest(0.1, 1.1, streams=("audio",), decoder=decoder))
    assert clip.sampling_rate == 48000
    assert torch.fft.rfft(clip.waveform).abs().argmax() == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_late_start_counts_once(tmp_path, decoder):
    path = str(write_numbered(tmp_path / "late.m4a", 2.0, picture=False, start_time=1.5))
    clip = load_clip(path, ClipRequest(streams=("audio",), decoder=decoder))
    assert clip.end == pytest.approx(2.06, abs=0.05) and clip.waveform[1000:].abs().max() > 0.2


@pytest.mark.parametrize("decoder", DECODERS)
def test_changing_channels_are_averaged(shared_path, decoder):
    path = str(shared_path("data/odd_clips") / "mono_then_stereo.mkv")
    waveform = load_clip(path, ClipRequest(streams=("audio",), decoder=decoder)).waveform
    assert torch.isfinite(waveform).all() and waveform[:40000].abs().max() > 0.01 < waveform[-40000:].abs().max()


def test_of_several_audio_frames_in_one_packet_each_is_heard(tmp_path):
    path = tmp_path / "adpcm.wav"
    samples = tone(1.0, 48000, 440)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("adpcm_ms", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 48000
        for part in (frame, None):
            container.mux(stream.encode(part))
    waveform = load_clip(path, ClipRequest(0.1, 0.9, streams=("audio",))).waveform
    assert waveform.std() * 2**0.5 == pytest.approx(0.3, abs=0.01)


# The whole corpus: PyAV, torchcodec and the ffmpeg command line give the same

BEFORE_ZERO = {"cut_copy_neg.mkv"}  # ffmpeg shows what lies before second 0 too
CHIRP = "aevalsrc=0.25*sin(2*PI*(200+300*t)*t):s=48000:d=1"


def ffmpeg(path, *options):
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), *options, "-"]
    return subprocess.run(command, capture_output=True, check=False).stdout


def outcome(path, decoder):
    try:
        return load_clip(path, ClipRequest(decoder=decoder, on_missing="none"))
    except ClipError as error:
        return str(error)


def assert_decoders_agree(path):
    """The clip as both decoders give it, or None where both refuse it with the same words."""
    pyav = outcome(path, "pyav")
    if clip_decoders.torchcodec_decoders() is not None:
        torchcodec = outcome(path, "torchcodec")
        if isinstance(pyav, str):
            assert torchcodec == pyav
        else:
            assert (torchcodec.start, torchcodec.end, torchcodec.sampling_rate) == (
                pyav.start,
                pyav.end,
                pyav.sampling_rate,
            )
            for field in ("frames", "frame_times", "waveform"):
                torch.testing.assert_close(getattr(torchcodec, field), getattr(pyav, field), atol=1e-3, rtol=0)
    return None if isinstance(pyav, str) else pyav


def assert_ffmpeg_agrees(path, clip):
    if clip.frames is not None:
        num_frames, _, height, width = clip.frames.shape
        pixels = ffmpeg(path, "-an", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24")
        frames = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(-1, height, width, 3)
        assert path.name in BEFORE_ZERO or len(frames) == num_frames
        difference = frames[-num_frames:].permute(0, 3, 1, 2).float() - clip.frames.float()
        assert difference.abs().mean() < 1
    if clip.waveform is not None and path.name not in BEFORE_ZERO:
        mono = "aresample=rematrix_maxval=1:ocl=mono,aformat=channel_layouts=mono"
        heard = np.frombuffer(ffmpeg(path, "-vn", "-af", mono, "-f", "f32le"), np.float32)
        waveform = clip.waveform.numpy()
        # Raw samples have no clock: what lies between the start of the clip and its first sample is found by correlation.
        size = 2 * max(len(waveform), len(heard))
        product = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(heard, size).conj(), size)
        lags = np.arange(-4800, 4801)
        lag = lags[product[lags].argmax()]
        ours, theirs = waveform[max(lag, 0) :], heard[max(-lag, 0) :]
        overlap = min(len(ours), len(theirs))
        assert overlap > 0.8 * len(waveform)
        assert np.median(np.abs(ours[:overlap] - theirs[:overlap])) < 2e-3


def assert_all_agree(paths):
    wrong = {}
    for path in paths:
        try:
            clip = assert_decoders_agree(path)
            if clip is not None and shutil.which("ffmpeg"):
                assert_ffmpeg_agrees(path, clip)
        except AssertionError as error:
            wrong[path.name] = str(error)
    assert wrong == {}


def test_decoders_and_ffmpeg_agree_on_the_corpus(shared_path):
    assert_all_agree(sorted(path for path in shared_path("data/odd_clips").iterdir() if path.suffix != ".md"))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg command line writes the files")
def test_decoders_and_ffmpeg_agree_on_every_kind(tmp_path):
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
    import fuzz_clips

    files = fuzz_clips.write_kinds(tmp_path, CHIRP)
    assert len(files) >= 20
    assert_all_agree(files.values())
    assert all(assert_decoders_agree(path) is not None for path in files.values())


# One error that names the file


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [("nan_av.mkv", "NaN"), ("joined.ts", "frames of"), ("joined_rates.mp3", "sampling rate changes")],
)
def test_what_cannot_be_decoded_is_named(shared_path, name, reason, decoder):
    with pytest.raises(ClipError, match=f"{name}.*{reason}"):
        load_clip(str(shared_path("data/odd_clips") / name), ClipRequest(on_missing="none", decoder=decoder))


@pytest.mark.parametrize("error", [ValueError("channels"), IndexError("pop"), KeyError("json"), ZeroDivisionError()])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    path = str(write_numbered(tmp_path / "clip.mp4", 0.4))

    def fail(*args):
        raise error

    monkeypatch.setattr(clip_decoders.PyAVFile, "waveform", fail)
    with pytest.raises(ClipError, match=r"clip\.mp4: path: cannot be decoded"):
        load_clip(path)


def test_a_window_without_a_sample_is_named(tmp_path):
    path = str(write_numbered(tmp_path / "clip.mp4", 0.4))
    with pytest.raises(ClipError, match="holds no sample"):
        load_clip(path, ClipRequest(0.1, 0.10001, streams=("audio",)))


# Hostile input

SDP = (
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
DASH = b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>'
HLS = b"#EXTM3U\n#EXTINF:1,\nother.ts\n"
TEXT = b"\x1b[31mcolored text, which FFmpeg shows as a video\n" * 100


@pytest.mark.parametrize(
    "data", [SDP, b"\n" + SDP, DASH, HLS, b" " * 20 + HLS, b"ffconcat version 1.0\nfile a.mp4\n", TEXT]
)
def test_what_opens_other_files_is_refused(tmp_path, data):
    path = tmp_path / "clip.mp4"
    for source, name in ((data, "bytes"), (path, "clip.mp4")):
        path.write_bytes(data)
        with pytest.raises(ClipError, match=f"{name}: path: is"):
            load_clip(source)
    text = tmp_path / "notes.txt"
    text.write_bytes(TEXT)
    with pytest.raises(ClipError, match=r"notes\.txt"):
        load_clip(text)


def test_image_sequences_are_refused(tmp_path):
    from PIL import Image

    for name in ("x1.png", "x%d.png", "x1.jpg", "x%d.jpg"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    for name in ("x%d.png", "x%d.jpg"):
        with pytest.raises(ClipError, match="is an image"):
            load_clip(tmp_path / name)


@pytest.mark.parametrize("sampling_rate", [44101, 47999, 22051, 96001])
def test_odd_sampling_rates_take_little_memory(tmp_path, sampling_rate):
    from processing.clips import _resampler

    path = write_clip(tmp_path / "a.wav", None, tone(1.0, sampling_rate, 100), fps=25, sampling_rate=sampling_rate)
    waveform = load_clip(path, ClipRequest(streams=("audio",), sampling_rate=16000)).waveform
    torch.testing.assert_close(
        waveform[200:-200], torch.from_numpy(tone(1.0, 16000, 100))[200:-200], atol=0.01, rtol=0
    )
    taken, _ = peak_memory(lambda: _resampler.__wrapped__(sampling_rate, 16000))
    assert taken < 150e6
    resampler = _resampler(sampling_rate, 16000)
    assert getattr(resampler, "kernel", torch.zeros(0)).nbytes < 10e6


def test_large_frames_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 256, 128, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((128, 256, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(ClipError, match="256x128 have more than max_pixels=1000 pixels"):
        load_clip(path, ClipRequest(max_pixels=1000))
    with pytest.raises(ClipError, match="raise ClipRequest"):
        probe_clip(path, max_pixels=1000)
    assert load_clip(path, ClipRequest(max_pixels=256 * 128, on_missing="none")).frames.shape == (1, 3, 128, 256)


def test_pipes_and_devices_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", "/dev/null"):
        with pytest.raises(ClipError, match="is a pipe or a device"):
            load_clip(path)


def test_a_name_that_is_not_utf8_can_be_read_and_printed(tmp_path):
    clip = write_numbered(tmp_path / "clip.mp4", 0.4)
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    os.rename(clip, path)
    assert len(load_clip(path).frames) == 10
    with pytest.raises(ClipError) as caught:
        load_clip(path + ".gone")
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize("binary", [b"", b"\0\xff"])
@pytest.mark.parametrize(
    "data",
    [SDP.removeprefix(b"v=0\n"), b"a=x\n" + SDP, b"<!-- a comment -->" + DASH, b"\xef\xbb\xbf" + b" " * 500 + SDP],
)
def test_playlists_that_begin_otherwise_are_refused_before_a_decoder_sees_them(tmp_path, monkeypatch, data, binary):
    monkeypatch.setattr("processing.clips.open_file", None)
    path = tmp_path / "clip.mkv"
    path.write_bytes(data + binary)
    for source in (path, data + binary, path.open("rb"), {"path": None, "bytes": data + binary}):
        with pytest.raises(ClipError, match="is a playlist"):
            load_clip(source)


def wav_header(sampling_rate, channels, data_size=0xFFFFFFF0):
    form = struct.pack("<HHIIHH", 1, channels, sampling_rate, min(2 * sampling_rate * channels, 2**32 - 1), 2, 16)
    return (
        b"RIFF"
        + b"\xff" * 4
        + b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", data_size)
    )


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("sampling_rate", "channels"),
    [(0, 1), (1, 1), (2**31 - 1, 1), (2**32 - 1, 1), (16000, 0), (16000, 255), (16000, 65535)],
)
def test_numbers_that_lie_in_a_header(sampling_rate, channels, decoder):
    data = wav_header(sampling_rate, channels) + bytes(64000)
    for rate in (None, 16000):
        try:
            clip = load_clip(data, ClipRequest(decoder=decoder, sampling_rate=rate, on_missing="none"))
            assert len(clip.waveform) < 1 << 20
        except ClipError:
            pass


def test_a_clip_that_claims_to_last_for_days_takes_no_memory(tmp_path):
    """Two packets, 30 hours apart."""
    path = tmp_path / "long.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for pts in (0, 30 * 3600 * 48000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 480), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 48000, pts
            container.mux(stream.encode(frame))
    with pytest.raises(ClipError, match=r"holds more than .* samples; give a shorter window"):
        load_clip(path, ClipRequest(streams=("audio",)))
    assert len(load_clip(path, ClipRequest(0, 1, streams=("audio",))).waveform) == 48000


def test_too_many_frames_are_named(tmp_path):
    path = str(write_numbered(tmp_path / "clip.mp4", 0.4))
    for request in (ClipRequest(num_frames=10**9), ClipRequest(fps=1e9)):
        with pytest.raises(ClipError, match="frames: more than"):
            load_clip(path, request)


def test_a_link_to_a_device_is_named(tmp_path):
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    with pytest.raises(ClipError, match="is a pipe or a device"):
        load_clip(tmp_path / "zero.mp4")


@pytest.mark.parametrize(
    "name", ["concat:a.mp4|b.mp4", "http://127.0.0.1:1/a.mp4", "file:clip.mp4", "pipe:0", "subfile,,:x"]
)
def test_protocols_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClipError, match="protocols are refused|no such file"):
        load_clip(name)


# Memory: a small file takes little, whatever it claims


def peak_memory(call):
    """Bytes by which a call enlarged this process at its peak, and its result."""
    status = Path("/proc/self/status")

    def field(name):
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])

    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is used now
    except OSError:
        pytest.skip("the peak of the memory cannot be read here")
    before = field("VmRSS")
    result = call()
    return field("VmHWM") - before, result


@pytest.mark.parametrize("decoder", DECODERS)
def test_large_frames_are_resized_as_they_are_decoded(tmp_path, decoder):
    height, width, count = 2000, 3000, 16
    path = tmp_path / "large.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            image = np.full((height, width, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    request = ClipRequest(num_frames=count, on_missing="none", decoder=decoder)
    resize = MAAVTVideoProcessor().resizer()
    small = replace(request, transform=resize)
    load_clip(path, small)
    taken, clip = peak_memory(lambda: load_clip(path, small))
    assert taken < 6 * height * width * 3 < count * height * width * 3
    whole = load_clip(path, request)
    torch.testing.assert_close(clip.frames, resize(whole.frames), atol=0, rtol=0)
    assert clip.frames.shape == (count, 3, 224, 224)
    # every way through the processors gives the same
    pixels = MAAVTVideoProcessor()(whole.frames, return_tensors="pt").pixel_values_videos
    for processor in (
        MAAVTVideoProcessor(frames_per_clip=count),
        MAAVTVideoProcessor(crop_box=(0, 0, 1, 1), frames_per_clip=count),
    ):
        torch.testing.assert_close(processor(str(path), return_tensors="pt").pixel_values_videos, pixels)
    both = MAAVTProcessor(MAAVTFeatureExtractor(), MAAVTVideoProcessor(frames_per_clip=count))
    torch.testing.assert_close(both(clips=[str(path)], on_missing="none").pixel_values_videos, pixels)


def test_more_frames_than_fit_into_the_memory_are_named(tmp_path, monkeypatch):
    path = str(write_numbered(tmp_path / "clip.mp4", 0.4))
    monkeypatch.setattr(clip_types, "MAX_BYTES", 5 * 64 * 96 * 3)
    for request in (ClipRequest(), ClipRequest(num_frames=6)):
        with pytest.raises(ClipError, match=r"frames: 6 frames of 96x64 take more than .*; give a shorter window"):
            load_clip(path, request)
    assert len(load_clip(path, ClipRequest(num_frames=5)).frames) == 5


def write_long_audio(path, minutes, sampling_rate=48000):
    """A second of a tone at the beginning and at the end; nothing between them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=sampling_rate, layout="mono")
        for pts in (0, (minutes * 60 - 1) * sampling_rate):
            samples = (tone(1.0, sampling_rate) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = sampling_rate, pts
            container.mux(stream.encode(frame))
    return path


def test_long_holes_in_the_audio_take_little_memory(tmp_path):
    path = write_long_audio(tmp_path / "long.mkv", 120)
    request = ClipRequest(streams=("audio",), sampling_rate=16000)
    taken, clip = peak_memory(lambda: load_clip(path, request))
    assert len(clip.waveform) == 120 * 60 * 16000
    assert taken < 200e6
    for part in (clip.waveform[:16000], clip.waveform[-16000:]):
        assert part.std() * 2**0.5 == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("native", "rate"), [(48000, 16000), (44100, 16000), (8000, 16000), (22050, 16000)])
def test_long_audio_is_resampled_piece_by_piece(native, rate):
    resampler = clips._resampler(native, rate)
    waveform = torch.randn(3 * clips.RESAMPLED_AT_ONCE + 12345)
    wanted = resampler(waveform)[100:]
    resampled = clips._resampled(waveform, resampler, 100, len(wanted) + 50)
    torch.testing.assert_close(resampled[: len(wanted)], wanted, atol=1e-5, rtol=1e-5)
    assert resampled[len(wanted) + 1 :].abs().max() == 0


def test_long_audio_takes_little_more_than_its_samples():
    waveform = torch.randn(40 * clips.RESAMPLED_AT_ONCE)  # 7 minutes at 48 kHz
    resampler = clips._resampler(48000, 16000)
    taken, resampled = peak_memory(lambda: clips._resampled(waveform, resampler, 0, len(waveform) // 3))
    assert taken < 2 * waveform.nbytes
