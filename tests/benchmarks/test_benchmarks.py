"""The benchmark runs and writes what it says; how fast anything is stands in its results, not here."""

import pytest

pytest.importorskip("matplotlib")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the profiler's
def test_a_quick_run_measures_two_workloads_and_writes_table_and_chart(tmp_path):
    from benchmarks.__main__ import main

    results = main(["--quick", "--no-peers", "--only", "adamw", "--results", str(tmp_path)])
    assert {(r.workload, r.name) for r in results} == {
        (workload, name)
        for workload in ("matrix", "tiny")
        for name in ("memory bandwidth floor", "adamw, eager", "adamw, compiled")
    }
    assert all(r.ratio > 0 and r.ms > 0 and r.state >= 2 for r in results)
    assert "| adamw, compiled |" in (tmp_path / "step_times.md").read_text()
    assert (tmp_path / "step_times.svg").stat().st_size > 1000


def test_the_workloads_are_those_they_are_named_for():
    from benchmarks.workloads import WORKLOADS, size

    sizes = {name: (len(shapes), size(shapes)) for name, shapes in WORKLOADS.items()}
    assert sizes["124M / 148 tensors"] == (148, 124_439_808)
    assert sizes["ResNet-18"] == (62, 11_689_512)
    assert len(WORKLOADS["SDXL LoRA"]) == 1972 and len(set(WORKLOADS["SDXL LoRA"])) == 13


def test_a_contestant_that_cannot_run_is_named_and_the_others_are_measured(tmp_path, monkeypatch):
    from benchmarks import __main__, contestants

    def absent(params):
        raise ImportError("no module named 'absent'")

    monkeypatch.setattr(contestants, "own", lambda drivers: {})
    monkeypatch.setattr(contestants, "PEERS", {"absent": absent, "fused": contestants.fused})
    results = __main__.main(["--quick", "--workload", "tiny", "--rounds", "1", "--results", str(tmp_path)])
    assert [r.name for r in results] == ["memory bandwidth floor", "fused"]
    assert "absent on tiny (ImportError" in (tmp_path / "step_times.md").read_text()
