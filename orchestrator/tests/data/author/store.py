"""Records in memory, by kind."""

from threading import Lock


class Store:
    """Lists of records; every method may be called from several threads."""

    def __init__(self) -> None:
        self._records: dict[str, list[dict[str, object]]] = {}
        self._lock = Lock()

    def add(self, kind: str, record: dict[str, object]) -> dict[str, object]:
        """Keep a record and give it an id."""
        with self._lock:
            kept = self._records.setdefault(kind, [])
            stored = {"id": len(kept) + 1, **record}
            kept.append(stored)
            return stored

    def all(self, kind: str) -> list[dict[str, object]]:
        """Return a copy of all records of a kind."""
        with self._lock:
            return list(self._records.get(kind, []))


store = Store()
