"""Time that a run may spend, and what it says of what there was no time for. No torch."""

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds that only go on


class Budget:
    """Seconds to spend from now on."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds, self.clock, self.started = seconds, clock, clock()

    @property
    def used_up(self) -> str:
        """Why something was not measured."""
        return f"the budget of {self.seconds:g} s was used up"

    def at(self, share: float) -> float:
        """The time at which a share is spent."""
        return self.started + share * self.seconds

    def until(self, share: float) -> "Deadline":
        """To be asked before each piece of work that has to be done by then."""
        return Deadline(self.at(share), self.clock)


class Deadline:
    """Says when to stop: once the time has come, but never before a first piece, so that there is a
    result."""

    def __init__(self, at: float, clock: Clock = time.monotonic) -> None:
        self.at, self.clock, self.begun = at, clock, False

    def over(self) -> bool:
        """Whether to stop; asked before each piece."""
        begun, self.begun = self.begun, True
        return begun and self.clock() >= self.at
