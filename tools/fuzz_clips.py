# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Decode damaged clips for a given time, and count crashes, hangs and exceptions that are no `ClipError`.

    python tools/fuzz_clips.py --seconds 600 --tries 10000 --keep found --output results/fuzz.md

The ffmpeg command line writes one small file of each kind. Each try damages one of them at random (`--seed`) and decodes
it in a process that may die. `--keep` is a folder for the files that did harm, with the number of the try in their names.
"""

import argparse
import multiprocessing
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from processing import clip_decoders  # noqa: E402
from processing.clips import ClipError, ClipRequest, load_clip, probe_clip  # noqa: E402


TIME_LIMIT = 20.0  # seconds for one try
MEMORY_LIMIT = 1 << 30  # bytes by which one try may enlarge its process
HARM = ("crash", "hang", "foreign", "memory")

X264 = "-c:v libx264 -pix_fmt yuv420p -g 12"
# file name: encoders and options of the ffmpeg command line. A name that begins with `a_` holds audio alone.
KINDS = {
    "h264_aac.mp4": f"{X264} -c:a aac",
    "h264_fragments.mp4": f"{X264} -c:a aac -movflags frag_keyframe+empty_moov",
    "h264_open_gop.mp4": f"{X264} -bf 3 -x264-params open-gop=1 -c:a aac -ac 2",
    "hevc_aac.mp4": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none -c:a aac",
    "av1_opus.mp4": "-c:v libaom-av1 -cpu-used 8 -pix_fmt yuv420p -c:a libopus",
    "h264_surround.mov": f"{X264} -c:a aac -ac 8",
    "mjpeg_pcm.mov": "-c:v mjpeg -pix_fmt yuvj420p -c:a pcm_s16le",
    "prores_alac.mov": "-c:v prores -c:a alac",
    "h264_flac.mkv": f"{X264} -c:a flac",
    "ffv1_vorbis.mkv": "-c:v ffv1 -c:a libvorbis -ac 2",
    "vp8_vorbis.webm": "-c:v libvpx -pix_fmt yuv420p -c:a libvorbis",
    "vp9_opus.webm": "-c:v libvpx-vp9 -cpu-used 8 -pix_fmt yuv420p -c:a libopus -ac 8",
    "h264_mp3.avi": f"{X264} -bf 2 -c:a libmp3lame",
    "mpeg4_pcm.avi": "-c:v mpeg4 -bf 2 -c:a pcm_s16le",
    "h264_fields.mp4": f"{X264} -flags +ilme+ildct -x264-params tff=1 -an",
    "h264_refresh.mkv": f"{X264} -x264-params intra-refresh=1:bframes=0 -an",
    "hevc_open_gop.mkv": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:open-gop=1:keyint=10 -an",
    "h264_aac.ts": f"{X264} -c:a aac",
    "hevc_aac.ts": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none -c:a aac",
    "mpeg2_ac3.ts": "-c:v mpeg2video -bf 2 -c:a ac3",
    "mpeg1_mp2.mpg": "-c:v mpeg1video -c:a mp2",
    "mpeg2_mp2.mpg": "-c:v mpeg2video -bf 2 -c:a mp2",
    "h264_mp2.mpg": f"{X264} -bf 3 -c:a mp2",
    "flv1_mp3.flv": "-c:v flv -c:a libmp3lame",
    "h264_aac.flv": f"{X264} -c:a aac",
    "wmv2_wma.asf": "-c:v wmv2 -c:a wmav2",
    "h264_mp2.asf": f"{X264} -bf 3 -c:a mp2",
    "mpeg4_mp2.wtv": "-c:v mpeg4 -bf 2 -c:a mp2",
    "theora_vorbis.ogv": "-c:v libtheora -pix_fmt yuv420p -c:a libvorbis",
    "mpeg2_pcm.mxf": "-c:v mpeg2video -c:a pcm_s16le",
    "h264_pcm.mxf": f"{X264} -bf 3 -c:a pcm_s16le",
    "h264_aac.nut": f"{X264} -c:a aac",
    "h263_aac.3gp": "-c:v h263 -s 176x144 -c:a aac",
    "gif.gif": "-c:v gif -an",
    "raw.h264": f"{X264} -an",
    "raw.hevc": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none -an",
    "a_pcm.wav": "-c:a pcm_s24le",
    "a_pcm_surround.mov": "-af aformat=channel_layouts=7.1 -c:a pcm_s16be",
    "a_adpcm.wav": "-c:a adpcm_ms",
    "a_mp3.mp3": "-c:a libmp3lame -write_xing 0",
    "a_aac.aac": "-c:a aac",
    "a_aac.m4a": "-c:a aac -ac 6",
    "a_flac.flac": "-c:a flac",
    "a_opus.ogg": "-c:a libopus -ac 2",
    "a_ac3.ac3": "-c:a ac3",
    "a_pcm.aiff": "-c:a pcm_s16be",
    "a_alac.caf": "-c:a alac",
    "a_mulaw.au": "-c:a pcm_mulaw",
    "a_wavpack.wv": "-c:a wavpack",
}


def write_kinds(folder: Path, sound: str = "sine=frequency=440:sample_rate=48000:duration=1") -> dict[str, Path]:
    """One file of each kind that the ffmpeg here can write: 25 frames of a test pattern, and a second of `sound`."""
    files = {}
    for name, options in KINDS.items():
        video = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=25:duration=1"]
        audio = ["-f", "lavfi", "-i", sound]
        inputs = audio if name.startswith("a_") else [*video, *audio]
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *inputs, *options.split(), str(folder / name)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            files[name] = folder / name
    return files


def damage(data: bytes, other: bytes, random_: random.Random) -> bytes:
    """One to four kinds of damage after each other."""
    changed = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        size = len(changed)
        if size < 16:
            break
        # Headers decide more than payload does: half of the damage lies near one end.
        place = random_.choice((random_.randrange(size), random_.randrange(min(size, 1024)), size - 16))
        length = min(random_.choice((1, 4, 64, 1024)), size - place)
        kind = random_.randrange(7)
        if kind == 0:  # cut off
            del changed[max(place, 16) :]
        elif kind == 1:  # noise
            changed[place : place + length] = random_.randbytes(length)
        elif kind == 2:  # a lost block
            del changed[place : place + length]
        elif kind == 3:  # a doubled block
            changed[place:place] = changed[place : place + length]
        elif kind == 4:  # the largest and smallest numbers
            changed[place : place + 4] = random_.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        elif kind == 5:  # a part of another file
            changed[place : place + length] = other[place % len(other) :][:length]
        else:  # single bits
            for _ in range(random_.randint(1, 20)):
                changed[random_.randrange(size)] ^= 1 << random_.randrange(8)
    return bytes(changed)


def decode(data: bytes, path: Path, random_: random.Random, decoder: str) -> str:
    """What became of one file: "decoded", "refused", or the exception that is no `ClipError`."""
    source = data
    if random_.random() < 0.5:
        path.write_bytes(data)
        source = path
    requests = (
        ClipRequest(decoder=decoder, on_missing="none", num_frames=4, sampling_rate=16000),
        ClipRequest(decoder=decoder, on_missing="none"),
        ClipRequest(0.3, 0.7, fps=10, decoder=decoder, on_missing="none"),
    )
    try:
        probe_clip(source, decoder=decoder)
        load_clip(source, random_.choice(requests))
    except ClipError:
        return "refused"
    except Exception as error:
        return f"foreign: {type(error).__name__}: {error}"
    return "decoded"


def make_try(number: int, seed: int, files: dict[str, bytes], decoders: list[str]) -> tuple:
    """-> (kind, decoder, data, generator): all that try `number` needs, the same in every process."""
    random_ = random.Random(f"{seed} {number}")
    kind, other = random_.choice(list(files)), random_.choice(list(files.values()))
    decoder = decoders[number % len(decoders)]
    return kind, decoder, damage(files[kind], other, random_), random_


def work(connection, seed: int, files: dict[str, bytes], decoders: list[str], folder: str) -> None:
    """Answer numbers of tries with what became of them, until the connection closes."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the decoders write a line for each bad packet
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        kind, decoder, data, random_ = make_try(number, seed, files, decoders)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = decode(data, Path(folder) / f"{os.getpid()}_{kind}", random_, decoder)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        connection.send("memory" if grown * 1024 > MEMORY_LIMIT else result)


