"""The prompts of the paper's retrieval protocol (Appendix K of arXiv 2510.04800v3).

A needle gives a random city a random number of 7 digits. It is hidden in a haystack of a given
length at a given depth, and the prompt asks for the number (see `PROMPT`). The tasks are named as
in RULER (arXiv 2404.06654): `niah_single` has one needle; `niah_multikey` has three more, of other
cities, at random places. The length of a haystack includes its needles. A needle comes at the end
of the last sentence before its depth.
"""

import random
from typing import Any, NamedTuple

from hybrid_core.live.retrieval.options import CheckpointOptions
from hybrid_core.validation import SpecError

NEEDLE = "The special magic {city} number is: {number}"
QUESTION = "What is the special magic {city} number?"
PROMPT = ("<context>\n", "\n</context>\n\n" + QUESTION + "\n\nThe special magic {city} number is:")
DISTRACTORS = {"niah_single": 0, "niah_multikey": 3}
CITIES = """
Accra Algiers Amman Amsterdam Ankara Athens Baghdad Baku Bamako Bangkok Beirut Belgrade Berlin
Bern Bogota Bratislava Brussels Bucharest Budapest Cairo Canberra Caracas Chicago Copenhagen Dakar
Damascus Delhi Dhaka Doha Dublin Edinburgh Florence Geneva Glasgow Hamburg Hanoi Havana Helsinki
Houston Istanbul Jakarta Jerusalem Kabul Kampala Kathmandu Khartoum Kinshasa Kyoto Lagos Lima
Lisbon Ljubljana London Luanda Lusaka Madrid Manila Maputo Marseille Melbourne Milan Minsk
Montreal Moscow Mumbai Munich Muscat Nairobi Naples Oslo Ottawa Paris Perth Porto Prague Quito
Rabat Riga Rome Rotterdam Santiago Sarajevo Seattle Seoul Seville Shanghai Singapore Skopje Sofia
Stockholm Sydney Tallinn Tbilisi Tehran Tirana Tokyo Toronto Tripoli Tunis Turin Vienna Vilnius
Warsaw Yerevan Zagreb Zurich
""".split()
# The haystack if the user gives no text: sentences unrelated to the question.
NOISE = (
    "The river runs past the old mill. A bell rings twice before noon. "
    "Nobody in the square looks up. The baker sweeps the step and goes in. "
    "Later the rain comes over the hill. It stops as it began. "
    "The road is long and the evening is quiet. "
)
SENTENCE_ENDS = (".", "!", "?", "\n")


class Prompt(NamedTuple):
    """The tokens of one trial, and the number that a right answer contains."""

    ids: tuple[int, ...]
    number: str


class Needle(NamedTuple):
    """The tokens of a needle, and their depth, from 0 to 1."""

    depth: float
    ids: list[int]


class Haystack:
    """A text as tokens, repeated up to `longest` tokens, and the places where sentences end.

    Raises SpecError if the text is empty.
    """

    def __init__(
        self,
        tokenizer: Any,
        text: str,
        longest: int,
    ) -> None:
        if not text.strip():
            raise SpecError("haystack: the text is empty")
        # The text begins with a space because every needle does.
        once = tokenizer.encode(" " + text.strip(), add_special_tokens=False)
        self.repeats = -(-longest // len(once))
        repeated = once * self.repeats
        self.ids: list[int] = repeated[:longest]
        sentence_ends = set()
        for token in set(once):
            decoded = tokenizer.decode([token])
            if decoded.rstrip(" ").endswith(SENTENCE_ENDS):
                sentence_ends.add(token)
        self.ends = [0]
        for i, token in enumerate(self.ids):
            if token in sentence_ends:
                self.ends.append(i + 1)

    def with_needles(self, length: int, needles: list[Needle]) -> list[int]:
        """`length` tokens of text and needles, each needle where a sentence ends.

        Raises ValueError if the needles do not fit.
        """
        needle_tokens = sum(len(needle.ids) for needle in needles)
        text_len = length - needle_tokens
        if text_len < 0:
            raise ValueError(f"context of {length} tokens - shorter than its needles")
        context = self.ids[:text_len]
        # Deepest first, so that the places of the others do not move. The sort is stable, so
        # needles of the same depth keep their order.
        for needle in sorted(needles, key=_depth, reverse=True):
            place = self._place(needle.depth, text_len)
            context[place:place] = needle.ids
        return context

    def _place(self, depth: float, text_len: int) -> int:
        """Where the last sentence before a depth ends; at depth 1, the end of the text."""
        if depth >= 1:
            return text_len
        return max(end for end in self.ends if end <= depth * text_len)


def _depth(needle: Needle) -> float:
    return needle.depth


class Protocol:
    """Makes the prompts of the cells."""

    def __init__(
        self,
        tokenizer: Any,
        options: CheckpointOptions,
        text: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.haystack = Haystack(tokenizer, text, max(options.lengths))
        special_tokens = tokenizer("", add_special_tokens=True)["input_ids"]
        self.bos = []
        if tokenizer.bos_token_id in special_tokens:
            self.bos = [tokenizer.bos_token_id]

    def prompts(self, length: int, depth: float) -> list[Prompt]:
        """The trials of a cell. They depend only on the seed, the task and the cell."""
        seed = f"{self.options.seed}/{self.options.task}/{length}/{depth}"
        draw = random.Random(seed)
        return [self._prompt(length, depth, draw) for _ in range(self.options.trials)]

    def _prompt(
        self,
        length: int,
        depth: float,
        draw: random.Random,
    ) -> Prompt:
        n_cities = 1 + DISTRACTORS[self.options.task]
        city, *other_cities = draw.sample(CITIES, n_cities)
        number = _random_number(draw)
        needles = [self._needle(depth, city, number)]
        for other in other_cities:
            other_number = _random_number(draw)
            needles.append(self._needle(draw.random(), other, other_number))
        before, after = PROMPT
        ids = (
            *self.bos,
            *self._ids(before),
            *self.haystack.with_needles(length, needles),
            *self._ids(after.format(city=city)),
        )
        return Prompt(ids, number)

    def _needle(
        self,
        depth: float,
        city: str,
        number: str,
    ) -> Needle:
        text = NEEDLE.format(city=city, number=number)
        return Needle(depth, self._ids(" " + text))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def _random_number(draw: random.Random) -> str:
    return str(draw.randrange(10**6, 10**7))
