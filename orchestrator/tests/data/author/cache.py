"""Values with a time to live."""

import time
from collections.abc import Callable


class Cache:
    """Forgets values after some seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: dict[str, tuple[float, object]] = {}

    def put(self, key: str, value: object) -> None:
        """Keep a value from now on."""
        self._values[key] = (self._clock(), value)

    def get(self, key: str) -> object | None:
        """Return a value that is not too old."""
        stored = self._values.get(key)
        if stored is None or self._clock() - stored[0] > self._seconds:
            return None
        return stored[1]
