# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares two runs on the same clips: exact McNemar test, and a paired bootstrap over groups.

python -m training.tools.paired outputs/a/predictions.csv outputs/b/predictions.csv --out paired.json
python -m training.tools.paired outputs/a/predictions.csv outputs/a/predictions.csv --input audio both --noise clean

Prints one result for each input and condition of audio that both files have; the difference is B minus A. Labeled
segments are compared one by one.
"""

import argparse
import json
from pathlib import Path

from processing.data.atomic_writing import write_text
from processing.metrics.paired_tests import mcnemar_test, paired_bootstrap
from training.common.commands import run_command
from training.common.predictions_file import read_predictions


Condition = tuple[str, str]  # (input, noise)
Part = tuple[str, str | None]  # (clip_id, segment); None: the whole clip


def main(argv: list[str] | None = None) -> list[dict]:
    """Compare, print and write; returns the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, help="predictions.csv of run A")
    parser.add_argument("b", type=Path, help="predictions.csv of run B")
    parser.add_argument("--input", nargs="+", help="input to compare (audio, video, both), or one for A and one for B")
    parser.add_argument("--noise", nargs="+", help="condition of audio (clean, -5), or one for A and one for B")
    parser.add_argument("--num_samples", type=int, default=10_000, help="draws of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", type=Path, help="JSON file to write besides printing")
    options = parser.parse_args(argv)
    for name in ("input", "noise"):
        if len(getattr(options, name) or []) > 2:
            parser.error(f"--{name}: give one name, or one for A and one for B")

    # One file may be both runs: other inputs or conditions of it.
    files = [str(options.a), str(options.b)]
    names = (files[0], files[1])
    if files[0] == files[1]:
        names = (f"{files[0]} (A)", f"{files[1]} (B)")
    # Every pair of conditions that was asked for.
    of_a, of_b = read_predictions(options.a), read_predictions(options.b)
    results = []
    for a in of_a:
        for b in of_b:
            if comparable(a, b, options.input, options.noise):
                result = {
                    "a": {"file": files[0], "input": a[0], "noise": a[1]},
                    "b": {"file": files[1], "input": b[0], "noise": b[1]},
                }
                results.append(result | compare(of_a[a], of_b[b], names, options.num_samples, options.seed))
    if not results:
        raise ValueError(
            f"nothing to compare: {files[0]} has (input, audio) {sorted(of_a)}, {files[1]} has {sorted(of_b)}"
        )
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    if options.out:
        write_text(options.out, text)
    print(text, end="")
    return results


def comparable(a: Condition, b: Condition, inputs: list[str] | None, noises: list[str] | None) -> bool:
    """Whether condition `a` of run A is to be compared with `b` of run B. One name is for both runs, two are one each.

    Video has no noise: a file has it once, as "any", which goes with every condition of the other file.
    """
    for run, (streams, noise) in enumerate((a, b)):
        if inputs and streams != inputs[min(run, len(inputs) - 1)]:
            return False
        if noises and noise not in (noises[min(run, len(noises) - 1)], "any"):
            return False

    # Where no two names were given, both runs have the same input and condition.
    same_input = a[0] == b[0] or len(inputs or ()) == 2
    same_noise = a[1] == b[1] or len(noises or ()) == 2 or "any" in (a[1], b[1])
    return same_input and same_noise


def compare(a: list[dict], b: list[dict], names: tuple[str, str], num_samples: int, seed: int) -> dict:
    """Accuracy of both, clips (or segments) that one alone gets right, and both tests; the difference is B minus A."""
    pairs = paired_by_clip(a, b, names)
    right_a = [record["predicted"] == record["label"] for record, _ in pairs]
    right_b = [record["predicted"] == record["label"] for _, record in pairs]
    mcnemar = mcnemar_test(right_a, right_b)
    groups = [record["group"] for record, _ in pairs]
    bootstrap = paired_bootstrap(right_a, right_b, groups, num_samples=num_samples, seed=seed)
    counts = {"clips": len({record["clip_id"] for record, _ in pairs})}
    if "segment" in pairs[0][0]:
        counts["segments"] = len(pairs)
    return {
        **counts,
        "groups": bootstrap["groups"],
        "accuracy_a": sum(right_a) / len(pairs),
        "accuracy_b": sum(right_b) / len(pairs),
        "difference": bootstrap["difference"],
        "interval": bootstrap["interval"],
        "bootstrap_p": bootstrap["p_value"],
        "mcnemar_p": mcnemar["p_value"],
        "only_a_right": mcnemar["only_a_right"],
        "only_b_right": mcnemar["only_b_right"],
    }


def paired_by_clip(a: list[dict], b: list[dict], names: tuple[str, str]) -> list[tuple[dict, dict]]:
    """The records of each clip, or segment of a clip, in A and B.

    Raises:
        ValueError: a clip is in one of them only, or has another label or group there.
    """
    of_a, of_b = by_clip(a, names[0]), by_clip(b, names[1])
    # The same clips ...
    for name, clips, others in ((names[0], of_a, of_b), (names[1], of_b, of_a)):
        alone = sorted(clips.keys() - others.keys())
        if alone:
            kind = "clips" if alone[0][1] is None else "segments"
            raise ValueError(
                f"{name}: {len(alone)} of {len(clips)} {kind} are not in the other file, such as {described(alone[0])}; "
                "compare runs with the same test set (same data, split and split_seed)"
            )
    # ... of the same classes and groups.
    for part, record in of_a.items():
        for key in ("label", "group"):
            if record[key] != of_b[part][key]:
                raise ValueError(
                    f"{names[1]}: clip {described(part)} has {key} {of_b[part][key]!r}, and {record[key]!r} in "
                    f"{names[0]}; compare runs on the same data"
                )
    return [(record, of_b[part]) for part, record in of_a.items()]


def by_clip(records: list[dict], name: str) -> dict[Part, dict]:
    """Clip, or segment of a clip, to record. Raises ValueError where one is there twice."""
    clips: dict[Part, dict] = {}
    for record in records:
        part = (record["clip_id"], record.get("segment"))
        if part in clips:
            raise ValueError(f"{name}: clip_id {described(part)} stands in it twice; give each clip its own id")
        clips[part] = record
    return clips


def described(part: Part) -> str:
    """A clip or segment in a message."""
    clip, segment = part
    return repr(clip) if segment is None else f"{clip!r} segment {segment}"


if __name__ == "__main__":
    run_command(main)
