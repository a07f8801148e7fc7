"""Counters in the text format of Prometheus."""

from collections import Counter


class Metrics:
    """Counts by name."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        self._counts[name] += by

    def render(self) -> str:
        """Return one line a counter, sorted by name."""
        return "".join(f"{name} {value}\n" for name, value in sorted(self._counts.items()))


metrics = Metrics()
