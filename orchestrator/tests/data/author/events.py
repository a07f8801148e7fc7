"""An event log that others can listen to."""

from collections.abc import Callable

Listener = Callable[[str, dict[str, object]], None]


class Events:
    """Keeps every event and tells the listeners."""

    def __init__(self) -> None:
        self.log: list[tuple[str, dict[str, object]]] = []
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Tell this listener of every later event."""
        self._listeners.append(listener)

    def emit(self, name: str, data: dict[str, object]) -> None:
        """Log an event, then tell the listeners in order."""
        self.log.append((name, data))
        for listener in self._listeners:
            listener(name, data)


events = Events()
