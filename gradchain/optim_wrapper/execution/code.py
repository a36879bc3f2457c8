"""The operations of a bucket as Python code: one call for each, on buffers that are made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradchain.optim_wrapper.execution.fuse import fuse
from gradchain.optim_wrapper.execution.memory import Buffer, Code
from gradchain.optim_wrapper.execution.operations import Operations
from gradchain.optim_wrapper.execution.schedule import Segment, schedule
from gradchain.optim_wrapper.execution.segments import compiled_segment, given
from gradchain.optim_wrapper.execution.values import Kind, value_of


@dataclass
class Writer(Operations):
    """Writes the code of some matched graphs."""

    def written(self, inputs: Sequence[str]) -> Code:
        """inputs: sources of the graphs' inputs, empty for numbers of the host."""
        values = self.values
        self.outputs = [values.root(i) for i in self.outputs]
        self._take_inputs(inputs)
        values.fused.update(fuse(values, list(self.outputs)))
        self.order = schedule(values, list(self.outputs))
        self._find_last_uses()
        for at, step in enumerate(self.order):
            if isinstance(step, Segment):
                self._segment(step, at)
            else:
                self._operation(step, at)
        self._finish()
        text = "def run(host, common, shaped):\n" + "".join(f"    {line}\n" for line in self.lines)
        first = self.outputs[0]
        return Code(
            compile(text, "<bucket>", "exec"),
            text,
            self.buffers,
            self.views,
            self.lists,
            self.fixed,
            values.kinds[first],
            self.held.get(first, ""),
        )

    def _take_inputs(self, inputs: Sequence[str]) -> None:
        host, common, shaped = list[str](), list[str](), list[str]()
        places = [i for i, node in enumerate(self.values.first.nodes) if node.op == "placeholder"]
        for i, source in zip(places, inputs, strict=True):
            kind = self.values.kinds[i]
            if kind is Kind.HOST:
                host.append(f"h{i}")
            elif kind is Kind.COMMON:
                common.append(f"n{i}")
            elif kind is Kind.SHAPED and source.startswith("leaf"):
                shaped += [f"v{i}_{r}" for r in range(len(self.runs))]
            else:
                self.buffers[source] = Buffer(kind, value_of(self.values.first.nodes[i]).dtype, source)
                self.held[i] = source
        for names, given_ in ((host, "host"), (common, "common"), (shaped, "shaped")):
            if names:
                self.lines.append(f"{', '.join(names)}, = {given_}")

    def _find_last_uses(self) -> None:
        """Note until when each value is needed. What a segment may look at for others stays to the end."""
        self.last: dict[int, float] = {}
        for at, step in enumerate(self.order):
            crossing = isinstance(step, Segment) and len(step.results) > len(step.exported)
            for i in step.inputs if isinstance(step, Segment) else self.values.inputs_of(step):
                self.last[i] = max(self.last.get(i, -1), float("inf") if crossing else at)
        for i in self.outputs:
            self.last[i] = float("inf")

    def _segment(self, segment: Segment, at: int) -> None:
        values = self.values
        taken = given(values, segment)
        exports = {i: self._place(i, at) for i in segment.exported}
        for r, run in enumerate(self.runs):
            function = self._constant(compiled_segment(values, segment, r, run.count))
            args = [self._shaped(i, r) for i in taken]
            results = ", ".join(f"v{i}_{r}" for i in segment.results)
            self.lines.append(f"{results}, = {function}({', '.join(args)})")
        self._copy([(self._view(name, "shaped", r), f"v{i}_{r}") for i, name in exports.items() for r in range(len(self.runs))])
        self._release(segment.inputs, at)

    def _shaped(self, i: int, run: int) -> str:
        """A value as the segment of one shape takes it."""
        kind = self.values.kinds[i]
        if kind is Kind.HOST:
            return self._tensor(i)
        if kind is Kind.COMMON:
            return f"n{i}"
        if i in self.held:
            return self._view(self.held[i], "shaped", run)
        return f"v{i}_{run}"

    def _finish(self) -> None:
        """Put results into parameters and states where they are not there yet; old states first that become another one."""
        late: list[str] = []
        pairs: list[tuple[str, str]] = []
        for i, target in zip(self.outputs, self.targets, strict=True):
            source, kind = self.held.get(i), self.values.kinds[i]
            if not target or source == target:
                continue
            if source is not None:
                if self.buffers[source].source:
                    self.lines.append(f"o{i} = {source}.clone()")
                    source = f"o{i}"
                late.append(f"{target}.copy_({source})")
                continue
            for r in range(len(self.runs)):
                place = self._view(target, "shaped", r)
                if kind is Kind.HOST:
                    late.append(f"{place}.fill_({self._constant(self.values.fixed[i]) if i in self.values.fixed else f'h{i}'})")
                elif kind is Kind.COMMON or i in self.values.constants:
                    late.append(f"{place}.copy_({self._made(i, r)})")
                else:
                    pairs.append((place, f"v{i}_{r}"))
        self._copy(pairs)
        self.lines += late
        first = self.outputs[0]
        if not self.targets[0] and first not in self.held:
            once = self.values.kinds[first] in (Kind.COMMON, Kind.HOST)
            self.lines.append(f"return [{', '.join(self._made(first, r) for r in range(1 if once else len(self.runs)))}]")
        elif not self.lines:
            self.lines.append("pass")

    def _made(self, i: int, run: int) -> str:
        """A value that is in no buffer."""
        if self.values.kinds[i] is Kind.COMMON:
            return f"n{i}"
        if self.values.kinds[i] is Kind.HOST:
            return self._tensor(i)
        if i in self.values.constants:
            constant, count = self.values.constants[i][run], self.runs[run].count
            return self._constant(constant.expand(count, *constant.shape) if count > 1 else constant)
        return f"v{i}_{run}"
