# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Compares two runs on the same clips: exact McNemar test, and a paired bootstrap over groups.

python -m training.tools.paired outputs/a/predictions.csv outputs/b/predictions.csv --out paired.json
python -m training.tools.paired outputs/a/predictions.csv outputs/a/predictions.csv --input audio both --noise clean

Prints one result per input and condition of sound that both files have; the difference is B minus A.
"""

import argparse
import json
from pathlib import Path

from processing.data.atomic_writing import write_text
from processing.metrics.paired_tests import mcnemar_test, paired_bootstrap
from training.common.predictions_file import read_predictions


def paired_by_clip(a: list[dict], b: list[dict], names: tuple[str, str]) -> list[tuple[dict, dict]]:
    """The records of each clip in A and B. Raises ValueError unless both hold the same clips with the same labels."""
    sides = []
    for name, records in zip(names, (a, b), strict=True):
        of_clip = {record["clip_id"]: record for record in records}
        if len(of_clip) < len(records):
            seen = [record["clip_id"] for record in records]
            double = next(clip for clip in seen if seen.count(clip) > 1)
            raise ValueError(f"{name}: clip_id {double!r} stands in it twice; clips need ids of their own")
        sides.append(of_clip)
    for name, mine, other in ((names[0], *sides), (names[1], *sides[::-1])):
        alone = sorted(mine.keys() - other.keys())
        if alone:
            raise ValueError(
                f"{name}: {len(alone)} of {len(mine)} clips are not in the other file, such as {alone[0]!r}; "
                "compare runs with the same test set (same data, split and split_seed)"
            )
    pairs = [(record, sides[1][clip]) for clip, record in sides[0].items()]
    for one, other in pairs:
        for key in ("label", "group"):
            if one[key] != other[key]:
                raise ValueError(
                    f"{names[1]}: clip {one['clip_id']!r} has {key} {other[key]!r}, and {one[key]!r} in {names[0]}; "
                    "compare runs on the same data"
                )
    return pairs


def compare(a: list[dict], b: list[dict], names: tuple[str, str], num_samples: int, seed: int) -> dict:
    """Accuracy of both, clips that one alone gets right, and both tests; the difference is B minus A."""
    pairs = paired_by_clip(a, b, names)
    right_a, right_b = (
        [record["predicted"] == record["label"] for record in side] for side in zip(*pairs, strict=True)
    )
    mcnemar = mcnemar_test(right_a, right_b)
    groups = [one["group"] for one, _ in pairs]
    drawn = paired_bootstrap(right_a, right_b, groups, num_samples=num_samples, seed=seed)
    return {
        "clips": len(pairs),
        "groups": drawn["groups"],
        "accuracy_a": sum(right_a) / len(pairs),
        "accuracy_b": sum(right_b) / len(pairs),
        "difference": drawn["difference"],
        "interval": drawn["interval"],
        "bootstrap_p": drawn["p_value"],
        "mcnemar_p": mcnemar["p_value"],
        "only_a_right": mcnemar["only_a_right"],
        "only_b_right": mcnemar["only_b_right"],
    }


def chosen_conditions(sides: list[dict], inputs: list[str] | None, noises: list[str] | None) -> list[tuple]:
    """Pairs ((input, noise) of A, (input, noise) of B) to compare. One name holds for both runs, two for A and for B.

    Pictures carry no noise: they stand in a file once, as "any", which goes with every condition of the other file.
    """

    def asked_for(condition: tuple[str, str], side: int) -> bool:
        streams, noise = condition
        return (inputs is None or streams == inputs[min(side, len(inputs) - 1)]) and (
            noises is None or noise in (noises[min(side, len(noises) - 1)], "any")
        )

    def comparable(a: tuple[str, str], b: tuple[str, str]) -> bool:
        same_input = a[0] == b[0] or len(inputs or []) == 2
        return same_input and (a[1] == b[1] or len(noises or []) == 2 or "any" in (a[1], b[1]))

    of_a, of_b = ([one for one in conditions if asked_for(one, side)] for side, conditions in enumerate(sides))
    return [(a, b) for a in of_a for b in of_b if comparable(a, b)]


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, help="predictions.csv of run A")
    parser.add_argument("b", type=Path, help="predictions.csv of run B")
    parser.add_argument("--input", nargs="+", help="input to compare (audio, video, both), or one for A and one for B")
    parser.add_argument("--noise", nargs="+", help="condition of sound (clean, -5), or one for A and one for B")
    parser.add_argument("--num_samples", type=int, default=10_000, help="draws of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", type=Path, help="JSON file to write besides printing")
    options = parser.parse_args(argv)
    for name in ("input", "noise"):
        if len(getattr(options, name) or []) > 2:
            parser.error(f"--{name}: give one name, or one for A and one for B")
    files = (options.a, options.b)
    sides = [read_predictions(file) for file in files]
    names = (str(options.a), str(options.b))
    if names[0] == names[1]:
        names = (f"{names[0]} (A)", f"{names[1]} (B)")
    results = [
        {
            "a": {"file": str(options.a), "input": a[0], "noise": a[1]},
            "b": {"file": str(options.b), "input": b[0], "noise": b[1]},
        }
        | compare(sides[0][a], sides[1][b], names, options.num_samples, options.seed)
        for a, b in chosen_conditions(sides, options.input, options.noise)
    ]
    if not results:
        has = [sorted(side) for side in sides]
        raise ValueError(f"nothing to compare: {options.a} has (input, sound) {has[0]}, {options.b} has {has[1]}")
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    if options.out:
        write_text(options.out, text)
    print(text, end="")
    return results


if __name__ == "__main__":
    main()
