"""Full-text search over records."""


def words(text: str) -> set[str]:
    """Return the lower-case words of a text."""
    return {word.strip(".,;:!?").lower() for word in text.split()}


def search(records: list[dict[str, object]], query: str) -> list[dict[str, object]]:
    """Return the records in which every word of the query occurs."""
    wanted = words(query)
    return [record for record in records if wanted <= words(" ".join(map(str, record.values())))]
