"""Who did what, and when."""

from datetime import UTC, datetime


class Audit:
    """An append-only trail."""

    def __init__(self) -> None:
        self._entries: list[dict[str, str]] = []

    def record(self, who: str, what: str) -> dict[str, str]:
        """Add an entry with the present time."""
        entry = {"who": who, "what": what, "when": datetime.now(UTC).isoformat()}
        self._entries.append(entry)
        return entry

    def of(self, who: str) -> list[dict[str, str]]:
        """Return the entries of one user."""
        return [entry for entry in self._entries if entry["who"] == who]


audit = Audit()
