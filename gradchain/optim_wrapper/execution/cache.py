"""A cache of traces and code for all optimizers of the process: a study makes hundreds of optimizers of few chains."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """The values that were asked for last, by key; one thread at a time makes a value."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = RLock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of this key, made where it is not known. Nothing is kept where making it raises."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            value = self._values[key] = make()
            while len(self._values) > self._size:
                self._values.popitem(last=False)
            return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
