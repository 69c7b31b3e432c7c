# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""From mp4 files to model inputs on one core, beside decoding alone and beside a usual research pipeline.

    python -m benchmarks.processor [--clips FOLDER]

Clips come from `--clips`, else from the environment variable BENCH_CLIPS, else the demo's clips are written.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from processing import MAAVTProcessor
from processing.clip_decoders import PyAVFile, torchcodec_decoders
from processing.clips import Clip, ClipRequest, load_clip
from processing.feature_extraction_maavt import MAAVTFeatureExtractor
from processing.generate.demo_clips import DemoSettings, write_demo
from processing.video_processing_maavt import MAAVTVideoProcessor

from .workload import interleaved, median, ratio


NUM_CLIPS, NUM_FRAMES = 32, 8


def clip_files(folder: str | None, demo: str) -> list[str]:
    folder = folder or os.environ.get("BENCH_CLIPS")
    if folder is None:
        folder = write_demo(demo, DemoSettings(num_train=NUM_CLIPS, num_validation=1, num_test=1))
    files = sorted(str(file) for file in Path(folder).rglob("*.mp4"))[:NUM_CLIPS]
    if not files:
        raise ValueError(f"{folder}: no mp4 file in it; give a folder of clips")
    return files


def build_processor(clip_seconds: float | None = None) -> MAAVTProcessor:
    """Frames of 224 x 224 and the spectrogram of the paper's VGGSound recipe; with `clip_seconds`, of the whole clip."""
    options = {"segment_start": None, "tile_seconds": None, "segment_seconds": clip_seconds}
    extractor = MAAVTFeatureExtractor.from_preset("vggsound", **options)
    return MAAVTProcessor(extractor, MAAVTVideoProcessor(frames_per_clip=NUM_FRAMES))


def bare_decoders(file: str, processor: MAAVTProcessor) -> dict[str, Callable]:
    """Reading and decoding the frames and samples of a file that the processor takes, by a decoder alone."""
    clip = processor.load_clip(file)
    times, start, end = clip.frame_times.tolist(), clip.start, clip.end

    def with_torchcodec() -> tuple:
        frames = decoders.VideoDecoder(file, seek_mode="exact").get_frames_played_at(times).data
        return frames, decoders.AudioDecoder(file).get_samples_played_in_range(start, end).data

    def with_pyav() -> tuple:
        import av

        frames, samples, wanted = [], [], [*times, float("inf")]
        reformatter = av.video.reformatter.VideoReformatter()  # one for all frames: `to_ndarray` makes one for each
        with av.open(file) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                while frame.time >= wanted[0] - 1e-6:
                    frames.append(reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray())
                    wanted.pop(0)
                if len(wanted) == 1:
                    break
            container.seek(0)
            for part in container.decode(audio=0):
                if part.time >= end:
                    break
                samples.append(part.to_ndarray())
        return np.stack(frames), np.concatenate(samples, axis=1)

    decoders = torchcodec_decoders()
    return {"pyav": with_pyav} | ({} if decoders is None else {"torchcodec": with_torchcodec})


def research_pipeline(clip: Clip, extractor: MAAVTFeatureExtractor) -> tuple[torch.Tensor, torch.Tensor]:
    """One decoded clip: librosa resamples and transforms the waveform, Pillow resizes the frames one by one."""
    import librosa

    waveform = clip.waveform.numpy()
    if clip.sampling_rate != extractor.sampling_rate:
        waveform = librosa.resample(waveform, orig_sr=clip.sampling_rate, target_sr=extractor.sampling_rate)
    spectrogram = research_spectrogram(waveform, extractor)
    frames = []
    for frame in clip.frames.permute(0, 2, 3, 1).numpy():
        image = Image.fromarray(frame).resize((224, 224), Image.BILINEAR)
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
        frames.append((torch.from_numpy(pixels) - 0.5) / 0.5)
    return torch.stack(frames), torch.from_numpy(spectrogram)


