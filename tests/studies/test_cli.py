"""The command line, from end to end."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from table import PRESETS

from gradchain import presets, transforms
from gradchain.studies import TASKS, ablation, cli
from gradchain.studies.ablation import FULL, Run, Study, ablate, train, variants
from gradchain.studies.cli import main
from gradchain.studies.report import table, write_runs

ROOT = Path(__file__).parents[2]


def test_ablate_prints_the_table_and_writes_curves_and_runs(tmp_path, capsys):
    assert main(f"ablate ladam --task digits --seeds 2 --steps 4 --out {tmp_path}".split()) == 0
    printed = capsys.readouterr().out
    assert "none (full chain)" in printed and "moments (+ laplacian, normalize)" in printed
    assert "weight_decay (off: weight_decay=0), learning_rate (not removable)" in printed
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 2 * 4
    assert runs[0]["hyperparameters"]["c2"] == 1e-4 and runs[0]["hyperparameters"]["betas"] == [0.9, 0.999]
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


@pytest.mark.parametrize("name", PRESETS)
def test_what_show_prints_fits_the_screen(name):
    lines = PRESETS[name].describe().splitlines()
    columns, rows = (120, 50) if name == "adaptive_hina" else (140, 70)
    assert max(len(line) for line in lines if not line.startswith("note: ")) <= columns and len(lines) <= rows


def test_the_readme_has_the_table_of_techniques(capsys):
    assert main(["techniques"]) == 0
    printed = capsys.readouterr().out
    assert printed in (ROOT / "README.md").read_text(), "write the output of `gradchain techniques` there"
    rows = {line.split("`")[1]: line for line in printed.splitlines()[2:]}
    assert list(rows) == transforms.__all__
    assert "[2411.16085](https://arxiv.org/abs/2411.16085)" in rows["Cautious"] and "c_adamw" in rows["Cautious"]


def test_the_page_on_sharding_has_the_table_of_what_transforms_ask(capsys):
    assert main(["shards"]) == 0
    printed = capsys.readouterr().out
    assert (ROOT / "docs" / "sharding.md").read_text().endswith(printed), "write the output of `gradchain shards` there"
    for line in (
        "| `Normalize` | local |  |",
        "| `SPD` | 4 sums |  |",
        "| `Laplacian` | rows |  |",
        "| `RankPenalty` | 2 sums, whole |",
    ):
        assert line in printed
    assert {name for name in transforms.__all__ if f"`{name}`" not in printed} == {"Phase"}


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("show ladma", "no preset is named 'ladma'; there are: adafactor"),
        ("ablate adam --task waves", "no task is named 'waves'; there are: wave"),
        ("ablate adam --task digits --published", "'digits' has no published length"),
        ("show ladam --set c2=7", "c2 must be in"),
        ("show ladam --set nonsense=7", "takes no keyword 'nonsense'"),
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


def test_seeds_are_matched_and_links_that_are_off_are_kept():
    chains, kept = variants(presets.adam())
    assert list(chains) == [FULL, "moments", "normalize"]
    assert kept == {"l2": "off: weight_decay=0", "learning_rate": "not removable"}
    study = ablate(presets.adam(lr=0.1), TASKS["quadratic"], range(3), steps=5)
    starts = {(run.removed, run.seed): run.curve[0] for run in study.runs}
    assert all(starts[removed, seed] == starts[FULL, seed] for removed, seed in starts)
    assert len(set(starts.values())) == 3


def test_batches_are_matched_too():
    still = presets.sgd(lr=0.0), presets.adam(lr=0.0)  # at lr = 0 the losses of a run are those of its batches
    problems = [TASKS["digits"].make(7) for _ in still]
    losses: list[list[float]] = [[], []]
    for recipe, problem, seen in zip(still, problems, losses, strict=True):
        optimizer = recipe.optimizer(problem.named_parameters())
        for _ in range(3):
            loss = problem.loss()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
    assert losses[0] == losses[1] and len(set(losses[0])) == 3


def test_where_one_seed_diverges_the_rest_is_averaged_and_the_table_says_so(tmp_path):
    recipe = presets.sgd(momentum=0.9)
    ends = {FULL: (1.0, 5.0, 3.0), "momentum": (2.0, math.inf, 4.0)}
    runs = tuple(Run(removed, seed, ends[removed][seed], ((0, 9.0),)) for removed in ends for seed in range(3))
    study = Study("sgd", TASKS["quadratic"], 1, (0, 1, 2), variants(recipe)[0], {}, runs)
    row = next(line for line in table(study).splitlines() if line.startswith("momentum"))
    assert row.split()[1:] == ["3", "±", "1", "+1", "[1,", "1]", "1/3"]
    assert "Means leave out the runs that diverged" in table(study)
    write_runs(study, tmp_path / "runs.jsonl")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [line["metric"] for line in lines] == [1.0, 5.0, 3.0, 2.0, None, 4.0]


def test_a_missing_package_is_said_before_the_training(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.chdir(tmp_path)
    assert main("ablate adam --task quadratic".split()) == 2
    assert 'studies need matplotlib: pip install "gradchain[study]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_said_with_status_2(capsys, tmp_path):
    (tmp_path / "taken").touch()
    assert main(f"ablate adam --task quadratic --out {tmp_path / 'taken'}".split()) == 2
    assert "taken" in capsys.readouterr().err


def printed_in(encoding, command, monkeypatch):
    """What a command writes to a terminal of this encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    assert main(command) == 0
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_without_plus_minus_gets_plus_and_minus(encoding, monkeypatch, tmp_path):
    command = f"ablate adam --task quadratic --seeds 2 --steps 2 --out {tmp_path}".split()
    printed = printed_in(encoding, command, monkeypatch)
    sign = "+-" if encoding == "ascii" else "±"
    head, line, full, *_ = printed.splitlines()
    assert f"({sign} s.e.)" in head and f" {sign} " in full
    assert head.index("difference") == line.rindex("  ") + 2


