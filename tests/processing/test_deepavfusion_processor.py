# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""DeepAVFusion's processor: spectrograms against torchaudio, windows and frames, saving, remote code, masks to sound."""

import json
import os
import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
import torchaudio
from clip_factory import read_numbers, tone, write_numbered
from PIL import Image
from torchvision.transforms import v2 as transforms
from transformers import AutoFeatureExtractor, AutoProcessor, AutoVideoProcessor, ViTImageProcessor

from processing import (
    DeepAVFusionFeatureExtractor,
    DeepAVFusionProcessor,
    DeepAVFusionVideoProcessor,
    MAAVTProcessor,
)
from processing.spectrograms import masked_waveform


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Five seconds at ten frames a second, 96 x 64: frame k is on the screen from k / 10 on."""
    return str(write_numbered(tmp_path_factory.mktemp("clips") / "clip.mp4", 5.0, fps=10))


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


# ---- spectrograms


def published_spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    """Section 1.3 of the specification, with torchaudio alone."""
    while len(waveform) < 48000:
        waveform = torch.cat([waveform, waveform.flip(0)])
    mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=800, hop_length=250, n_mels=128, f_max=8000.0)
    return torch.log10(mel(waveform[:48000]) + 1e-7)[:, :-1]


@pytest.mark.parametrize("samples", [48000, 47999, 30000, 7000])
def test_spectrogram_is_torchaudios(samples):
    waveform = noise(samples)
    got = DeepAVFusionFeatureExtractor()(waveform, sampling_rate=16000).input_features
    assert got.shape == (1, 1, 128, 192) and got.dtype == torch.float32
    torch.testing.assert_close(got[0, 0], published_spectrogram(waveform), atol=1e-5, rtol=0)


def test_silence_is_minus_seven():
    got = DeepAVFusionFeatureExtractor()(torch.zeros(48000), sampling_rate=16000).input_features
    assert (got == -7).all()


def test_longer_sound_is_read_in_the_middle_or_in_even_windows():
    waveform = noise(160000)
    middle = DeepAVFusionFeatureExtractor()(waveform, sampling_rate=16000).input_features
    torch.testing.assert_close(middle[0, 0], published_spectrogram(waveform[56000:104000]), atol=1e-5, rtol=0)
    ten = DeepAVFusionFeatureExtractor.from_preset("ten_windows")(waveform, sampling_rate=16000).input_features
    assert ten.shape == (1, 10, 128, 192)
    for index in (0, 4, 9):
        start = round(index * 112000 / 9)
        want = published_spectrogram(waveform[start : start + 48000])
        torch.testing.assert_close(ten[0, index], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("field, value", [("short_audio", "loop"), ("log_base", "2"), ("pad_mode", "circular")])
def test_unknown_modes_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field}='{value}'; use"):
        DeepAVFusionFeatureExtractor(**{field: value})


# ---- windows, frames, pixels


def test_one_frame_from_the_middle_of_each_window(clip):
    plain = DeepAVFusionVideoProcessor(do_resize=False, do_rescale=False, do_normalize=False, do_center_crop=False)
    one = DeepAVFusionProcessor(video_processor=plain)(clips=clip)
    assert read_numbers(one["pixel_values_videos"][0]) == [25] and one["input_features"].shape == (1, 1, 128, 192)
    several = DeepAVFusionProcessor(DeepAVFusionFeatureExtractor(num_segments=3), plain)(clips=clip)
    assert read_numbers(several["pixel_values_videos"][0]) == [15, 25, 35]
    assert several["input_features"].shape == (1, 3, 128, 192)
    again = DeepAVFusionProcessor(video_processor=plain)(clips=clip)
    assert torch.equal(one["pixel_values_videos"], again["pixel_values_videos"])
    short = DeepAVFusionProcessor(video_processor=plain)(clips=(clip, 1.0, 2.0))
    assert read_numbers(short["pixel_values_videos"][0]) == [15] and short["input_features"].shape == (1, 1, 128, 192)


def test_pixels_are_torchvisions():
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (300, 400, 3), dtype=np.uint8))
    picture = picture.resize((40, 30)).resize((400, 300))  # smooth, as pictures are
    published = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    frames = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    got = DeepAVFusionVideoProcessor()(frames, return_tensors="pt").pixel_values_videos
    assert got.shape == (1, 1, 3, 224, 224)
    # one of 255 brightness steps: Pillow and torch round differently
    torch.testing.assert_close(got[0, 0], published(picture), atol=1.01 / 255 / 0.224, rtol=0)
    whole = DeepAVFusionVideoProcessor(size={"shortest_edge": 224})(frames, return_tensors="pt").pixel_values_videos
    assert whole.shape == (1, 1, 3, 224, 224) and not torch.equal(whole, got)


def test_from_backbone(tmp_path, clip):
    ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    processor = DeepAVFusionProcessor.from_backbone(str(tmp_path), feature_extractor={"preset": "ten_windows"})
    batch = processor(clips=clip)
    assert batch["pixel_values_videos"].shape == (1, 10, 3, 64, 64)
    assert batch["input_features"].shape == (1, 10, 128, 192)
    assert list(processor.video_processor.image_mean) == [0.1, 0.2, 0.3]


def test_missing_halves(clip, tmp_path):
    silent = str(write_numbered(tmp_path / "silent.mp4", 3.2, fps=10, sound=False))
    batch = DeepAVFusionProcessor()(clips=[clip, silent], on_missing="none")
    assert batch["has_audio"].tolist() == [True, False] and batch["has_video"].all()
    assert (batch["input_features"][1] == 0).all()


# ---- saving, loading, remote code


def test_save_and_load(tmp_path, clip):
    processor = DeepAVFusionProcessor(
        DeepAVFusionFeatureExtractor(num_segments=2, log_offset=1e-6),
        DeepAVFusionVideoProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    )
    want = processor(clips=clip)
    processor.save_pretrained(tmp_path)
    for loaded in (DeepAVFusionProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is DeepAVFusionProcessor and loaded.to_dict() == processor.to_dict()
        got = loaded(clips=clip)
        assert all(torch.equal(got[name], want[name]) for name in want)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is DeepAVFusionFeatureExtractor
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is DeepAVFusionVideoProcessor
    assert type(MAAVTProcessor().feature_extractor).__name__ == "MAAVTFeatureExtractor"


REMOTE = """
import sys
sys.modules["processing"] = None
import torch
from transformers import AutoProcessor
folder, clip, out = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
batch = dict(processor(clips=clip))
mixture = processor.mixture_windows([torch.linspace(-0.5, 0.5, 48000)])
batch["separated"] = processor.post_process_separation(torch.zeros(1, 1, 128, 192), mixture)
torch.save(batch, out)
print(type(processor).__module__)
"""


def test_remote_code(tmp_path, clip):
    processor = DeepAVFusionProcessor()
    processor.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert config["auto_map"]["AutoProcessor"] == "processing_deepavfusion.DeepAVFusionProcessor"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment.update(HF_HUB_OFFLINE="1", HF_MODULES_CACHE=str(tmp_path / "modules"), HF_HOME=str(tmp_path / "home"))
    (tmp_path / "remote.py").write_text(REMOTE)
    command = [sys.executable, "-I", "remote.py", "saved", clip, "out.pt"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.strip().startswith("transformers_modules.")
    got, want = torch.load(tmp_path / "out.pt", weights_only=True), processor(clips=clip)
    assert got["separated"].shape == (1, 1, 48000)
    assert all(torch.equal(got[name], want[name]) for name in want)


# ---- masks to sound


def test_masks_let_their_frequencies_through():
    """Two tones: a mask on the mel bins of one gives that one, in the last 15 ms too only where the mask has frames."""
    low, high = (torch.from_numpy(tone(3.0, frequency=hertz)) for hertz in (500.0, 3000.0))
    processor = DeepAVFusionProcessor()
    mixture = processor.mixture_windows([(low + high).numpy()])
    assert mixture.shape == (1, 1, 48000)
    edges = torchaudio.functional.melscale_fbanks(401, 0.0, 8000.0, 128, 16000, mel_scale="htk").argmax(0) * 20.0
    logits = torch.where(edges < 1500, 50.0, -50.0)[:, None].expand(1, 1, 128, 192)
    inner = slice(4000, 44000)
    for renormalize in (False, True):
        got = processor.post_process_separation(logits, mixture, renormalize)
        error = (got[0, 0] - low)[inner].square().mean() / low[inner].square().mean()
        assert got.shape == (1, 1, 48000) and error < (1e-3 if renormalize else 2e-2)
    both = processor.post_process_separation(torch.stack([logits, -logits], 2), mixture, True)
    assert both.shape == (1, 1, 2, 48000)
    torch.testing.assert_close(both.sum(2)[..., inner], mixture[..., inner], atol=2e-3, rtol=0)


def test_mask_goes_through_the_filters_as_in_the_paper():
    """Against the plain computation with torchaudio's own transforms."""
    mixture, mask = noise(48000), torch.rand(128, 192, generator=torch.Generator().manual_seed(1))
    window = torch.hann_window(800)
    spectrum = torch.stft(mixture, 800, 250, window=window, pad_mode="reflect", return_complex=True)
    filters = torchaudio.functional.melscale_fbanks(401, 0.0, 8000.0, 128, 16000, mel_scale="htk")
    linear = filters @ torch.cat([mask, torch.zeros(128, 1)], 1)
    want = torch.istft(spectrum * linear, 800, 250, window=window, length=48000)
    got = masked_waveform(mask, mixture, 16000, 800, 250)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    ones = masked_waveform(torch.ones(128, 192), mixture, 16000, 800, 250)
    inner = slice(1000, 46000)  # the frame that the mask lacks is silent
    ratio = 10 * torch.log10(mixture[inner].square().sum() / (ones - mixture)[inner].square().sum())
    assert 17 < ratio < 23  # the specification's 20 dB: ones are not the identity
    identity = masked_waveform(torch.ones(128, 193), mixture, 16000, 800, 250, renormalize=True)
    torch.testing.assert_close(identity, mixture, atol=2e-2, rtol=0)  # no filter covers 0 and 8,000 Hz


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="give the waveform that the spectrogram was made"):
        masked_waveform(torch.ones(128, 192), noise(16000), 16000, 800, 250)
    with pytest.raises(ValueError, match=r"mask \(2, 128, 192\) and mixture \(48000,\)"):
        masked_waveform(torch.ones(2, 128, 192), noise(48000), 16000, 800, 250)


