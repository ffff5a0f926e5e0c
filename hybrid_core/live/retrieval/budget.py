"""The time that a run may spend, and the words for what there was no time for. No torch."""

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds that never go back


class Budget:
    """Seconds to spend from now on."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        self.started = clock()

    @property
    def used_up(self) -> str:
        """Why something was not measured."""
        return f"the budget of {self.seconds:g} s was used up"

    def at(self, share: float) -> float:
        """The time on the clock at which this share of the budget is spent."""
        return self.started + share * self.seconds

    def until(self, share: float) -> "Deadline":
        """The deadline at which this share of the budget is spent."""
        return Deadline(self.at(share), self.clock)


class Deadline:
    """Says when to stop working piece by piece.

    The first piece is always done, even late, so that there is a result.
    """

    def __init__(self, at: float, clock: Clock = time.monotonic) -> None:
        self.at = at
        self.clock = clock
        self.begun = False

    def over(self) -> bool:
        """Whether to stop. Ask this before each piece."""
        begun = self.begun
        self.begun = True
        return begun and self.clock() >= self.at
