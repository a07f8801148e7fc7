"""Keys to moves."""

from model import Game

KEYS = {"w": (0, -1), "s": (0, 1), "a": (-1, 0), "d": (1, 0)}


def press(game: Game, key: str) -> bool:
    """Move for a known key; return whether the game goes on."""
    move = KEYS.get(key.strip().lower())
    if move is not None:
        game.step(*move)
    return not game.over
