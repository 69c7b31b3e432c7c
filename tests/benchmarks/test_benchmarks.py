# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""The plain port computes what the model computes, and every part of the benchmark runs in a small form."""

import json
import shutil

import pytest
import torch
from tiny_deepavfusion import TINY
from tiny_models import TINY_VIT, tiny_inputs

from benchmarks import bench, deepavfusion, processor, realistic, speed, table, throughput
from benchmarks.figures import read
from benchmarks.fresh import REPOSITORY
from benchmarks.plain_port import PlainPort, paper_config
from benchmarks.scaling import bend
from benchmarks.workload import check_equal, interleaved, ratio
from modeling_maavt import MAAVTForAudioVisualClassification, losses_maavt
from processing.clip_decoders import torchcodec_decoders


TRAINED = {  # the model's name: the plain port's
    "maavt.prompt.shared_tokens": "tokens.shared",
    "maavt.prompt.cls_token": "vit.embeddings.cls_token",
    "maavt.token_attention.audio.qkv.weight": "token_attention.audio.qkv.weight",
    "classifier.weight": "class_head.weight",
}
DEEPAVFUSION_SIZES = {name: size for name, size in TINY.items() if name not in ("num_labels", "num_hidden_layers")}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    ours = MAAVTForAudioVisualClassification(paper_config(dict(TINY_VIT), num_labels=5))
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
        with pytest.raises(AssertionError, match="logits: differs"):
            check_equal("logits", wrong, torch.tensor([1.0, 2.0]), 1e-3)


def test_turns_ratios_and_bends():
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=5)
    assert calls == ["a", "b"] * 6 and len(seconds["a"]) == len(seconds["b"]) == 5
    assert ratio({"slow": [2.0, 30.0, 4.0], "fast": [1.0, 10.0, 2.0]}, "slow", "fast") == 2.0
    assert bend([(1, 10.0), (4, 40.0), (8, 80.0)]) == 0.0
    assert bend([(1, 10.0), (4, 48.0), (8, 80.0)]) == pytest.approx(0.1)


def test_a_part_that_fails_is_reported_and_the_others_are_written(tmp_path, monkeypatch, capsys):
    def run_part(name, limit, **options):
        if name == "scaling":
            raise RuntimeError("scaling: ended with 1")
        return {
            "speedup.forward.float32": 1.5,
            "forward.seconds.float32": 2.0,
            **{f"part.{key}": 1 for key in options},
        }

    monkeypatch.setattr(bench, "run_part", run_part)
    monkeypatch.setattr("sys.argv", ["bench", "speed", "scaling", "--before", "other", "--out", str(tmp_path)])
    assert bench.main() == 1
    printed = capsys.readouterr()
    assert "scaling: ended with 1" in printed.err and "FAILED: scaling" in printed.out
    assert "| forward, float32: times the plain port | 1.50 |" in printed.out
    (file,) = tmp_path.glob("*.json")
    assert "torch" in file.name and "cores" in file.name
    figures = json.loads(file.read_text())
    assert next(iter(figures)) == "speedup.forward.float32" and figures["torch"] == torch.__version__
    assert figures["part.before"] == 1 and read(file) == figures and file.with_suffix(".md").exists()


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
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    ours(**tiny_inputs(), labels=torch.tensor([0, 1, 2, 3]))
    # Both projections of every block in float32, mask and label, of four clips.
    config = ours.config
    assert sent == [4 * 4 * (2 * config.num_prompted_layers * config.contrastive_dim + 2)]


def test_the_plot_shows_every_sweep(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"speedup.forward.float32": 1.0}))
    assert table.draw(file) is None
    figures = {"scaling.blocks": 4, "hardware": "a processor", "cores": 2, "scaling.frames.bend.seconds": 0.1}
    for what in table.SWEEPS:
        figures |= {
            f"scaling.{what}.{value}.{unit}": float(value) for value in (16, 1, 4) for unit in ("seconds", "mib")
        }
    file.write_text(json.dumps(figures))
    assert table.series(figures, "frames", "mib") == [(1, 1.0), (4, 4.0), (16, 16.0)]
    picture = table.draw(file)
    assert picture == tmp_path / "result.png" and 0 < picture.stat().st_size < 300_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.png"]


def test_table_shows_measured_rows_and_goes_into_the_page(tmp_path):
    figures = {"hardware": "a processor", "cores": 2, "torch": "2", "transformers": "5"}
    figures |= {"gemm_fraction.forward.float32": 0.824, "memory.train.float32": 0.7}
    assert "| forward, float32: fraction of the product rate | 0.82 | 0.80 |" in table.markdown(figures)
    figures["before.gemm_fraction.forward.float32"] = 0.9
    text = table.markdown(figures)
    assert "| forward, float32: fraction of the product rate | 0.90 | 0.82 | 0.80 |" in text
    assert "share of the plain port |  | 0.70 |" in text and "bfloat16" not in text
    page = tmp_path / "page.md"
    page.write_text(f"above\n{table.START}\nold\n{table.END}\nbelow\n")
    table.write_page(page, text)
    assert page.read_text() == f"above\n{table.START}\n{text}{table.END}\nbelow\n"
    page.write_text("no comments")
    with pytest.raises(ValueError, match="page.md: needs the lines"):
        table.write_page(page, text)