class Worker:
    """A process that decodes. It is replaced when it dies or takes too long."""

    def __init__(self, *arguments):
        self._arguments = arguments
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, number: int) -> str:
        """What became of one try."""
        self._connection.send(number)
        result = "hang"
        if self._connection.poll(TIME_LIMIT):
            try:
                return self._connection.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                result = f"crash: signal {-(self._process.exitcode or 0)}"
        self.close()
        self._start()
        return result

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def fuzz(seconds: float, seed: int, keep: Path | None = None, tries: int = 0) -> tuple[dict[str, Counter], list[str]]:
    """-> (results by kind of file, one line for each file that did harm); as long as both limits say."""
    counts: dict[str, Counter] = defaultdict(Counter)
    lines: list[str] = []
    decoders = ["pyav", "torchcodec"] if clip_decoders.torchcodec_decoders() else ["pyav"]
    with tempfile.TemporaryDirectory() as folder:
        files = {name: path.read_bytes() for name, path in write_kinds(Path(folder)).items()}
        worker, number, end = Worker(seed, files, decoders, folder), 0, time.monotonic() + seconds
        while time.monotonic() < end or number < tries:
            result = worker.run(number)
            kind, decoder, data, _ = make_try(number, seed, files, decoders)
            outcome = result.split(":")[0]
            counts[kind][outcome] += 1
            counts[kind][decoder] += 1
            if outcome in HARM:
                lines.append(f"try {number}, {kind}, {decoder}: {result}")
                print(lines[-1], flush=True)
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{number}_{kind}").write_bytes(data)
            number += 1
        worker.close()
    return counts, lines


