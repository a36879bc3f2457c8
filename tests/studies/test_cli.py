"""The command line, from end to end."""

import json
import subprocess
import sys

import pytest

from gradchain import presets, transforms
from gradchain.studies import TASKS
from gradchain.studies.ablation import FULL, ablate, variants
from gradchain.studies.cli import main
from gradchain.studies.report import table


def test_ablate_prints_the_table_and_writes_curves_and_runs(tmp_path, capsys):
    assert main(f"ablate ladam --task digits --seeds 2 --steps 4 --out {tmp_path}".split()) == 0
    printed = capsys.readouterr().out
    assert "none (full chain)" in printed and "moments (+ laplacian, normalize)" in printed
    assert "weight_decay (off: weight_decay=0), learning_rate (not removable)" in printed
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 2 * 4
    assert {run["removed"] for run in runs} == {None, "moments", "laplacian", "normalize"}
    assert all(run["steps"] == 4 and run["curve"][-1] == [4, run["metric"]] for run in runs)


def test_list_shows_every_preset_transform_and_task(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in (*transforms.__all__, *TASKS, "ladam", "adafactor"):
        assert f"  {name} " in printed
    assert "suggest_c2" not in printed


def test_show_prints_the_description_with_settings(capsys):
    assert main(["show", "ladam", "--set", "c2=0.01"]) == 0
    assert capsys.readouterr().out.strip() == presets.ladam(c2=0.01).describe()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("show ladma", "no preset is named 'ladma'; there are: adafactor"),
        ("ablate adam --task waves", "no task is named 'waves'; there are: wave"),
        ("ablate adam --task digits --published", "'digits' has no published length"),
        ("show ladam --set c2=7", "c2 must be in"),
        ("show ladam --set nonsense=7", "Use these keywords"),
    ],
)
def test_what_is_not_understood_is_said_with_status_2(command, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_python_m_gradchain_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "gradchain", "show", "adam"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == presets.adam().describe()


def test_seeds_are_matched_and_a_full_chain_against_itself_has_no_difference():
    chains, kept = variants(presets.adam())
    assert list(chains) == [FULL, "moments", "normalize"]
    assert kept == {"l2": "off: weight_decay=0", "learning_rate": "not removable"}
    study = ablate(presets.adam(lr=0.1), TASKS["quadratic"], range(3), steps=5)
    starts = {(run.removed, run.seed): run.curve[0] for run in study.runs}
    assert all(starts[removed, seed] == starts[FULL, seed] for removed, seed in starts)


def test_a_run_that_diverges_is_counted_and_left_out_of_the_mean():
    study = ablate(presets.sgd(lr=1e3, momentum=0.9), TASKS["rosenbrock"], range(2), steps=20)
    assert all(run.diverged for run in study.runs)
    assert "2/2" in table(study)
