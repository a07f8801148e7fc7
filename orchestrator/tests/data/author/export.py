"""Records as CSV."""

import csv
import io


def to_csv(records: list[dict[str, object]]) -> str:
    """Return a header and one line a record; columns are the union of all keys, sorted."""
    columns = sorted({key for record in records for key in record})
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()