def report(counts: dict[str, Counter], lines: list[str], command: str) -> str:
    """The counts in Markdown."""
    import av

    torchcodec = clip_decoders.torchcodec_decoders() and __import__("torchcodec").__version__
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split(" Copyright")[0]
    total = sum(counts.values(), Counter())
    tries = sum(total[name] for name in ("decoded", "refused", *HARM))
    columns = ("pyav", "torchcodec", "decoded", "refused", *HARM)
    rows = [
        "# Damaged clips",
        "",
        f"`{command}`: {tries:,} tries, {len(counts)} kinds of file, at most {TIME_LIMIT:g} s and "
        f"{MEMORY_LIMIT >> 30} GiB a try.",
        f"Python {platform.python_version()}, PyAV {av.__version__}, torchcodec {torchcodec}, {ffmpeg}.",
        "",
        f"| kind | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for kind, row in [*sorted(counts.items()), ("all", total)]:
        rows.append(f"| {kind} | {' | '.join(str(row[name]) for name in columns)} |")
    return "\n".join([*rows, *(f"\n- {line}" for line in lines)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long to try")
    parser.add_argument("--tries", type=int, default=0, help="go on until so many are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that did harm")
    parser.add_argument("--output", type=Path, help="write the counts to this Markdown file")
    arguments = parser.parse_args()
    counts, lines = fuzz(arguments.seconds, arguments.seed, arguments.keep, arguments.tries)
    options = f"--seconds {arguments.seconds:g} --tries {arguments.tries} --seed {arguments.seed}"
    text = report(counts, lines, f"python tools/fuzz_clips.py {options}")
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