def research_spectrogram(waveform: np.ndarray, extractor: MAAVTFeatureExtractor) -> np.ndarray:
    import librosa

    length = extractor.num_frames * extractor.hop_length
    waveform = waveform[max(0, (len(waveform) - length) // 2) :][:length]
    waveform = np.clip(np.pad(waveform, (0, length - len(waveform))), -1, 1)
    spectrum = librosa.stft(
        waveform, n_fft=extractor.n_fft, hop_length=extractor.hop_length, win_length=extractor.win_length
    )
    spectrogram = np.log(np.abs(spectrum) + extractor.log_offset)[:, : extractor.num_frames]
    return (spectrogram - spectrogram.mean()) / spectrogram.std()


def overhead(files: list[str], processor: MAAVTProcessor, repeats: int) -> dict[str, float]:
    """How much longer than decoding alone it takes to get from files to inputs, in batches of 8.

    `processor.overhead` is over the faster decoder on these clips; the others are over each of them.
    """
    bare = [bare_decoders(file, processor) for file in files]
    groups = [files[first : first + 8] for first in range(0, len(files), 8)]

    def alone(name: str) -> None:
        for decoders in bare:
            decoders[name]()

    def whole() -> dict:
        for group in groups:
            batch = processor(clips=group)
        return batch

    seconds = interleaved({name: partial(alone, name) for name in bare[0]} | {"processor": whole}, repeats)
    added = {name: ratio(seconds, "processor", name) - 1 for name in bare[0]}
    return {
        "processor.overhead": max(added.values()),
        **{f"processor.overhead.{name}": value for name, value in added.items()},
        "processor.clips_per_second": len(files) / median(seconds["processor"]),
        **{f"processor.bare_clips_per_second.{name}": len(files) / median(seconds[name]) for name in bare[0]},
    }


def side_by_side(files: list[str], processor: MAAVTProcessor, repeats: int) -> dict[str, float]:
    """How much faster batches of 8 files are read with every core than with one."""

    def batches(threads: int) -> dict:
        torch.set_num_threads(threads)
        for first in range(0, len(files), 8):
            batch = processor(clips=files[first : first + 8])
        return batch

    cores = os.cpu_count() or 1
    seconds = interleaved({"one": partial(batches, 1), "all": partial(batches, cores)}, repeats)
    torch.set_num_threads(1)
    return {
        "processor.all_cores.speedup": ratio(seconds, "one", "all"),
        "processor.all_cores.clips_per_second": len(files) / median(seconds["all"]),
    }


def skipped_frames(files: list[str], repeats: int) -> dict[str, float]:
    """How many times longer decoding takes if every frame is decoded, not only those that are needed."""

    def load() -> None:
        for file in files:
            load_clip(file, ClipRequest(num_frames=NUM_FRAMES, decoder="pyav"))

    def load_with_every_frame() -> None:
        with mock.patch.object(PyAVFile, "_needed_run", PyAVFile._full_run):
            load()

    return {
        "processor.decoding_less.speedup": ratio(
            interleaved({"all": load_with_every_frame, "less": load}, repeats), "all", "less"
        )
    }


def without_decoding(files: list[str], processor: MAAVTProcessor, repeats: int) -> dict[str, float]:
    """Speed beside the research pipeline, on decoded frames with waveforms at 44.1 kHz, and from files."""
    from processing.clips import _resampler

    extractor = processor.feature_extractor
    clips = [load_clip(file, ClipRequest(num_frames=NUM_FRAMES)) for file in files]
    to_44100 = [_resampler(clip.sampling_rate, 44100)(clip.waveform) for clip in clips]
    clips = [
        Clip(frames=clip.frames, waveform=waveform, sampling_rate=44100)
        for clip, waveform in zip(clips, to_44100, strict=True)
    ]
    resample = _resampler(44100, extractor.sampling_rate)

    def with_processor() -> dict:
        for first in range(0, len(clips), 8):
            group = clips[first : first + 8]
            batch = processor(
                videos=[clip.frames for clip in group],
                audio=[resample(clip.waveform) for clip in group],
                sampling_rate=extractor.sampling_rate,
            )
        return batch

    def research() -> None:
        for clip in clips:
            research_pipeline(clip, extractor)

    seconds = interleaved({"research": research, "processor": with_processor}, repeats)
    torch.set_num_threads(os.cpu_count() or 1)  # the research pipeline works on one clip at a time
    all_cores = interleaved({"research": research, "processor": with_processor}, repeats)
    torch.set_num_threads(1)

    def research_from_files() -> None:
        for file in files:
            research_pipeline(load_clip(file, ClipRequest(num_frames=NUM_FRAMES)), extractor)

    def processor_from_files() -> dict:
        for first in range(0, len(files), 8):
            batch = processor(clips=files[first : first + 8])
        return batch

    end_to_end = interleaved({"research": research_from_files, "processor": processor_from_files}, repeats)
    waveforms = [resample(clip.waveform)[: 3 * extractor.sampling_rate] for clip in clips]
    arrays = [waveform.numpy() for waveform in waveforms]
    spectrograms = interleaved(
        {
            "librosa": lambda: [research_spectrogram(array, extractor) for array in arrays],
            "processor": lambda: extractor(waveforms, sampling_rate=extractor.sampling_rate),
        },
        repeats,
    )
    return {
        "processor.speedup": ratio(seconds, "research", "processor"),
        "processor.speedup.all_cores": ratio(all_cores, "research", "processor"),
        "processor.speedup.end_to_end": ratio(end_to_end, "research", "processor"),
        "processor.clips_per_second.decoded": len(files) / median(seconds["processor"]),
        "spectrogram.speedup": ratio(spectrograms, "librosa", "processor"),
        "spectrogram.clips_per_second": len(files) / median(spectrograms["processor"]),
    }


def measure(folder: str | None = None, repeats: int = 5) -> dict[str, float | str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as demo:
            files = clip_files(folder, demo)
            processor = build_processor()
            results = overhead(files, processor, repeats) | skipped_frames(files, repeats)
            results |= side_by_side(files, processor, repeats) | without_decoding(files, processor, repeats)
            source = "demo" if str(files[0]).startswith(demo) else Path(files[0]).parents[1].name
            return results | {"processor.clips": source}
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips")
    print(json.dumps(measure(parser.parse_args().clips)))
