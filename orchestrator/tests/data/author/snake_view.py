"""The board as text."""

from model import Game


def draw(game: Game) -> str:
    """Return one line a row: @ head, o body, * food."""
    rows = []
    for y in range(game.height):
        cells = []
        for x in range(game.width):
            here = (x, y)
            cell = "@" if here == game.snake[0] else "o" if here in game.snake else "*" if here == game.food else "."
            cells.append(cell)
        rows.append("".join(cells))
    return "\n".join(rows)
