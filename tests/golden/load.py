"""Golden trajectories: the parameters after every step of the original programs, on closed-form inputs.

    for case in cases("ladam"):                  # no argument: every family; path=...: another folder of the same form
        params = case.initial()                  # {tensor key: float64 array}; cast to case.info["dtype"] first
        for t in range(case.steps):
            grads = case.gradient(t)             # None where the tensor has no gradient at this step
            ...                                  # one optimizer step, then compare params[key] with case.expected[key][t]

`case.info` is the case's entry in index.json, which explains its fields; gradients never depend on the parameters.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# i = 1..n in row-major order, k = number of the tensor (from 0), t = step (from 0), s = scale
PLACE = {
    "plain": lambda i, k, s: s * np.cos(0.7 * i),
    "phased": lambda i, k, s: s * np.cos(i * 0.73 + k),
    "two_waves": lambda i, k, s: s * (0.5 * np.cos(0.61 * i + k) + 0.1 * np.sin(0.23 * i * (k + 1))),
    "quarter": lambda i, k, s: np.round(8 * np.cos(0.7 * i)) / 8,
    "zeros": lambda i, k, s: 0 * i,
    "ramp": lambda i, k, s: 0.25 * ((i * 7) % i.size),
    "halfzero": lambda i, k, s: np.where(i % 2 == 0, 0.0, s * np.cos(0.7 * i)),
}
SLOPE = {
    "plain": lambda i, k, t, s: s * np.sin(i * (t + 1) * 0.37),
    "phased": lambda i, k, t, s: s * (np.sin(i * (t + 1) * 0.37 + k) + 0.6 * np.cos(i * 1.3)),
    "seven_step": lambda i, k, t, s: (
        s * (1.0, 0.4, 0.4, 0.12)[k % 4] * 0.2 * (1 + t % 7) * np.sin(0.37 * i * (t + 1) + 0.9 * k)
    ),
}
MASK = {
    None: lambda i, t, g: g,
    "every_third": lambda i, t, g: np.where(i % 3 == 1, 0.0, g),
    "every_fourth_moving": lambda i, t, g: np.where((i - 1 + t) % 4 == 0, 0.0, g),
    "odd_steps": lambda i, t, g: g * (t % 2 == 0),
    "first_spike": lambda i, t, g: g * (100.0 if t == 0 else 1.0),
}


@dataclass(frozen=True)
class Case:
    info: dict  # the entry of index.json
    expected: dict  # tensor key -> float64 array (steps, *shape); guides: output name -> (n,)
    extra: dict  # further recorded arrays by name, mostly empty

    name = property(lambda self: self.info["name"])
    kwargs = property(lambda self: self.info["kwargs"])
    steps = property(lambda self: self.info["steps"])

    def _tensors(self):
        for k, (key, shape) in enumerate(self.info["tensors"].items()):
            yield k, key, shape, np.arange(1, np.prod(shape, dtype=int) + 1, dtype=np.float64)

    def initial(self):
        rule = self.info["initial"]
        return {key: PLACE[rule["rule"]](i, k, rule["scale"]).reshape(shape) for k, key, shape, i in self._tensors()}

    def gradient(self, t):
        rule, out = self.info["gradient"], {}
        for k, key, shape, i in self._tensors():
            g = MASK[rule["mask"]](i, t, SLOPE[rule["rule"]](i, k, t, rule["scale"])).reshape(shape)
            out[key] = None if [k, t] in rule["missing"] else 0 * g if [k, t] in rule["zero"] else g
        return out


def cases(family=None, path=Path(__file__).parent / "data"):
    path = Path(path)
    entries = [e for e in json.loads((path / "index.json").read_text())["cases"] if family in (None, e["family"])]
    for name in dict.fromkeys(e["family"] for e in entries):
        with np.load(path / f"{name}.npz") as arrays:
            for info in (e for e in entries if e["family"] == name):
                mine = {key.split("/", 1)[1]: arrays[key] for key in arrays.files if key.split("/", 1)[0] == info["name"]}
                yield Case(info, {k: v for k, v in mine.items() if "/" not in k}, {k: v for k, v in mine.items() if "/" in k})