def check_speed(results: dict) -> None:
    for dtype in ("float32", "bfloat16"):
        for prefix in ("", "before."):
            assert results[f"{prefix}gemm_fraction.forward.{dtype}"] > 0
            assert results[f"{prefix}speedup.train.{dtype}"] > 0
        assert results[f"change.forward.{dtype}"] > 0 and results[f"change.train.{dtype}"] > 0
        assert results[f"equality.train.{dtype}.loss"] < speed.TOLERANCE[dtype]
    assert results["prompts_from_block.speedup"] > 0


def test_speed_runs_in_a_small_form(monkeypatch):
    requests = []

    class OtherCheckout:
        def __init__(self, folder, blocks, clips):
            assert (folder, blocks, clips) == ("other", 3, 4)

        def run(self, name):
            requests.append(name)

        def close(self):
            requests.append("closed")

    def narrow_model(dtype=torch.float32, blocks=3, **overrides):
        vision = {**TINY_VIT, "num_hidden_layers": blocks, "image_size": 224, "patch_size": 56}
        torch.manual_seed(0)
        model = MAAVTForAudioVisualClassification(paper_config(vision, **overrides))
        for module in (model.maavt.embeddings, model.maavt.encoder, model.maavt.layernorm):
            module.to(dtype)
        model.freeze_backbone()
        return model

    monkeypatch.setattr(speed, "OtherCheckout", OtherCheckout)
    monkeypatch.setattr(speed, "build_model", narrow_model)
    monkeypatch.setattr(speed, "can_compile", lambda: False)
    check_speed(speed.measure(repeats=1, clips=4, blocks=3, before="other"))
    expected = ["forward.float32", "forward.bfloat16"] * 2 + ["train.float32", "train.bfloat16"] * 2 + ["closed"]
    assert requests == expected


@pytest.mark.slow
def test_speed_measures_another_checkout_in_the_same_turns():
    check_speed(speed.measure(repeats=1, clips=2, blocks=2, before=str(REPOSITORY)))


def test_realistic_clips_are_read_by_every_decoder():
    pytest.importorskip("av", "18.1", reason="the benchmark needs PyAV 18.1: pip install 'maavt[bench]'")
    results = realistic.measure(repeats=1, heights=(90,), seconds=2.0)
    for gop in realistic.GOPS:
        assert results[f"processor.realistic.90p.{gop}.pyav"] > 0 and results[f"processor.milliseconds.90p.{gop}"] > 0
        assert torchcodec_decoders() is None or results[f"processor.realistic.90p.{gop}"] > 0


def test_realistic_clips_have_their_key_frames(tmp_path):
    av = pytest.importorskip("av")
    for gop, expected in ((250, 1), (25, 2)):
        file = realistic.write_clip(tmp_path / f"{gop}.mp4", 90, gop, seconds=2.0)
        with av.open(str(file)) as container:
            keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
        assert len(keys) == 50 and sum(keys) == expected
        waveform = processor.build_processor(clip_seconds=2.0).load_clip(str(file)).waveform
        assert abs(len(waveform) / 16000 - 2.0) < 0.05


@pytest.mark.parametrize("name", deepavfusion.CASES)
def test_deepavfusion_case_compares_equal_outputs(name):
    results = deepavfusion.measure_case(name, layers=2, clips=2, repeats=1, **DEEPAVFUSION_SIZES)
    assert results[f"equality.deepavfusion.{name}"] < 0.1 and results[f"deepavfusion.{name}"] > 0


def test_deepavfusion_outputs_that_differ_are_not_timed():
    functions = {"base": lambda: (torch.ones(2),), "model": lambda: (torch.full((2,), 1.01),)}
    with pytest.raises(AssertionError, match="dense: differs"):
        deepavfusion.taken_in_turns("dense", functions, 1, 1e-3)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_throughput_in_a_small_form(monkeypatch, tmp_path):
    """Every way reads the same frames of each file, and the table and the picture show what was measured."""
    monkeypatch.setattr(throughput, "SECONDS", 1.0)
    monkeypatch.setattr(throughput, "MIN_SECONDS", 0.01)
    measured = throughput.measure(heights=(120,), codecs=("h264",), seconds=1.0)
    ways = [way for way in throughput.WAYS if torchcodec_decoders() or way in ("processor", "pyav_seek")]
    for gop in throughput.GOPS:
        for way in ways:
            assert measured[f"throughput.120p.h264.{gop}.{way}.1core"] > 0
    figures = measured | {"hardware": "a", "cores": 2, "torch": "b", "transformers": "c"}
    throughput.write(figures, tmp_path / "a.json")
    assert "| 120p h264, short GOP |" in (tmp_path / "throughput-a.md").read_text()
    assert (tmp_path / "throughput-a.png").stat().st_size > 1000
