"""Generated word problems, worked step by step; templates are held out as a whole."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import attrs

NAMES = (
    "Mia", "Tom", "Ana", "Ben", "Lea", "Sam", "Eva", "Max", "Ida", "Leo", "Zoe", "Jan", "Kim", "Noah", "Emma",
    "Paul", "Nina", "Omar", "Rosa", "Finn",
)  # fmt: skip
ITEMS = (
    "apples", "books", "coins", "stamps", "marbles", "pencils", "cards", "shells", "cookies", "stones", "beads",
    "tickets", "eggs", "flowers", "buttons", "plums",
)  # fmt: skip
PLACES = ("market", "school", "garden", "library", "station", "beach", "shop", "park")
BOXES = ("packs", "boxes", "bags", "baskets", "jars")


@attrs.frozen
class Problem:
    """One word problem."""

    template: str
    question: str
    solution: str
    answer: int


@attrs.frozen
class _Story:
    """What the sentences of one problem share, and the quantity so far."""

    rng: random.Random
    name: str
    friend: str
    item: str
    amount: int

    def to(self, amount: int) -> _Story:
        return attrs.evolve(self, amount=amount)


_Event = Callable[[_Story], tuple[str, str, int]]
"""A story -> the sentence of the question, its sum, the new amount."""


def _buy(story: _Story) -> tuple[str, str, int]:
    n, total = _more(story)
    verb, place = story.rng.choice(("buys", "gets")), story.rng.choice(PLACES)
    return f"{story.name} {verb} {n} more {story.item} at the {place}.", f"{story.amount} + {n} = {total}.", total


def _find(story: _Story) -> tuple[str, str, int]:
    n, total = _more(story)
    place = story.rng.choice(PLACES)
    return f"Then {story.name} finds {n} {story.item} at the {place}.", f"{story.amount} + {n} = {total}.", total


def _gift(story: _Story) -> tuple[str, str, int]:
    n, total = _more(story)
    return f"{story.friend} gives {story.name} {n} {story.item}.", f"{story.amount} + {n} = {total}.", total


def _give(story: _Story) -> tuple[str, str, int]:
    n, total = _less(story)
    return f"{story.name} gives {n} {story.item} to {story.friend}.", f"{story.amount} - {n} = {total}.", total


def _lose(story: _Story) -> tuple[str, str, int]:
    n, total = _less(story)
    return f"On the way home {story.name} loses {n} {story.item}.", f"{story.amount} - {n} = {total}.", total


def _sell(story: _Story) -> tuple[str, str, int]:
    n, total = _less(story)
    place = story.rng.choice(PLACES)
    return f"{story.name} sells {n} of the {story.item} at the {place}.", f"{story.amount} - {n} = {total}.", total


def _double(story: _Story) -> tuple[str, str, int]:
    total = 2 * story.amount
    return f"Then the number of {story.item} doubles.", f"{story.amount} * 2 = {total}.", total


def _packs(story: _Story) -> tuple[str, str, int]:
    count, each = story.rng.randint(2, 9), story.rng.randint(2, 9)
    box, product = story.rng.choice(BOXES), count * each
    total = story.amount + product
    return (
        f"{story.name} adds {count} {box} with {each} {story.item} each.",
        f"{count} * {each} = {product}. {story.amount} + {product} = {total}.",
        total,
    )


def _friends(story: _Story) -> tuple[str, str, int]:
    pairs = [(c, e) for c in range(2, 8) for e in range(1, 8) if c * e <= max(2, story.amount // 2)]
    count, each = story.rng.choice(pairs)
    product = count * each
    total = story.amount - product
    return (
        f"{story.name} gives {each} {story.item} to each of {count} friends.",
        f"{count} * {each} = {product}. {story.amount} - {product} = {total}.",
        total,
    )


EVENTS: dict[str, _Event] = {
    "buy": _buy, "find": _find, "gift": _gift, "give": _give, "lose": _lose, "sell": _sell, "double": _double,
    "packs": _packs, "friends": _friends,
}  # fmt: skip

HELD_OUT_STORIES = (
    ("sell", "gift"),
    ("packs", "friends"),
    ("find", "give", "packs"),
    ("buy", "sell", "friends"),
    ("gift", "double", "lose"),
    ("lose", "give", "find"),
    ("give", "find", "sell", "buy"),
)


_LONG_STORIES = 800


def _training_stories() -> tuple[tuple[str, ...], ...]:
    """Return every order of two or three events, and many of four, but for those held out."""
    every = [story for length in (2, 3) for story in itertools.product(EVENTS, repeat=length)]
    long = list(itertools.product(EVENTS, repeat=4))
    stories = every + random.Random(4).sample(long, _LONG_STORIES)
    # doubling twice leaves the numbers that the arithmetic is meant for
    return tuple(story for story in stories if story.count("double") < 2 and story not in HELD_OUT_STORIES)


STORY_TEMPLATES = _training_stories()


def _story(template: Sequence[str], rng: random.Random) -> Problem:
    name, friend = rng.sample(NAMES, 2)
    story = _Story(rng, name, friend, rng.choice(ITEMS), rng.randint(16, 60))
    question = [f"{name} has {story.amount} {story.item}."]
    solution = list(question)
    for event in template:
        sentence, step, amount = EVENTS[event](story)
        question.append(sentence)
        # a step repeats its sentence: copying keeps the order, and the sum stands beside its numbers
        solution += [sentence, step]
        story = story.to(amount)
    question.append(f"How many {story.item} does {name} have now?")
    solution.append(f"The answer is {story.amount}.")
    return Problem("-".join(template), " ".join(question), " ".join(solution), story.amount)


def _more(story: _Story) -> tuple[int, int]:
    n = story.rng.randint(2, 40)
    return n, story.amount + n


def _less(story: _Story) -> tuple[int, int]:
    n = story.rng.randint(1, max(1, min(40, story.amount // 2)))
    return n, story.amount - n


def _rate(rng: random.Random) -> tuple[str, str, int]:
    each, hours, item = rng.randint(2, 12), rng.randint(2, 12), rng.choice(ITEMS)
    return (
        f"A machine packs {each} {item} per hour. How many {item} does it pack in {hours} hours?",
        f"In {hours} hours it packs {each} * {hours} = {each * hours}.",
        each * hours,
    )


def _price(rng: random.Random) -> tuple[str, str, int]:
    cost, count, item, name = rng.randint(2, 9), rng.randint(2, 9), rng.choice(ITEMS), rng.choice(NAMES)
    paid = cost * count + rng.randint(1, 30)
    return (
        f"{item.capitalize()} cost {cost} dollars each. {name} buys {count} and pays with {paid} dollars. "
        f"How many dollars does {name} get back?",
        f"The {item} cost {count} * {cost} = {cost * count}. {name} gets back {paid} - {cost * count} = "
        f"{paid - cost * count}.",
        paid - cost * count,
    )


def _together(rng: random.Random) -> tuple[str, str, int]:
    a, more, item = rng.randint(3, 50), rng.randint(2, 30), rng.choice(ITEMS)
    name, friend = rng.sample(NAMES, 2)
    return (
        f"{name} has {a} {item}. {friend} has {more} more than {name}. How many {item} do they have together?",
        f"{friend} has {a} + {more} = {a + more}. Together they have {a} + {a + more} = {2 * a + more}.",
        2 * a + more,
    )


def _rectangle(rng: random.Random) -> tuple[str, str, int]:
    a, b = rng.randint(2, 40), rng.randint(2, 40)
    return (
        f"A garden is {a} meters long and {b} meters wide. How many meters of fence go around it?",
        f"One long and one wide side make {a} + {b} = {a + b}. Around it is {a + b} * 2 = {2 * (a + b)}.",
        2 * (a + b),
    )


def _share(rng: random.Random) -> tuple[str, str, int]:
    each, count, item, name = rng.randint(2, 12), rng.randint(2, 9), rng.choice(ITEMS), rng.choice(NAMES)
    return (
        f"{name} shares {each * count} {item} equally among {count} friends. How many {item} does each friend get?",
        f"Each friend gets {each * count} / {count} = {each}.",
        each,
    )


def _age(rng: random.Random) -> tuple[str, str, int]:
    a, more, years = rng.randint(3, 40), rng.randint(2, 20), rng.randint(2, 20)
    name, friend = rng.sample(NAMES, 2)
    return (
        f"{name} is {a} years old. {friend} is {more} years older. How old is {friend} in {years} years?",
        f"{friend} is {a} + {more} = {a + more}. In {years} years it is {a + more} + {years} = {a + more + years}.",
        a + more + years,
    )


def _bus(rng: random.Random) -> tuple[str, str, int]:
    start, off, on = rng.randint(10, 60), rng.randint(2, 9), rng.randint(2, 20)
    place = rng.choice(PLACES)
    return (
        f"A bus carries {start} people. At the {place} {off} people get off and {on} people get on. "
        f"How many people are on the bus now?",
        f"{off} get off: {start} - {off} = {start - off}. {on} get on: {start - off} + {on} = {start - off + on}.",
        start - off + on,
    )


def _rows(rng: random.Random) -> tuple[str, str, int]:
    rows, each, item = rng.randint(2, 12), rng.randint(2, 12), rng.choice(ITEMS)
    extra = rng.randint(1, 20)
    return (
        f"There are {rows} rows with {each} {item} each and {extra} more {item} in a box. How many {item} are there?",
        f"The rows hold {rows} * {each} = {rows * each}. With the box it is {rows * each} + {extra} = "
        f"{rows * each + extra}.",
        rows * each + extra,
    )


OTHER_TEMPLATES: dict[str, Callable[[random.Random], tuple[str, str, int]]] = {
    "rate": _rate, "price": _price, "together": _together, "rectangle": _rectangle, "share": _share, "age": _age,
    "bus": _bus, "rows": _rows,
}  # fmt: skip

TRAINING_TEMPLATES = tuple("-".join(story) for story in STORY_TEMPLATES) + tuple(OTHER_TEMPLATES)
HELD_OUT_TEMPLATES = tuple("-".join(story) for story in HELD_OUT_STORIES)


def training_template(rng: random.Random) -> str:
    """Return a random training template; one problem in five is no story."""
    return rng.choice(tuple(OTHER_TEMPLATES)) if rng.random() < 0.2 else "-".join(rng.choice(STORY_TEMPLATES))


def problem(template: str, rng: random.Random) -> Problem:
    """Return a random problem of a template named in ``TRAINING_TEMPLATES`` or ``HELD_OUT_TEMPLATES``."""
    if template in OTHER_TEMPLATES:
        question, steps, answer = OTHER_TEMPLATES[template](rng)
        return Problem(template, question, f"{steps} The answer is {answer}.", answer)
    return _story(template.split("-"), rng)


def stated_answer(response: str) -> int | None:
    """Return the number after ``The answer is``, or None if the response states none."""
    _, found, rest = response.partition("The answer is ")
    digits = rest.split(".")[0].strip()
    return int(digits) if found and digits.isdigit() else None
