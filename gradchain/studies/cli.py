"""The command line: ``python -m gradchain`` or ``gradchain``."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gradchain._fields import instead
from gradchain.chains import presets
from gradchain.chains.partition import Recipe
from gradchain.optim_wrapper.traffic import traffic_table
from gradchain.studies.ablation import Run, ablate
from gradchain.studies.catalogue import PRESETS, TRANSFORMS, summary, techniques
from gradchain.studies.extras import needs
from gradchain.studies.report import draw_curves, run_line, table
from gradchain.studies.tasks import TASKS
from gradchain.types import ChainError


def _setting(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value, as in c2=1e-3")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _preset(name: str, settings: Sequence[tuple[str, Any]] = ()) -> Recipe:
    if name not in PRESETS:
        raise ChainError(f"no preset is named {name!r}; there are: {', '.join(PRESETS)}. {instead(name, PRESETS)}")
    try:
        return getattr(presets, name)(**dict(settings))
    except ChainError:
        raise
    except TypeError as error:
        raise ChainError(f"{name}{inspect.signature(getattr(presets, name))}: {error}. Use these keywords.") from error


def can_say(text: str) -> bool:
    """Whether the terminal, or what output is piped to, has these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def say(text: str) -> None:
    """Print; characters that the terminal does not have become question marks."""
    if not can_say(text):
        encoding = sys.stdout.encoding
        text = text.encode(encoding, errors="replace").decode(encoding)
    print(text)


def _list(_: argparse.Namespace) -> None:
    groups = {
        "presets": {name: summary(getattr(presets, name)) for name in PRESETS},
        "transforms": {name: summary(transform) for name, transform in TRANSFORMS.items()},
        "tasks": {name: task.about for name, task in TASKS.items()},
    }
    for title, entries in groups.items():
        say(f"{title}:")
        for name, about in entries.items():
            say(f"  {name:<24} {about}")


def _shards(_: argparse.Namespace) -> None:
    say(traffic_table({name: kind() for name, kind in TRANSFORMS.items() if not _required(kind)}))


def _required(kind: type) -> bool:
    """Whether a transform cannot be made without being told more; Phase is what it wraps."""
    return any(parameter.default is parameter.empty for parameter in inspect.signature(kind).parameters.values())


def _techniques(_: argparse.Namespace) -> None:
    say(techniques())


def _show(options: argparse.Namespace) -> None:
    say(_preset(options.preset, options.set).describe())


def _ablate(options: argparse.Namespace) -> None:
    if options.task not in TASKS:
        there = ", ".join(TASKS)
        raise ChainError(f"no task is named {options.task!r}; there are: {there}. {instead(options.task, TASKS)}")
    task = TASKS[options.task]
    chain = _preset(options.preset, options.set)
    steps = options.steps or (task.published_steps if options.published else task.steps)
    if steps is None:
        raise ChainError(f"the task {task.name!r} has no published length. Leave --published out or give --steps.")
    out = Path(options.out or f"ablation-{options.preset}-{task.name}")
    bar, *_ = [needs(module) for module in ("tqdm", "scipy.stats", "matplotlib.figure")]  # before the work, not after it
    out.mkdir(parents=True, exist_ok=True)
    with (out / "runs.jsonl").open("w", encoding="utf-8") as file:

        def keep(run: Run, trained: Recipe) -> None:  # at once: what comes later may fail or be stopped
            file.write(run_line(run, trained, options.preset, task, steps) + "\n")
            file.flush()

        def shown(runs: Iterable[Any]) -> Iterable[Any]:
            return bar.tqdm(runs, unit="run", desc=options.preset)

        study = ablate(chain, task, range(options.seeds), steps, options.preset, shown, keep)
    say(table(study, plus_minus="±" if can_say("±") else "+-"))
    draw_curves(study, out / "curves.png")
    say(f"Curves: {out / 'curves.png'}, raw numbers: {out / 'runs.jsonl'}.")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="gradchain", description="Chains of optimizer transforms: look at them, and take them apart."
    )
    commands = top.add_subparsers(required=True, metavar="command")
    listing = commands.add_parser("list", help="presets, transforms and tasks")
    listing.set_defaults(run=_list)
    show = commands.add_parser("show", help="a preset's links, hyperparameters and state")
    show.set_defaults(run=_show)
    table_of = commands.add_parser("techniques", help="what each transform is, its source and its presets, as a Markdown table")
    table_of.set_defaults(run=_techniques)
    shards = commands.add_parser("shards", help="what each transform asks of other ranks, as a Markdown table")
    shards.set_defaults(run=_shards)
    study = commands.add_parser("ablate", help="train a preset with every link and without each of them")
    study.set_defaults(run=_ablate)
    for command in (show, study):
        command.add_argument("preset")
        command.add_argument("--set", type=_setting, action="append", default=[], metavar="KEY=VALUE", help="preset keyword")
    study.add_argument("--task", default="wave", help=f"one of {', '.join(TASKS)} (default: wave)")
    study.add_argument("--seeds", type=_count, default=3, help="number of seeds, from 0 (default: 3)")
    length = study.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_count, help="steps of a run (default: the task's)")
    length.add_argument("--published", action="store_true", help="as many steps as in the publication the task is from")
    study.add_argument("--out", help="folder for curves.png and runs.jsonl (default: ablation-<preset>-<task>)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 2 where it was not understood, lacks a package or cannot write."""
    options = parser().parse_args(argv)
    try:
        options.run(options)
    except (ChainError, ImportError, OSError) as error:
        print(f"gradchain: {error}", file=sys.stderr)
        return 2
    return 0
