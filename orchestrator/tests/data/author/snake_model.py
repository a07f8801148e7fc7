"""The rules of snake, without a screen."""

from dataclasses import dataclass, field


@dataclass
class Game:
    """A snake on a board; the head is the first cell."""

    width: int = 20
    height: int = 10
    snake: list[tuple[int, int]] = field(default_factory=lambda: [(5, 5), (4, 5), (3, 5)])
    food: tuple[int, int] = (10, 5)
    over: bool = False

    def step(self, dx: int, dy: int) -> None:
        """Move the head; eat, or leave the last cell; a wall or the own body ends the game."""
        x, y = self.snake[0]
        head = (x + dx, y + dy)
        inside = 0 <= head[0] < self.width and 0 <= head[1] < self.height
        if not inside or head in self.snake[:-1]:
            self.over = True
            return
        self.snake.insert(0, head)
        if head == self.food:
            self.food = ((x * 7 + 3) % self.width, (y * 5 + 2) % self.height)
        else:
            self.snake.pop()
