"""The budget of a run: what is done before the deadline, and what after it."""

from hybrid_core.live.retrieval.budget import Budget
from tests.live.watch import Watch


def test_a_first_piece_is_done_however_late_it_is_and_none_after_the_time() -> None:
    watch = Watch()
    budget = Budget(3, watch)
    late = Budget(0, watch).until(1.0)
    assert [late.over(), late.over(), late.over()] == [False, True, True]
    watch.now = 0.0  # the budget began at 1 and ends at 4
    deadline = budget.until(1.0)
    over = [deadline.over() for _ in range(6)]
    assert over == [False, False, False, False, True, True]
    assert budget.at(0.5) == 2.5
    assert budget.used_up == "the budget of 3 s was used up"
