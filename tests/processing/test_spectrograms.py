# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Spectrograms against librosa, torchaudio and transformers.audio_utils, and the feature extractor around them.

Tolerances against librosa: 1e-4 on linear magnitudes; on normalized logarithms 2e-3, and 2e-2 for one value in a
thousand, where the logarithm stretches the rounding of magnitudes near zero. 1e-5 against torchaudio's Kaldi code.
"""

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from transformers import audio_utils

from processing import MAAVTFeatureExtractor
from processing.feature_extraction_maavt import PRESETS
from processing.spectrograms import fit_frames, kaldi_fbank, log_mel, normalize_per_clip, stft


def sound(seconds, sampling_rate=16000, seed=0):
    """A chord in noise, float32 `[n]`."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    chord = sum(np.sin(2 * np.pi * f * time + seed) for f in (220, 660, 1900 + 100 * seed))
    return (0.1 * chord + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def librosa_log_stft(waveform, n_fft, hop_length):
    spectrum = np.abs(librosa.stft(waveform, n_fft=n_fft, hop_length=hop_length, pad_mode="constant"))
    return np.log(spectrum + 1e-7)


def assert_log_close(got, want):
    error = np.abs(np.asarray(got) - want)
    assert (error < 2e-3).mean() > 0.999 and error.max() < 2e-2, error.max()


def standardized(spectrogram):
    return (spectrogram - spectrogram.mean()) / spectrogram.std()


# Against other libraries


@pytest.mark.parametrize("n_fft, hop_length", [(446, 358), (447, 296), (512, 160)])
def test_stft_against_librosa(n_fft, hop_length):
    waveform = sound(2.0)
    got = stft(torch.from_numpy(waveform), n_fft, hop_length).abs()
    want = np.abs(librosa.stft(waveform, n_fft=n_fft, hop_length=hop_length, pad_mode="constant"))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_vggsound_against_librosa():
    waveform = sound(10.0)
    features = MAAVTFeatureExtractor.from_preset("vggsound")(waveform, sampling_rate=16000).input_features
    want = standardized(librosa_log_stft(waveform[48000:128000], 446, 358))
    assert features.shape == (1, 1, 224, 224) and want.shape == (224, 224)
    assert_log_close(features[0, 0], want)


def test_crema_d_against_librosa():
    waveform = 6 * sound(2.3, 22050)  # loud: the clipping matters
    features = MAAVTFeatureExtractor.from_preset("crema_d")(waveform, sampling_rate=22050).input_features
    tiled = np.clip(np.tile(waveform, 3)[:66150], -1, 1)
    want = standardized(librosa_log_stft(tiled, 447, 296))
    assert features.shape == (1, 1, 224, 224) and want.shape == (224, 224)
    assert np.abs(waveform).max() > 1
    assert_log_close(features[0, 0], want)


def kaldi_by_transformers(waveform):
    filters = audio_utils.mel_filter_bank(
        num_frequency_bins=257,
        num_mel_filters=224,
        min_frequency=20,
        max_frequency=8000,
        sampling_rate=16000,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return audio_utils.spectrogram(
        waveform,
        audio_utils.window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=70,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )


def test_kaldi_against_torchaudio():
    waveforms = torch.stack([torch.from_numpy(sound(1.0, seed=seed)) for seed in range(3)])
    want = torch.stack(
        [
            torchaudio.compliance.kaldi.fbank(
                waveform[None],
                htk_compat=True,
                sample_frequency=16000,
                use_energy=False,
                window_type="hanning",
                num_mel_bins=224,
                dither=0.0,
                frame_shift=4.4,
            )
            for waveform in waveforms
        ]
    )
    got = kaldi_fbank(waveforms, 16000, 224, 400, 70)
    assert got.shape == (3, 224, 223)
    torch.testing.assert_close(got.transpose(1, 2), want, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_ave_against_transformers():
    waveform = sound(10.0) + 0.05  # an offset that has to go
    features = MAAVTFeatureExtractor.from_preset("ave")(waveform, sampling_rate=16000).input_features
    assert features.shape == (1, 10, 224, 224)
    centered = waveform - waveform.mean()
    for segment, start in ((0, 0), (4, 64000), (9, 144000)):
        bank = kaldi_by_transformers(centered[start : start + 16000])
        want = (np.pad(bank, ((0, 0), (0, 1))).T + 4.1426) / (2 * 3.2001)  # time x mel
        np.testing.assert_allclose(features[0, segment], want, atol=5e-3)
    assert features[0, :, 223].unique() == pytest.approx(4.1426 / 6.4002)  # the padded frame


def test_default_against_librosa():
    waveform = sound(4.48)
    features = MAAVTFeatureExtractor()(waveform, sampling_rate=16000).input_features
    mel = librosa.feature.melspectrogram(
        y=waveform,
        sr=16000,
        n_fft=1024,
        win_length=400,
        hop_length=160,
        n_mels=112,
        htk=True,
        norm=None,
        pad_mode="constant",
    )
    want = standardized(np.log(mel + 1e-6)[:, :448])
    assert features.shape == (1, 1, 112, 448)
    assert_log_close(features[0, 0], want)


def test_default_has_no_empty_filter():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(71680).astype(np.float32))
    assert (log_mel(noise, 16000, 1024, 160, 400, 112).amax(-1) > 0).all()


# The feature extractor


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_give_patches(preset):
    extractor = MAAVTFeatureExtractor.from_preset(preset)
    rate = extractor.sampling_rate
    batch = extractor([sound(10, rate), sound(3, rate, 1)], sampling_rate=rate, return_tensors="pt")
    features = batch["input_features"]
    assert features.dtype == torch.float32 and torch.isfinite(features).all()
    assert features.shape[:2] == (2, extractor.num_segments)
    assert features.shape[2] % 16 == 0 and features.shape[3] % 16 == 0
    assert (features.shape[2] // 16) * (features.shape[3] // 16) == 196


@pytest.mark.parametrize("preset", PRESETS)
def test_batch_equals_single(preset):
    extractor = MAAVTFeatureExtractor.from_preset(preset)
    rate = extractor.sampling_rate
    waveforms = [sound(seconds, rate, seed) for seed, seconds in enumerate((0.7, 2.0, 5.1, 12.0))]
    together = extractor(waveforms, sampling_rate=rate).input_features
    for waveform, row in zip(waveforms, together, strict=True):
        alone = extractor(waveform, sampling_rate=rate).input_features[0]
        torch.testing.assert_close(alone, row, atol=1e-5, rtol=1e-5)


def test_orientation():
    """A steady tone is a row of a frequency x time picture, and a column of the time x mel one."""
    waveform = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(160000) / 16000).astype(np.float32)
    for preset, axis in (("default", 0), ("vggsound", 0), ("ave", 1)):
        features = MAAVTFeatureExtractor.from_preset(preset)(waveform, sampling_rate=16000).input_features[0, 0]
        profile = features[:, :200].mean(1 - axis) if axis == 0 else features[:200].mean(0)
        assert profile.argmax() > 20
        spread = (features[8:200, 8:200].std(axis).mean(), features[8:200, 8:200].std(1 - axis).mean())
        assert spread[0] > 2 * spread[1], preset


def test_any_multiple_of_the_patch():
    for bins, frames in ((96, 160), (224, 32), (16, 16)):
        features = MAAVTFeatureExtractor(num_bins=bins, num_frames=frames)(sound(2.0), 16000).input_features
        assert features.shape == (1, 1, bins, frames)


def test_short_sound_is_padded_with_silence():
    extractor = MAAVTFeatureExtractor(normalization=None)
    waveform = sound(1.0)
    got = extractor(waveform, 16000).input_features
    want = extractor(np.pad(waveform, (0, 71680 - 16000)), 16000).input_features
    assert torch.equal(got, want)
    assert got[0, 0, :, 110:].max() == pytest.approx(np.log(1e-6), abs=1e-3)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("preset", ["default", "vggsound", "crema_d"])
def test_silence_after_the_sound_is_not_transformed(monkeypatch, preset, pad_mode):
    whole = {"segment_start": None, "tile_seconds": None, "tile_repeats": 1, "normalization": None}
    extractor = MAAVTFeatureExtractor.from_preset(preset, **whole, pad_mode=pad_mode)
    rate = extractor.sampling_rate
    sounds = [torch.from_numpy(sound(seconds, rate)) for seconds in (0.4, 1.1)]
    want = extractor._spectrograms(torch.stack([extractor.segments(waveform) for waveform in sounds]))
    lengths, transform = [], MAAVTFeatureExtractor._spectrograms

    def recorded(self, segments):
        lengths.append(segments.shape[-1])
        return transform(self, segments)

    monkeypatch.setattr(MAAVTFeatureExtractor, "_spectrograms", recorded)
    torch.testing.assert_close(extractor(sounds, rate).input_features, want, atol=1e-6, rtol=0)
    assert lengths == [len(sounds[1]) + extractor.n_fft] and lengths[0] < extractor.segments(sounds[0]).shape[-1]
    lengths.clear()
    extractor.log_offset = 0.0  # the logarithm of silence is infinite then, and stays so
    assert extractor(sounds, rate).input_features[0, 0, 0, -1] == -np.inf
    assert lengths == [extractor.segments(sounds[0]).shape[-1]]


def test_longer_sound_gives_its_middle():
    extractor = MAAVTFeatureExtractor(num_frames=96)
    waveform = sound(3.0)
    middle = (48000 - 15360) // 2
    want = extractor(waveform[middle : middle + 15360], 16000).input_features
    assert torch.equal(extractor(waveform, 16000).input_features, want)


def test_vggsound_tiles_short_clips():
    extractor = MAAVTFeatureExtractor.from_preset("vggsound")
    waveform = sound(4.0)
    want = extractor(np.tile(waveform, 3), 16000).input_features
    torch.testing.assert_close(extractor(waveform, 16000).input_features, want)


def test_segment_windows():
    default = MAAVTFeatureExtractor()
    assert default.segment_windows(10.0) == [(pytest.approx(2.76), pytest.approx(7.24))]
    assert default.segment_windows(2.0) == [(0.0, 2.0)]
    assert default.heard_window(10.0) == (pytest.approx(2.76), pytest.approx(7.24))
    vggsound = MAAVTFeatureExtractor.from_preset("vggsound")
    assert vggsound.segment_windows(10.0) == [(3.0, 8.0)]
    assert vggsound.segment_windows(4.0) == [(0.0, 4.0)]
    assert vggsound.heard_window(10.0) == (0.0, 10.0)  # it has to see where second 3 is
    ave = MAAVTFeatureExtractor.from_preset("ave")
    assert ave.segment_windows(10.0) == [(float(s), float(s + 1)) for s in range(10)]
    assert ave.heard_window(10.0) == (0.0, 10.0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seconds", [0.9, 4.0, 10.0, 12.3])
def test_the_heard_window_is_enough(preset, seconds):
    extractor = MAAVTFeatureExtractor.from_preset(preset, remove_mean=False)
    rate = extractor.sampling_rate
    waveform = sound(seconds, rate)
    start, end = extractor.heard_window(seconds)
    part = waveform[round(start * rate) : round(start * rate) + round((end - start) * rate)]
    torch.testing.assert_close(extractor(part, rate).input_features, extractor(waveform, rate).input_features)


def test_normalization():
    loud = MAAVTFeatureExtractor()(sound(4.48), 16000).input_features
    quiet = MAAVTFeatureExtractor(log_offset=1e-12)(0.01 * sound(4.48), 16000).input_features
    same = MAAVTFeatureExtractor(log_offset=1e-12)(sound(4.48), 16000).input_features
    assert loud.mean() == pytest.approx(0, abs=1e-4) and loud.square().mean() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(quiet, same, atol=1e-3, rtol=1e-3)  # the level does not matter
    silence = MAAVTFeatureExtractor()(np.zeros(16000, np.float32), 16000).input_features
    assert (silence.abs() < 1e-2).all()
    assert (normalize_per_clip(torch.full((2, 4, 4), 3.0)) == 0).all()
    mostly_silent = torch.full((224, 224), -16.118)
    mostly_silent[:, :10] = torch.randn(224, 10, generator=torch.Generator().manual_seed(0))
    for spectrogram in (mostly_silent, mostly_silent.T.contiguous()):
        exact = normalize_per_clip(spectrogram.double())
        torch.testing.assert_close(normalize_per_clip(spectrogram).double(), exact, atol=2e-5, rtol=0)
    assert fit_frames(torch.ones(2, 3), 5, -1.0).tolist() == [[1, 1, 1, -1, -1]] * 2


def test_accepted_waveforms():
    extractor, waveform = MAAVTFeatureExtractor(num_frames=32), sound(0.32)
    want = extractor(waveform, 16000).input_features
    for audio in (
        torch.from_numpy(waveform),
        waveform.astype(np.float64),
        waveform.tolist(),
        [waveform],
        waveform[None],
    ):
        torch.testing.assert_close(extractor(audio, 16000).input_features, want)
    as_numpy = extractor(waveform, 16000, return_tensors="np").input_features
    assert isinstance(as_numpy, np.ndarray)


@pytest.mark.parametrize(
    "audio, message",
    [
        (np.array([0.0, np.nan], np.float32), "waveform 0: NaN"),
        ([sound(0.1), np.full(100, np.inf, np.float32)], "waveform 1: NaN or infinite"),
        (np.zeros((2, 2, 100), np.float32), r"rank 3; give \[n\]"),
        ([np.zeros((2, 100), np.float32)], "average the channels"),
        (np.float32(0.5), "rank 0"),
        (np.zeros(0, np.float32), "no samples"),
        ([], "batch is empty"),
        (np.zeros(100, np.int16), "int16: divide by 32768"),
    ],
)
def test_bad_waveforms(audio, message):
    with pytest.raises(ValueError, match=message):
        MAAVTFeatureExtractor()(audio, sampling_rate=16000)


def test_wrong_sampling_rate():
    with pytest.raises(ValueError, match="sampling_rate=44100, but this feature extractor needs 16000 Hz; resample"):
        MAAVTFeatureExtractor()(sound(1.0), sampling_rate=44100)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"transform": "mfcc"}, "log_mel"),
        ({"normalization": "batch"}, "per_clip"),
        ({"num_bins": 0}, "num_bins=0"),
        ({"transform": "log_stft", "num_bins": 224}, "set n_fft=446"),
        ({"n_fft": 256}, "longer than n_fft"),
        ({"segment_seconds": 0.01}, "shorter than one window"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        MAAVTFeatureExtractor(**fields)


def test_unknown_preset():
    with pytest.raises(ValueError, match="vggsound, crema_d, ave"):
        MAAVTFeatureExtractor.from_preset("vgg")
    assert MAAVTFeatureExtractor.from_preset("vggsound", segment_start=0.0).segment_start == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("preset", PRESETS)
def test_on_gpu(preset):
    extractor = MAAVTFeatureExtractor.from_preset(preset)
    waveform = torch.from_numpy(sound(10, extractor.sampling_rate))
    want = extractor(waveform, extractor.sampling_rate).input_features
    got = extractor(waveform.cuda(), extractor.sampling_rate).input_features
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), want, atol=2e-3, rtol=1e-3)
    assert extractor(waveform, extractor.sampling_rate, device="cuda").input_features.is_cuda
