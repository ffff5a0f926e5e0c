"""The seconds that a run may take, and how it stops when they are spent. No torch."""

import time
from collections.abc import Callable

Clock = Callable[[], float]  # monotonic seconds


class Budget:
    """A number of seconds that starts running when the object is created."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        self.started = clock()

    @property
    def used_up(self) -> str:
        """The reason stored with a measurement that there was no time for."""
        return f"the budget of {self.seconds:g} s was used up"

    def at(self, share: float) -> float:
        """The clock's time when this share of the budget is spent."""
        return self.started + share * self.seconds

    def until(self, share: float) -> "Deadline":
        """A deadline for work that may use the budget up to this share."""
        return Deadline(self.at(share), self.clock)


class Deadline:
    """Tells work done in pieces when to stop.

    The first piece is always allowed, even past the deadline, so that every run has a result.
    """

    def __init__(self, at: float, clock: Clock = time.monotonic) -> None:
        self.at = at
        self.clock = clock
        self.begun = False

    def over(self) -> bool:
        """Whether to stop now. Call this before each piece."""
        begun = self.begun
        self.begun = True
        return begun and self.clock() >= self.at
