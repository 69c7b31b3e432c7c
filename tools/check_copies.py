# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Keeps marked copies equal to their source: remote code is flat, so the packages of it cannot import each other.

    python tools/check_copies.py          # names the copies that differ, exit code 1 (make quality)
    python tools/check_copies.py --fix    # writes the source over them (make fix-copies)

A copy is a function or class under the comment `# Copied from package.file.Name`. Decorators belong to it. The code beside
the checkpoint in examples/digits is a copy, too: of the files that its model and processor import.
"""

import argparse
import ast
import re
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("modeling_maavt", "modeling_deepavfusion", "processing")
EXAMPLE = "examples/digits"
MARK = re.compile(r"^# Copied from ((?:\w+\.)+)(\w+)$")


def definitions(text: str) -> dict[str, tuple[int, int]]:
    """First and last line, from 0 and exclusive, of every function and class at the top level."""
    spans = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            spans[node.name] = (first - 1, node.end_lineno)
    return spans


def source_of(module: str, name: str, root: Path) -> list[str]:
    """The lines of a definition. Raises ValueError where there is none."""
    path = root / Path(*module.split(".")).with_suffix(".py")
    if not path.is_file():
        raise ValueError(f"{module}.{name}: no file {path.relative_to(root)}")
    text = path.read_text(encoding="utf-8")
    span = definitions(text).get(name)
    if span is None:
        raise ValueError(f"{module}.{name}: {path.relative_to(root)} defines no {name} at its top level")
    return text.splitlines()[slice(*span)]


def check_file(path: Path, root: Path, fix: bool) -> list[str]:
    """What is wrong with the copies in a file; rewrites the file where `fix` is true and copies differ."""
    text = path.read_text(encoding="utf-8")
    lines, spans, wrong = text.splitlines(), definitions(text), []
    by_first_line = {first: (name, last) for name, (first, last) in spans.items()}
    for number in reversed(range(len(lines))):
        mark = MARK.match(lines[number])
        if mark is None:
            continue
        module, name = mark.group(1)[:-1], mark.group(2)
        copy = by_first_line.get(number + 1)
        if copy is None:
            raise ValueError(f"{path.relative_to(root)}:{number + 1}: no function or class follows the mark")
        source = source_of(module, name, root)
        if lines[number + 1 : copy[1]] != source:
            wrong.append(f"{path.relative_to(root)}: {copy[0]} differs from {module}.{name}")
            lines[number + 1 : copy[1]] = source
    if wrong and fix:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return wrong


def check_example(root: Path, fix: bool) -> list[str]:
    """Files of the example that differ from those of the packages, or that its files import and do not find."""
    sources = {path.name: path for package in PACKAGES for path in (root / package).glob("*.py")}
    names, wrong = sorted(path.name for path in (root / EXAMPLE).glob("*.py")), []
    for name in names:  # grows: what a file imports comes after it
        text = sources[name].read_text(encoding="utf-8")
        names += {f"{module}.py" for module in re.findall(r"from \.(\w+) import", text)} - set(names)
        copy = root / EXAMPLE / name
        if copy.is_file() and copy.read_text(encoding="utf-8") == text:
            continue
        wrong.append(f"{EXAMPLE}/{name} differs from {sources[name].relative_to(root)}")
        if fix:
            copy.write_text(text, encoding="utf-8")
    return wrong


def check(root: Path, fix: bool) -> list[str]:
    """What is wrong in all packages and in the example."""
    in_packages = [
        line
        for package in PACKAGES
        for path in sorted((root / package).glob("*.py"))
        for line in check_file(path, root, fix)
    ]
    return in_packages + check_example(root, fix)


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", action="store_true", help="write the source over copies that differ")
    fix = parser.parse_args(argv).fix
    try:
        wrong = check(root, fix)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for line in wrong:
        print(f"{line}; {'written anew' if fix else 'run make fix-copies'}")
    return 1 if wrong and not fix else 0


if __name__ == "__main__":
    sys.exit(main())
