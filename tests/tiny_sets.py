# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets of a few clips in the true file formats of their distributors, with clips that are missing or broken."""

import csv
import json
import os
import shutil
import struct
import types
import uuid
from pathlib import Path

import numpy as np
from clip_factory import numbered_frames, tone, write_numbered
from PIL import Image

from processing.generate.clip_writing import write_clip
from processing.prepare.scan import Facts, Job


class ClipCopies:
    """Encodes a clip of each kind once, and copies it; every good copy has other bytes."""

    def __init__(self, folder: Path, seconds: float = 1.0):
        folder.mkdir(parents=True, exist_ok=True)
        self.seconds = seconds
        self._good = write_numbered(folder / "good.mp4", seconds, fps=5)
        self._silent = write_clip(
            folder / "silent.mp4", numbered_frames(round(5 * seconds)), np.zeros(round(16000 * seconds)), fps=5
        )
        self._mute = write_numbered(folder / "mute.mp4", seconds, fps=5, sound=False)
        self._flv = _as_flv(self._good, folder / "good.flv")
        self._wav = write_clip(folder / "good.wav", waveform=tone(seconds))

    def good(self, path: Path) -> Path:
        """A clip that is like no other: an mp4 ends in a `free` box of its own, a wav in a chunk of its own."""
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = uuid.uuid5(uuid.NAMESPACE_URL, path.name).bytes
        if path.suffix == ".flv":
            return _as_flv(self._good, path, title=path.name)
        if path.suffix == ".wav":
            data = self._wav.read_bytes() + b"note" + struct.pack("<I", len(mark)) + mark
            path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
        else:
            path.write_bytes(self._good.read_bytes() + struct.pack(">I", 8 + len(mark)) + b"free" + mark)
        return path

    def silent(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".wav":
            return write_clip(path, waveform=np.zeros(round(16000 * self.seconds)))
        shutil.copyfile(self._silent, path)
        return path

    def mute(self, path: Path) -> Path:
        """No sound track."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._mute, path)
        return path

    def truncated(self, path: Path) -> Path:
        """The first third of a file, as a broken download leaves it."""
        whole = self.good(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 3])
        return path

    def copied(self, path: Path, of: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(of, path)
        return path


def write_ave(root: Path, clips: ClipCopies) -> Path:
    """Videos v0 to v9; v1 missing, v2 silent, v3 truncated, v4 a copy of v0, v5 in train and test, v9 two events."""
    lines = {
        "trainSet.txt": [
            "Church bell&v0&good&0&10",
            "Bark&v1&good&2&4",
            "Bark&v2&good&0&10",
            "Bark&v3&good&0&10",
            "Church bell&v4&good&0&10",
            "Bark&v5&good&0&10",
            "Truck&v6&good&3&5",
            "Banjo&v9&good&0&6",
            "Mandolin&v9&good&0&6",
        ],
        "valSet.txt": ["Truck&v7&good&0&10"],
        "testSet.txt": ["Bark&v8&good&0&0", "Bark&v5&good&0&10"],
    }
    root.mkdir(parents=True)
    for name, rows in lines.items():
        header = ["Category&VideoID&Quality&StartTime&EndTime"] if name == "trainSet.txt" else []
        (root / name).write_text("\n".join(header + rows) + "\n")
    extra = ["Bus&v10&good&0&10"]
    (root / "Annotations.txt").write_text("\n".join(dict.fromkeys(sum(lines.values(), []) + extra)))
    for name in ("v0", "v5", "v6", "v7", "v8", "v9"):
        clips.good(root / "AVE" / f"{name}.mp4")
    clips.silent(root / "AVE" / "v2.mp4")
    clips.truncated(root / "AVE" / "v3.mp4")
    clips.copied(root / "AVE" / "v4.mp4", root / "AVE" / "v0.mp4")
    return root


VGGSOUND_LABELS = ("bee, wasp, etc. buzzing", "male speech, man speaking", "playing piano")


def write_vggsound(root: Path, clips: ClipCopies) -> Path:
    """60 training and 6 test rows; the first training clips have the faults; `both` is a video of both sides."""
    root.mkdir(parents=True)
    rows = [(f"train{n:06d}", n, VGGSOUND_LABELS[n % 3], "train") for n in range(60)]
    rows += [(f"test-{n:06d}", n, VGGSOUND_LABELS[n % 3], "test") for n in range(6)]
    rows += [("both-000000", 30, "playing piano", "train"), ("both-000000", 70, "playing piano", "test")]
    rows.append(rows[10])  # listed twice
    lines = [
        f'{i},{start},"{label}",{split}' if "," in label else f"{i},{start},{label},{split}"
        for i, start, label, split in rows
    ]
    (root / "vggsound.csv").write_text("\n".join(lines) + "\n")
    folder = root / "video"
    for video_id, start, _, _ in dict.fromkeys(rows):
        clips.good(folder / f"{video_id}_{start:06d}.mp4")
    (folder / "train000000_000000.mp4").unlink()
    clips.silent(folder / "train000001_000001.mp4")
    clips.truncated(folder / "train000002_000002.mp4")
    clips.copied(folder / "train000003_000003.mp4", folder / "test-000000_000000.mp4")
    clips.mute(folder / "train000004_000004.mp4")
    return root


def vggsounder_package() -> types.ModuleType:
    """Answers as vggsounder 1.0 does: items() of video_id, labels, modalities; for the clips of `write_vggsound`."""
    labels, modalities = ["playing piano", VGGSOUND_LABELS[0]], ["A", "AV"]
    labeled = {f"test-{n:06d}_{n:06d}": types.SimpleNamespace(labels=labels, modalities=modalities) for n in range(3)}
    labeled["test-000003_000003"] = types.SimpleNamespace(labels=["playing piano"], modalities=["V"])
    labeled["test-000004_000004"] = types.SimpleNamespace(labels=["no such class"], modalities=["V"])
    module = types.ModuleType("vggsounder")
    module.VGGSounder = lambda: labeled
    return module


def write_crema_d(root: Path, clips: ClipCopies, actors=("1001", "1002", "1003", "1010", "1015")) -> Path:
    """Six emotions of each actor: VideoFlash/*.flv and AudioWAV/*.wav, SentenceFilenames.csv as in the repository.

    Of actor 1001: NEU has no picture, HAP no sound file, SAD is silent, FEA truncated, DIS a copy of ANG.
    """
    root.mkdir(parents=True)
    names = [f"{actor}_DFA_{emotion}_XX" for actor in actors for emotion in ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")]
    names += [f"{actors[0]}_IEO_HAP_{level}" for level in ("LO", "MD", "HI")]
    lines = ['"Stimulus_Number","Filename"'] + [f'{number},"{name}"' for number, name in enumerate(names, start=1)]
    (root / "SentenceFilenames.csv").write_text("\n".join(lines) + "\n")
    first = actors[0]
    for name in names:
        clips.good(root / "VideoFlash" / f"{name}.flv")
        clips.good(root / "AudioWAV" / f"{name}.wav")
    (root / "VideoFlash" / f"{first}_DFA_NEU_XX.flv").unlink()
    (root / "AudioWAV" / f"{first}_DFA_HAP_XX.wav").unlink()
    clips.silent(root / "AudioWAV" / f"{first}_DFA_SAD_XX.wav")
    clips.truncated(root / "VideoFlash" / f"{first}_DFA_FEA_XX.flv")
    for folder, suffix in (("VideoFlash", "flv"), ("AudioWAV", "wav")):
        original = root / folder / f"{first}_DFA_ANG_XX.{suffix}"
        clips.copied(root / folder / f"{first}_DFA_DIS_XX.{suffix}", original)
    return root


def write_kinetics_sounds(root: Path, clips: ClipCopies) -> Path:
    """Kinetics' train.csv and val.csv and a list of two classes; files in class folders, flat, with and without times.

    k0 missing, k1 silent, k2 truncated, k3 a copy of k4, k5 without sound; `longer` is an uncut video.
    """
    root.mkdir(parents=True)
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    labels = ("playing piano", "tap dancing", "archery")
    train = [(labels[n % 2], f"k{n}", n, n + 10) for n in range(40)] + [("archery", "arrow", 0, 10)]
    train.append(("tap dancing", "longer", 1, 2))
    val = [(labels[n % 2], f"val{n}", n, n + 10) for n in range(4)]
    for name, rows, split in (("train.csv", train, "train"), ("val.csv", val, "val")):
        lines = [header] + [f"{label},{video_id},{a},{b},{split},0" for label, video_id, a, b in rows]
        (root / name).write_text("\n".join(lines) + "\n")
    (root / "classes.csv").write_text("label\nplaying piano\ntap dancing\n")
    for label, video_id, a, b in train + val:
        if label == "archery" or video_id in ("k0", "longer"):
            continue
        folder = root / "train" / label if video_id.startswith("k") else root / "val"
        name = video_id if video_id == "k7" else f"{video_id}_{a:06d}_{b:06d}"
        clips.good(folder / f"{name}.mp4")
    write_numbered(root / "train" / "longer.mp4", 4.0, fps=5)
    clips.silent(root / "train" / "tap dancing" / "k1_000001_000011.mp4")
    clips.truncated(root / "train" / "playing piano" / "k2_000002_000012.mp4")
    original = root / "train" / "playing piano" / "k4_000004_000014.mp4"
    clips.copied(root / "train" / "tap dancing" / "k3_000003_000013.mp4", original)
    clips.mute(root / "train" / "tap dancing" / "k5_000005_000015.mp4")
    return root


AUDIOSET_CLASSES = (("/m/09x0r", "Speech"), ("/m/05zppz", "Male speech, man speaking"), ("/m/0dgw9r", "Human sounds"))


def write_audioset(root: Path, clips: ClipCopies) -> Path:
    """Segment lists with their three comment lines, class_labels_indices.csv and ontology.json.

    a0 missing, a1 silent, a2 truncated, a3 a copy of a4; every fifth clip is `Human sounds`; eval repeats video a6.
    """
    root.mkdir(parents=True)
    speech, man, human = (mid for mid, _ in AUDIOSET_CLASSES)
    head = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n"
        "# num_ytids=30, num_segs=30, num_unique_labels=3, num_positive_labels=54\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    train = [(f"a{n}", 30.0 + n, 40.0 + n, human if n % 5 == 0 else f"{speech},{man}") for n in range(30)]
    tests = [(f"-e{n}", 0.0, 10.0, human if n else speech) for n in range(3)] + [("a6", 90.0, 100.0, speech)]
    for name, rows in (("balanced_train_segments.csv", train), ("eval_segments.csv", tests)):
        (root / name).write_text(head + "".join(f'{i}, {a:.3f}, {b:.3f}, "{mids}"\n' for i, a, b, mids in rows))
    (root / "unbalanced_train_segments.csv").write_text(head + f'u0, 0.000, 10.000, "{man}"\n')
    lines = ["index,mid,display_name"] + [f'{n},{mid},"{name}"' for n, (mid, name) in enumerate(AUDIOSET_CLASSES)]
    (root / "class_labels_indices.csv").write_text("\n".join(lines) + "\n")
    ontology = [{"id": mid, "name": name, "child_ids": [], "restrictions": []} for mid, name in AUDIOSET_CLASSES]
    ontology.insert(0, {"id": "/m/0abstract", "name": "Abstract", "child_ids": [], "restrictions": ["abstract"]})
    (root / "ontology.json").write_text(json.dumps(ontology))
    names = [f"a{n}_{30000 + 1000 * n}_{40000 + 1000 * n}" for n in range(30)]
    names[6], names[7], names[8] = "a6_000036", "a7_000037_000047", "Ya8"
    for name in [*names[1:], "-e0_000000", "-e1_000000", "-e2_000000", "a6_000090", "u0"]:
        clips.good(root / "clips" / f"{name}.mp4")
    clips.silent(root / "clips" / f"{names[1]}.mp4")
    clips.truncated(root / "clips" / f"{names[2]}.mp4")
    clips.copied(root / "clips" / f"{names[3]}.mp4", root / "clips" / f"{names[4]}.mp4")
    return root


def write_ravdess(root: Path, clips: ClipCopies, actors=("01", "02", "03", "12")) -> Path:
    """Actor_01/01-01-06-01-02-01-01.mp4 and so on: of each actor statement 01 of the first repetition, 15 clips.

    Of actor 01: neutral is silent, calm truncated, happy (normal) a copy of sad (normal). Sound-only and song files
    lie beside them.
    """
    for actor in actors:
        folder = root / f"Actor_{actor}"
        for emotion in range(1, 9):
            for intensity in ("01", "02") if emotion > 1 else ("01",):
                clips.good(folder / f"01-01-{emotion:02d}-{intensity}-01-01-{actor}.mp4")
        clips.good(folder / f"01-02-03-01-01-01-{actor}.mp4")
        clips.good(folder / f"03-01-03-01-01-01-{actor}.wav")
    folder = root / "Actor_01"
    clips.silent(folder / "01-01-01-01-01-01-01.mp4")
    clips.truncated(folder / "01-01-02-01-01-01-01.mp4")
    clips.copied(folder / "01-01-03-01-01-01-01.mp4", folder / "01-01-04-01-01-01-01.mp4")
    return root


def crash_on_bad(root: str, job: Job) -> Facts:
    """A check that ends its process on some clips, as a decoder's segmentation fault would."""
    if "bad" in job.video:
        os._exit(7)
    return Facts(has_video=True, has_audio=True, digests=(job.video,))


def _as_flv(source: Path, path: Path, title: str = "clip") -> Path:
    """The same streams in a Flash file."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        made.metadata["title"] = title
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)
    return path


# ---- AVSBench, as it is unpacked


def picture(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def five_seconds(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, waveform=tone(5.0))


def write_s4(folder, mask):
    """AVSBench-S4 of a training clip with one mask and a test clip with five; frame k is of gray 40 k."""
    table(
        folder / "s4_meta_data.csv",
        ["name", "category", "split"],
        [["v1", "dog", "train"], ["v2", "ukulele", "test"]],
    )
    for name, category, split, labeled in (("v1", "dog", "train", 1), ("v2", "ukulele", "test", 5)):
        clip = f"{split}/{category}/{name}"
        for number in range(1, 6):
            frame = np.full((*mask.shape, 3), 40 * number)
            picture(folder / "s4_data/visual_frames" / clip / f"{name}_{number}.png", frame)
            if number <= labeled:
                picture(folder / "s4_data/gt_masks" / clip / f"{name}_{number}.png", mask)
        five_seconds(folder / "s4_data/audio_wav" / f"{clip}.wav")
