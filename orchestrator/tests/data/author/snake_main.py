"""Snake in a terminal: w, a, s, d and Enter."""

from controller import press
from model import Game
from view import draw


def main() -> None:
    """Play until the game is over."""
    game = Game()
    while not game.over:
        print(draw(game))
        press(game, input("> "))


if __name__ == "__main__":
    main()
