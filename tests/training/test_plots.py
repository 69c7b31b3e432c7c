# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""Class reports and pictures beside the table of a run."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_run import write_backbone, write_clips, write_config

from training.common import plots
from training.common.class_reports import write_class_reports
from training.common.plots import class_figure, confusion_figure, curve_figure, curves, main, plots_of_run, save_plots
from training.maavt.evaluation import Predictions, pair_records
from training.maavt.outputs import write_results


needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed (extra: plots)"
)
NAMES = ["=a $1", "b, c", "d"]
HISTORY = [
    {"epoch": 0.5, "step": 1, "loss": 2.0, "matching_loss": 0.7, "grad_norm": 1.0, "learning_rate": 1e-3},
    {"epoch": 1.0, "step": 2, "loss": 1.0, "matching_loss": 0.6, "grad_norm": 1.0, "learning_rate": 1e-3},
    {"epoch": 1.0, "step": 2, "eval_loss": 1.5, "eval_matching_loss": 0.65, "eval_top1": 0.5, "eval_threshold": 3.0,
     "eval_runtime": 1.0, "eval_samples_per_second": 9.0},
    {"epoch": 1.0, "step": 2, "train_loss": 1.5, "train_runtime": 3.0},
]  # fmt: skip


def write_run(folder: Path) -> Path:
    """The files of a run: sound alone first, then both, which is the main input; and a mismatched pair."""
    labels = [0, 0, 1, -100]
    pairs = [{"clip_id": str(i), "group": str(i), "label": c, "is_matched": c >= 0} for i, c in enumerate(labels)]
    records = []
    for streams, said in (("audio", [1, 1, 1, 1]), ("both", [0, 1, 1, 2])):
        found = Predictions(np.eye(3, dtype=np.float32)[said], np.zeros(4, dtype=np.float32), pairs)
        records += pair_records(found, NAMES, streams, "clean")
    write_results(folder, {"rows": [], "label_names": NAMES}, records)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    return folder


def test_class_reports_of_a_run(tmp_path):
    main_report, other = write_class_reports(write_run(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "class_report.json").read_text()) == [main_report, other]
    assert (main_report["input"], main_report["num_clips"], other["input"]) == ("both", 3, "audio")
    assert main_report["confusion_matrix"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert other["confusion_matrix"] == [[0, 2, 0], [0, 1, 0], [0, 0, 0]]
    text = (tmp_path / "run" / "class_report.md").read_text()
    assert "| b, c | 0.500 | 1.000 | 0.667 | 1 |" in text and "| d | - | - | - | 0 |" in text
    assert not list((tmp_path / "run").glob("*.part*"))


def test_class_reports_refuse_other_classes(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "results.json").write_text(json.dumps({"label_names": ["b, c", "d"]}))
    with pytest.raises(ValueError, match=r"'=a \$1'.*is no class of results.json"):
        write_class_reports(folder)


def test_curves_of_the_log():
    assert curves(HISTORY, "") == {"loss": ([0.5, 1.0], [2.0, 1.0]), "matching_loss": ([0.5, 1.0], [0.7, 0.6])}
    assert curves(HISTORY, "eval_") == {
        "loss": ([1.0], [1.5]),
        "matching_loss": ([1.0], [0.65]),
        "top1": ([1.0], [0.5]),
    }


@needs_matplotlib
def test_pictures_of_a_run(tmp_path, capsys):
    import matplotlib

    backend, folder = matplotlib.rcParams._get_backend_or_none(), write_run(tmp_path / "run")
    names = ["confusion_matrix.png", "per_class.png", "training_curves.png"]
    assert main([str(folder)]) == [folder / name for name in names]
    assert "training_curves.png" in capsys.readouterr().out
    for name in names:
        picture = np.asarray(Image.open(folder / name).convert("L"))
        assert min(picture.shape) > 200 and picture.std() > 5
    assert not list(folder.glob("*.part*"))
    assert matplotlib.rcParams._get_backend_or_none() == backend, "the user's own backend stays"


@needs_matplotlib
def test_what_the_pictures_show():
    classes = [
        {"label": f"class{i}", "precision": 0.5, "recall": 0.5, "f1": i / 100, "support": i} for i in range(100)
    ]
    matrix = np.diag(np.arange(100)).tolist()
    report = {"input": "both", "noise": "clean", "classes": classes, "confusion_matrix": matrix, "num_clips": 4950}
    axes = class_figure(report).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown[0] == "class1 (1)" and shown[-1] == "class99 (99)" and len(shown) == 60  # class0 has no clips
    assert [bar.get_width() for bar in axes.patches] == [i / 100 for i in [*range(1, 31), *range(70, 100)]]
    assert "30 lowest and 30 highest of 99" in axes.get_title()
    shares = confusion_figure(report).axes[0].images[0].get_array()
    assert shares[0].sum() == 0 and np.allclose(np.diag(shares)[1:], 1)
    small = {**report, "classes": classes[:3], "confusion_matrix": [[0, 0, 0], [1, 3, 0], [0, 0, 2]]}
    axes = confusion_figure(small).axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 1), "1"),
        ((1, 1), "3"),
        ((2, 2), "2"),
    }
    left, right = curve_figure(HISTORY).axes
    assert [line.get_label() for line in left.lines] == [
        "loss", "loss, validation", "matching_loss", "matching_loss, validation",
    ]  # fmt: skip
    assert [line.get_label() for line in right.lines] == ["top1"]
    assert len(curve_figure(HISTORY[:2]).axes) == 1


@needs_matplotlib
def test_a_run_that_lacks_files_gets_the_pictures_it_can_have(tmp_path, caplog):
    assert save_plots(tmp_path) == []
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    assert [path.name for path in plots_of_run(tmp_path)] == ["training_curves.png"]
    (tmp_path / "trainer_state.json").write_text("{")
    assert plots_of_run(tmp_path) == [] and "python -m training.common.plots" in caplog.text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        main([str(tmp_path / "nowhere")])


def test_without_matplotlib_one_line_says_so(tmp_path, caplog, monkeypatch):
    folder, find_spec = write_run(tmp_path / "run"), importlib.util.find_spec
    monkeypatch.setattr(
        plots.importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert save_plots(folder) == []
    assert [record.getMessage() for record in caplog.records] == [
        "no plots are drawn: matplotlib is not installed; pip install matplotlib"
    ]
    assert not list(folder.glob("*.png"))


def test_the_recipe_writes_them(tmp_path):
    import train

    config = write_config(tmp_path / "toy.yaml", write_clips(tmp_path / "data"), write_backbone(tmp_path / "vit"))
    train.main([str(config), "--num_train_epochs", "1", "--baseline", "false"])
    run = tmp_path / "run"
    reports = json.loads((run / "class_report.json").read_text())
    assert [(one["input"], one["noise"], one["num_clips"]) for one in reports] == [
        ("both", "clean", 6), ("audio", "clean", 6), ("video", "any", 6),
    ]  # fmt: skip
    pictures = {path.name for path in run.glob("*.png")}
    if importlib.util.find_spec("matplotlib") is None:
        assert not pictures
    else:
        assert pictures == {"confusion_matrix.png", "per_class.png", "training_curves.png"}
