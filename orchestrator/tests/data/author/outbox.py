"""Messages that leave only after their record is stored."""

from collections import deque
from collections.abc import Callable


class Outbox:
    """First in, first out; a message that cannot be sent stays."""

    def __init__(self) -> None:
        self._waiting: deque[dict[str, object]] = deque()

    def put(self, message: dict[str, object]) -> None:
        """Queue a message."""
        self._waiting.append(message)

    def publish(self, send: Callable[[dict[str, object]], bool]) -> int:
        """Send in order until one fails; return how many went out."""
        sent = 0
        while self._waiting and send(self._waiting[0]):
            self._waiting.popleft()
            sent += 1
        return sent
