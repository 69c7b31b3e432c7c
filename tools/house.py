# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A table of how the code is arranged: files, lengths, conditional expressions, comments and imports.

python tools/house.py                 # the working tree
python tools/house.py --before REV    # with a column for another revision, read from git
"""

import argparse
import ast
import io
import subprocess
import tokenize
from collections import Counter
from pathlib import Path, PurePosixPath


ROOT = Path(__file__).resolve().parents[1]
MODELS = ("modeling_maavt", "modeling_deepavfusion")
NOT_PRODUCT = ("tests", "benchmarks", "tools", "docs", "examples")
FORWARD = ("modeling_maavt", "MAAVTForAudioVisualClassification")

# Rule 2 of the design: which rooms a room may import. A room is a package, or an entry point at the root.
PROCESSING = ("processing", "processing.data", "processing.metrics", "processing.prepare", "processing.generate")
SHARED = ("training.common", "training.trainer")
RECIPES = ("training.maavt", "training.deepavfusion")
MAY_IMPORT = {
    "modeling_maavt": (),
    "modeling_deepavfusion": ("modeling_deepavfusion.convert_deepavfusion",),
    # No remote code: it starts both branches from what MA-AVT takes as its backbone.
    "modeling_deepavfusion.convert_deepavfusion": MODELS,
    "processing": (),
    "processing.metrics": ("processing",),
    "processing.data": ("processing", "processing.metrics"),
    "processing.generate": ("processing", "processing.data"),
    "processing.prepare": ("processing", "processing.data", "processing.metrics", "processing.generate"),
    "training.common": PROCESSING,
    "training.trainer": (*PROCESSING, "training.common"),
    "training.maavt": (*PROCESSING, *SHARED, *MODELS),
    "training.deepavfusion": (*PROCESSING, *SHARED, *MODELS),
    "training.tools": (*PROCESSING, *SHARED, *RECIPES, *MODELS),
    "predict": (*PROCESSING, *SHARED, *RECIPES, *MODELS),
    "train": (*PROCESSING, *SHARED, "training.maavt", *MODELS),
    "app": (*PROCESSING, *SHARED, *RECIPES, *MODELS, "predict"),
}


class House:
    """The Python files of a tree.

    Args:
        sources: text by path, relative to the root of the tree, with forward slashes.
    """

    def __init__(self, sources: dict[str, str]):
        self.sources = sources
        self.trees = {path: ast.parse(text) for path, text in sources.items()}
        self.files = {module_name(path): path for path in sources}
        self.imports = {path: self._imports(path) for path in sources}

    def _imports(self, path: str, of: ast.AST | None = None) -> dict[str, int]:
        """Paths that a file imports, with the line; imports for type checkers do not count."""
        package = path.split("/")[:-1]
        targets: dict[str, int] = {}
        for node in walk(of or self.trees[path]):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*start, *([node.module] if node.module else [])])
                # `from package import name`: the name may be a module
                submodules = [
                    f"{module}.{alias.name}" for alias in node.names if f"{module}.{alias.name}" in self.files
                ]
                names = submodules or [module]
            else:
                continue
            for name in names:
                if name in self.files and self.files[name] != path:
                    targets.setdefault(self.files[name], node.lineno)
        return targets

    def product(self) -> list[str]:
        return [path for path in self.sources if path.split("/")[0] not in NOT_PRODUCT]

    def under(self, package: str) -> list[str]:
        return [path for path in self.sources if path.startswith(f"{package}/")]

    def lines(self, paths: list[str]) -> int:
        return sum(len(self.sources[path].splitlines()) for path in paths)

    def conditional_expressions(self, paths: list[str]) -> float:
        """`a if c else b` per 1,000 lines."""
        count = sum(isinstance(node, ast.IfExp) for path in paths for node in ast.walk(self.trees[path]))
        return 1000 * count / max(self.lines(paths), 1)

    def comments(self, paths: list[str]) -> float:
        """Lines with a comment, in percent; the two lines of the license do not count."""
        count = 0
        for path in paths:
            tokens = tokenize.generate_tokens(io.StringIO(self.sources[path]).readline)
            count += sum(token.type == tokenize.COMMENT and not is_license(token.string) for token in tokens)
        return 100 * count / max(self.lines(paths), 1)

    def longest_function(self, paths: list[str]) -> tuple[int, str]:
        """Its lines and its name."""
        spans = [(0, "")]
        for path in paths:
            for node in ast.walk(self.trees[path]):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    spans.append((node.end_lineno - node.lineno + 1, f"{path}: {node.name}"))
        return max(spans)

    def longest_file(self, paths: list[str]) -> tuple[int, str]:
        return max([(self.lines([path]), path) for path in paths], default=(0, ""))

    def circles(self) -> list[list[str]]:
        """Groups of files that import each other, directly or through others."""
        reached = {path: self._reachable(path) for path in self.sources}
        circles, seen = [], set()
        for path in self.sources:
            if path in seen or path not in reached[path]:
                continue
            circle = [other for other in reached[path] if path in reached[other]]
            seen.update(circle)
            circles.append(sorted(circle))
        return circles

    def _reachable(self, path: str) -> set[str]:
        """Files that an import of this file leads to; the file itself only through a circle."""
        reached, waiting = set(), list(self.imports[path])
        while waiting:
            target = waiting.pop()
            if target not in reached:
                reached.add(target)
                waiting.extend(self.imports[target])
        return reached

    def arrows_back(self) -> list[str]:
        """Imports that `MAY_IMPORT` does not allow, as `file:line imports file`."""
        arrows = []
        for path in self.product():
            room = room_of(path)
            for target, line in self.imports[path].items():
                other = room_of(target)
                allowed = None in (room, other) or other == room or other in MAY_IMPORT[room]
                if not allowed:
                    arrows.append(f"{path}:{line} imports {target}")
        return arrows

    def files_of_forward(self, package: str, name: str) -> list[str]:
        """Files of the package to read to follow a class: those with the functions and classes that it uses.

        A name counts as used wherever the definition, its base classes or its methods mention it.
        """
        definitions = {}
        for path in self.under(package):
            if path.endswith("__init__.py"):
                continue
            for node in self.trees[path].body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    definitions.setdefault(node.name, (path, node))
        start = definitions.get(name)
        if start is None:
            return []
        waiting, used = [name], set()
        while waiting:
            current = waiting.pop()
            if current in used:
                continue
            used.add(current)
            for node in ast.walk(definitions[current][1]):
                if isinstance(node, ast.Name) and node.id in definitions:
                    waiting.append(node.id)
        return sorted({definitions[used_name][0] for used_name in used})


def walk(tree: ast.AST):
    """Every node, without the bodies of `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def is_license(comment: str) -> bool:
    return comment.startswith(("# Copyright", "# SPDX"))


def module_name(path: str) -> str:
    """`processing/data/splits.py` as `processing.data.splits`, and a package by its folder."""
    return ".".join(PurePosixPath(path).with_suffix("").parts).removesuffix(".__init__")


def room_of(path: str) -> str | None:
    """The key of `MAY_IMPORT` that a file belongs to; None for a file that may import and be imported everywhere."""
    parts = module_name(path).split(".")
    while parts and ".".join(parts) not in MAY_IMPORT:
        parts = parts[:-1]
    return ".".join(parts) or None


def git(*arguments: str, root: Path = ROOT) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def read_tree(root: Path = ROOT) -> House:
    """The tracked and new files of the working tree."""
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "*.py", root=root).splitlines()
    return House(
        {name: (root / name).read_text(encoding="utf-8") for name in sorted(names) if (root / name).is_file()}
    )


def read_revision(revision: str, root: Path = ROOT) -> House:
    names = git("ls-tree", "-r", "--name-only", revision, root=root).splitlines()
    return House({name: git("show", f"{revision}:{name}", root=root) for name in names if name.endswith(".py")})


def rows(house: House) -> dict[str, str]:
    """The cells of the table by the name of their row."""
    product = house.product()
    models = [path for package in MODELS for path in house.under(package)]
    files, function_lines = house.longest_file(product), house.longest_function(product)
    cells = {"product code, lines": f"{house.lines(product):,}"}
    folders = Counter(str(PurePosixPath(path).parent) for path in product)
    for folder in sorted(folders):
        cells[f"files in `{'the root' if folder == '.' else folder}`"] = str(folders[folder])
    cells["longest file"] = f"{files[0]} ({files[1]})"
    cells["longest function"] = f"{function_lines[0]} ({function_lines[1]})"
    for what, paths in (("product code", product), ("model packages", models)):
        cells[f"conditional expressions per 1,000 lines, {what}"] = f"{house.conditional_expressions(paths):.1f}"
        cells[f"comments, {what}"] = f"{house.comments(paths):.1f} %"
    cells["import circles"] = str(len(house.circles()))
    cells["arrows back"] = str(len(house.arrows_back()))
    cells[f"files to follow `{FORWARD[1]}.forward`"] = str(len(house.files_of_forward(*FORWARD)))
    return cells


def table(columns: dict[str, dict[str, str]]) -> str:
    """A Markdown table with one column for each tree."""
    names = list(dict.fromkeys(name for cells in columns.values() for name in cells))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | {' | '.join(cells.get(name, '') for cells in columns.values())} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="REV", help="a revision of git")
    before = parser.parse_args().before
    columns = {}
    if before:
        columns["before"] = rows(read_revision(before))
    house = read_tree()
    columns["now"] = rows(house)
    print(table(columns))
    for circle in house.circles():
        print("circle:", ", ".join(circle))
    for arrow in house.arrows_back():
        print("arrow back:", arrow)


if __name__ == "__main__":
    main()
