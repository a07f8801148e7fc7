"""Where migrations get their database from."""

import os

DEFAULT_URL = "sqlite:///service.db"


def database_url() -> str:
    """Return the database to migrate."""
    return os.getenv("DATABASE_URL", DEFAULT_URL)
