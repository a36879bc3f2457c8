"""The techniques that there are, with where they come from and which presets use them, read off the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import gradchain.transforms
from gradchain.chains import Chain, Partition, presets

RECIPES = (Chain, Partition, "Chain", "Partition")
PRESETS = [name for name in presets.__all__ if inspect.signature(getattr(presets, name)).return_annotation in RECIPES]
TRANSFORMS: dict[str, Any] = {name: getattr(gradchain.transforms, name) for name in gradchain.transforms.__all__}
SHOWN = 6  # presets in a row of the table


def summary(thing: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def techniques() -> str:
    """Technique, what it is, source and presets, as a Markdown table."""
    used = _used()
    lines = ["| technique | what it is | source | in the presets |", "|---|---|---|---|"]
    for name, transform in TRANSFORMS.items():
        module = transform.__module__.replace(".", "/")
        about = summary(transform).rstrip(".").replace("``", "`")
        cells = [f"[`{name}`]({module}.py)", about, _source(transform), _named(used.get(name, []))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _named(names: Sequence[str]) -> str:
    """The presets, without the configurations of one that is there, and not all of a long list."""
    homes = {name: getattr(presets, name.partition(" ")[0]).__module__ for name in names}
    short = [name for name in names if not any(name.startswith(f"{one}_") and homes[one] == homes[name] for one in names)]
    return ", ".join(short[:SHOWN]) + (f" and {len(short) - SHOWN} more" if len(short) > SHOWN else "")


def _source(transform: Any) -> str:
    """The papers that the module names, or else the beginning of what it says."""
    told = re.search(r"^Source\s+(.*?)(?=^\w+  |\Z)", inspect.getmodule(transform).__doc__ or "", re.DOTALL | re.MULTILINE)
    text = " ".join(told[1].split()) if told else ""
    papers = re.findall(r"arXiv (\d{4}\.\d{4,5})", text.partition(" Not ")[0])
    links = [f"[{paper}](https://arxiv.org/abs/{paper})" for paper in dict.fromkeys(papers)]
    return ", ".join(links) or re.split(r"[;:.] |\.$|, (?=as |with |which |its |algorithm )", text)[0]


def _used() -> dict[str, list[str]]:
    """Transform -> presets that have it as they come; of others, those that have it with ``published=True``."""
    used: dict[str, list[str]] = {}
    for settings, mark in (({}, ""), ({"published": True}, " (published)")):
        found: dict[str, list[str]] = {}
        for name in PRESETS:
            preset = getattr(presets, name)
            if all(key in inspect.signature(preset).parameters for key in settings):
                links = getattr(presets, name)(**settings).links
                kinds = {type(link).__name__ for link in links} | {"Phase" for link in links if link.window != (1, None)}
                for kind in kinds:
                    found.setdefault(kind, []).append(name + mark)
        used = found | used
    return used