def test_other_characters_that_a_terminal_lacks_become_question_marks(monkeypatch):
    monkeypatch.setattr(cli, "techniques", lambda: "naïve")
    assert printed_in("ascii", ["techniques"], monkeypatch).strip() == "na?ve"


@pytest.mark.slow
def test_ablate_works_in_an_ascii_locale(tmp_path):
    command = f"-m gradchain ablate muon_adamw --task quadratic --steps 5 --seeds 1 --out {tmp_path}".split()
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr
    assert "adamw/moments (+ adamw/normalize)" in done.stdout


def test_the_runs_are_written_before_the_table_and_the_curves_can_fail(monkeypatch, tmp_path, capsys):
    def broken(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(cli, "draw_curves", broken)
    assert main(f"ablate adam --task quadratic --seeds 1 --steps 2 --out {tmp_path}".split()) == 2
    seen = capsys.readouterr()
    assert "no space left" in seen.err and "none (full chain)" in seen.out
    monkeypatch.setattr(cli, "table", broken)
    assert main(f"ablate sgd --task quadratic --seeds 1 --steps 2 --out {tmp_path}".split()) == 2
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["preset"] for line in lines} == {"sgd"} and lines[0]["metric"] is not None


def test_runs_that_have_ended_are_written_when_training_is_stopped(monkeypatch, tmp_path):
    class Stopped(BaseException):
        """As KeyboardInterrupt."""

    seen = []

    def stopping(*arguments):
        seen.append(arguments)
        if len(seen) == 3:
            raise Stopped
        return train(*arguments)

    monkeypatch.setattr(ablation, "train", stopping)
    with pytest.raises(Stopped):
        main(f"ablate adam --task quadratic --seeds 1 --steps 2 --out {tmp_path}".split())
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2


def test_every_run_that_diverges_is_counted():
    study = ablate(presets.sgd(lr=1e3, momentum=0.9), TASKS["rosenbrock"], range(2), steps=20)
    assert all(run.diverged for run in study.runs)
    assert "2/2" in table(study)