def test_wav_files(tmp_path):
    processor = DeepAVFusionProcessor()
    waveforms = torch.stack([torch.from_numpy(tone(0.5)), 3 * torch.from_numpy(tone(0.5))])
    paths = processor.save_waveforms(waveforms, [tmp_path / "a" / "one.wav", tmp_path / "two.wav"])
    for path, waveform in zip(paths, waveforms, strict=True):
        with wave.open(path) as sound:
            assert (sound.getframerate(), sound.getnchannels()) == (16000, 1)
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32767
        np.testing.assert_allclose(samples, waveform.clamp(-1, 1), atol=2e-5)
    assert {path.name for path in tmp_path.rglob("*.wav")} == {"one.wav", "two.wav"}  # no temporary file is left
    separated = processor.post_process_separation(torch.zeros(2, 1, 128, 192), torch.stack([noise(48000)[None]] * 2))
    assert separated.shape == (2, 1, 48000)
    assert len(processor.save_waveforms(separated, [tmp_path / "c.wav", tmp_path / "d.wav"])) == 2
    with pytest.raises(ValueError, match="2 waveforms and 1 paths"):
        processor.save_waveforms(waveforms, [tmp_path / "a.wav"])
    with pytest.raises(ValueError, match="finite mono samples"):
        processor.save_waveforms(torch.full((1, 10), torch.nan), [tmp_path / "nan.wav"])
