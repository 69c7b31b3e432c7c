# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures in README, docs and results are those of the committed tables, and the tables are those of the committed JSON."""

import json
import re
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "results/README.md", *(f"docs/{page.name}" for page in sorted(REPOSITORY.glob("docs/*.md")))]
TABLES = [
    path
    for folder in ("results", "benchmarks/results")
    for path in sorted((REPOSITORY / folder).glob("*.md"))
    if path.with_suffix(".json").is_file() and "±" in path.read_text(encoding="utf-8")
]
NUMBER = r"[-+]?\d+\.\d+"
FIGURE = re.compile(rf"({NUMBER}) ± (\d+\.\d+)")
# a link to a table, or its name in backticks: `compare_drone`, `deepavfusion_pretraining_*`
SOURCE = re.compile(r"results/(\w+)\.md|\]\((\w+)\.md\)|`(\w+\*?)`")


def figures(text):
    """(mean, deviation) of a text, as written."""
    return [(mean.lstrip("+"), deviation) for mean, deviation in FIGURE.findall(text)]


def same(figure, known):
    """Whether a figure is a known pair, rounded to the figure's digits."""
    digits = len(figure[0].split(".")[1])
    return any(all(f"{float(k):.{digits}f}" == f for f, k in zip(figure, pair, strict=True)) for pair in known)


def named_tables(text):
    """Tables that a text names."""
    names = {name for names in SOURCE.findall(text) for name in names if name}
    return [table for table in TABLES for name in names if table.match(f"{name}.md")]


def untraced(text):
    """Figures that no table has, of those which the line names; else its paragraph, its heading or the page."""
    missing = []
    for section in re.split(r"^(?=#)", text, flags=re.MULTILINE):
        heading = section.partition("\n")[0] if section.startswith("#") else ""
        for block in re.split(r"\n\s*\n", section):
            for line in block.splitlines():
                tables = next(filter(None, map(named_tables, (line, block, heading, text))), [])
                known = [pair for table in tables for pair in table_figures(table)]
                missing += [(line[:80], figure) for figure in figures(line) if not same(figure, known)]
    return missing


def table_figures(table):
    """(mean, deviation) of a table's cells; a cell without a deviation has 0."""
    cells = [cell.strip() for line in table.read_text(encoding="utf-8").splitlines() for cell in line.split("|")]
    alone = [(cell, "0.0") for cell in cells if re.fullmatch(NUMBER, cell)]
    return alone + [pair for cell in cells for pair in figures(cell)]


def json_figures(node):
    """(mean, deviation) of all keys of a JSON that have a deviation beside them."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    found = [pair for child in children for pair in json_figures(child)]
    if isinstance(node, dict):
        found += [
            (node[key], node[key + ending])
            for key in node
            for ending in ("_spread", "_std")
            if node.get(key + ending) is not None
        ]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_figures_are_those_of_the_table_that_the_page_names(page):
    assert untraced((REPOSITORY / page).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_tables_are_those_of_their_json(table):
    known = json_figures(json.loads(table.with_suffix(".json").read_text(encoding="utf-8")))
    assert [figure for figure in figures(table.read_text(encoding="utf-8")) if not same(figure, known)] == []


def test_a_figure_from_nowhere_is_found():
    row = "LAVISH 0.867 ± 0.100, [drones](results/compare_drone.md)"
    assert not untraced(row)
    assert untraced(row.replace("0.867", "0.866")) and untraced(row.replace("compare_drone", "evidence_drone"))
    assert untraced("LAVISH 0.867 ± 0.100")


def test_the_table_of_speeds_is_a_committed_one():
    page = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    table = page.partition("<!-- benchmark table -->")[2].partition("<!-- end of benchmark table -->")[0].strip()
    committed = [path.read_text(encoding="utf-8").strip() for path in REPOSITORY.glob("benchmarks/results/*.md")]
    assert table and table in committed
