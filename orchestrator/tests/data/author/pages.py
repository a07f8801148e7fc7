"""Pages of a list."""

from typing import TypeVar

Item = TypeVar("Item")


def page(items: list[Item], offset: int, limit: int) -> dict[str, object]:
    """Return one page and the total; limits above 100 are cut to 100."""
    limit = min(limit, 100)
    return {"items": items[offset : offset + limit], "total": len(items), "offset": offset, "limit": limit}
