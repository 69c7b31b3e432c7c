# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The yardsticks: the plain port computes what the model does, and the figures are what they are said to be."""

import json

import pytest
import torch
from tiny_models import TINY_VIT, tiny_inputs

from benchmarks import bench, projection, scaling_plot
from benchmarks.plain_port import PlainPort, published_config
from benchmarks.scaling import bend
from benchmarks.speed import check_equal
from benchmarks.workload import interleaved, ratio
from modeling_maavt import MAAVTForAudioVisualClassification, losses_maavt


TRAINED = {  # ours: the plain port's
    "maavt.prompt.shared_tokens": "tokens.shared",
    "maavt.prompt.cls_token": "vit.embeddings.cls_token",
    "maavt.token_attention.audio.qkv.weight": "token_attention.audio.qkv.weight",
    "classifier.weight": "class_head.weight",
}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    ours = MAAVTForAudioVisualClassification(published_config(dict(TINY_VIT), num_labels=5))
    return ours, PlainPort(ours)


def test_plain_port_computes_the_same(models):
    ours, plain = models
    inputs = tiny_inputs()
    labels, matched = torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, True])
    found = ours(**inputs, labels=labels, is_matched=matched, output_localization=True)
    expected = plain(*inputs.values(), labels, matched)
    assert set(expected) > {"logits", "match_logits", "loss", "contrastive_loss", "video_localization"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name].reshape(value.shape), value, atol=1e-5, rtol=1e-4)
    found.loss.backward()
    expected["loss"].backward()
    for name, other in TRAINED.items():
        mine, theirs = ours.get_parameter(name).grad, plain.get_parameter(other).grad
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    assert sum(p.requires_grad for p in plain.vit.parameters()) == 1


def test_unequal_outputs_stop_the_benchmark():
    assert check_equal("logits", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), 0.0) == 0
    for wrong in (torch.tensor([1.0, 2.1]), torch.tensor([1.0, float("nan")])):
        with pytest.raises(AssertionError, match="logits: ours differs"):
            check_equal("logits", wrong, torch.tensor([1.0, 2.0]), 1e-3)


def test_turns_ratios_and_bends():
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=5)
    assert calls == ["a", "b"] * 6 and len(seconds["a"]) == len(seconds["b"]) == 5
    assert ratio({"slow": [2.0, 30.0, 4.0], "fast": [1.0, 10.0, 2.0]}, "slow", "fast") == 2.0
    assert bend([(1, 10.0), (4, 40.0), (8, 80.0)]) == 0.0
    assert bend([(1, 10.0), (4, 48.0), (8, 80.0)]) == pytest.approx(0.1)


def test_a_part_that_fails_is_reported_and_the_others_are_written(tmp_path, monkeypatch, capsys):
    def run_part(name, limit):
        if name == "memory":
            raise RuntimeError("memory: ended with 1")
        return {"speedup.forward.float32": 1.5, "forward.seconds.float32": 2.0}

    monkeypatch.setattr(bench, "run_part", run_part)
    monkeypatch.setattr("sys.argv", ["bench", "speed", "memory", "--out", str(tmp_path)])
    assert bench.main() == 1
    printed = capsys.readouterr()
    assert "memory: ended with 1" in printed.err and "FAILED: memory" in printed.out
    (file,) = tmp_path.iterdir()
    assert "torch" in file.name and "cores" in file.name
    figures = json.loads(file.read_text())
    assert next(iter(figures)) == "speedup.forward.float32" and figures["torch"] == torch.__version__


def test_gathered_bytes_are_those_of_the_collective(models, monkeypatch):
    ours, _ = models
    sent = []

    class Gather:
        @staticmethod
        def apply(rows):
            sent.append(rows.nbytes)
            return rows

    monkeypatch.setattr(losses_maavt, "num_processes", lambda: 2)
    monkeypatch.setattr(losses_maavt, "_GatherRows", Gather)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *args, **kwargs: None)
    ours(**tiny_inputs(), labels=torch.tensor([0, 1, 2, 3]))
    assert sent == [projection.gathered_bytes(ours.config, 4)]


def test_projection_takes_the_card_where_it_was_measured(monkeypatch):
    counts = {"gradient_bytes": 4e7, "gathered_bytes": 3e6, "flop": 1e13}
    monkeypatch.setattr(projection, "counted", lambda clips: counts)
    assert projection.sent_bytes(2, 10.0, 1.0) == 13.0  # gradients once, rows once, gradients of twice the rows
    bound = projection.project({"loader.clips_per_second.cached": 100.0})
    assert bound["projection.step_seconds"] == 1e13 / projection.PEAK_FLOPS
    measured = projection.project({projection.MEASURED: 0.5, "loader.clips_per_second.cached": 100.0})
    assert measured["projection.loader_cores_per_card.cached"] == 256 / 0.5 / 100
    assert bound["projection.8.efficiency"] < measured["projection.8.efficiency"] < 1


def test_the_plot_shows_every_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "some.json"
    file.write_text(json.dumps({"speedup.forward.float32": 1.0}))
    assert scaling_plot.draw(file) is None
    figures = {"scaling.blocks": 4, "hardware": "a processor", "cores": 2, "scaling.frames.bend.seconds": 0.1}
    for what in scaling_plot.TITLES:
        figures |= {
            f"scaling.{what}.{value}.{unit}": float(value) for value in (16, 1, 4) for unit in ("seconds", "mib")
        }
    file.write_text(json.dumps(figures))
    assert scaling_plot.series(figures, "frames", "mib") == [(1, 1.0), (4, 4.0), (16, 16.0)]
    picture = scaling_plot.draw(file)
    assert picture == tmp_path / "some.png" and 0 < picture.stat().st_size < 300_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.json", "some.png"]
