"""Generated instruction-following tasks: small transformations of lists, sentences, tables and passages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import attrs

from caddtree.training.reasoning import NAMES, PLACES

WORDS = (
    "river", "stone", "cloud", "table", "window", "garden", "letter", "orange", "silver", "candle", "bridge",
    "forest", "mirror", "pocket", "button", "castle", "planet", "ticket", "basket", "hammer", "island", "jacket",
    "kettle", "lemon", "market", "needle", "paper", "rabbit", "saddle", "tiger", "violin", "wallet", "yogurt",
    "zebra", "anchor", "bottle", "copper", "dragon", "engine", "feather",
)  # fmt: skip
COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "purple")
CITIES = ("Oslo", "Lima", "Rome", "Cairo", "Delhi", "Paris", "Quito", "Kyoto", "Bern", "Accra")
JOBS = ("teacher", "baker", "doctor", "pilot", "farmer", "painter", "driver", "singer")
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "new", "dark": "light", "full": "empty", "hard": "soft",
    "early": "late", "high": "low", "wet": "dry", "loud": "quiet", "strong": "weak",
}  # fmt: skip
PAST = {
    "walks": "walked", "opens": "opened", "paints": "painted", "cleans": "cleaned", "visits": "visited",
    "carries": "carried", "watches": "watched", "moves": "moved",
}  # fmt: skip


@attrs.frozen
class Task:
    """One instruction and the answer that follows it."""

    kind: str
    instruction: str
    answer: str


def _words(rng: random.Random, low: int = 3, high: int = 7) -> list[str]:
    return rng.sample(WORDS, rng.randint(low, high))


def _bullets(entries: list[str]) -> str:
    return "\n".join(f"- {entry}" for entry in entries)


def _numbered(entries: list[str]) -> str:
    return "\n".join(f"{index}. {entry}" for index, entry in enumerate(entries, start=1))


def _sort_words(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    ask = rng.choice(("Sort these words alphabetically", "Put these words in alphabetical order"))
    return f"{ask}: {', '.join(words)}.", f"Here are the words in alphabetical order:\n{_bullets(sorted(words))}"


def _reverse(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    ask = rng.choice(("Reverse the order of this list", "Write this list backwards"))
    return f"{ask}: {', '.join(words)}.", f"Here is the list in reverse order:\n{_numbered(words[::-1])}"


def _upper(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    return f"Write these words in capital letters: {', '.join(words)}.", ", ".join(words).upper() + "."


def _count(rng: random.Random) -> tuple[str, str]:
    words = _words(rng, 2, 9)
    return (
        f"How many words are in this list: {', '.join(words)}?",
        f"Let us count the words:\n{_numbered(words)}\nThere are {len(words)} words in the list.",
    )


def _numbered_list(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    return f"Make a numbered list of: {', '.join(words)}.", f"Here is the numbered list:\n{_numbered(words)}"


def _bullet_list(rng: random.Random) -> tuple[str, str]:
    words = _words(rng)
    return f"Make a bullet list of: {', '.join(words)}.", f"Here is the bullet list:\n{_bullets(words)}"


def _person(rng: random.Random) -> dict[str, object]:
    return {
        "name": rng.choice(NAMES),
        "age": rng.randint(18, 80),
        "city": rng.choice(CITIES),
        "job": rng.choice(JOBS),
    }


def _sentence(person: dict[str, object]) -> str:
    return f"{person['name']} is {person['age']} years old, lives in {person['city']} and works as a {person['job']}."


def _to_json(rng: random.Random) -> tuple[str, str]:
    person = _person(rng)
    return f"Write this as JSON: {_sentence(person)}", json.dumps(person, indent=2)


def _from_json(rng: random.Random) -> tuple[str, str]:
    person = _person(rng)
    return f"Describe this person in one sentence:\n{json.dumps(person)}", _sentence(person)


def _extract(rng: random.Random) -> tuple[str, str]:
    person = _person(rng)
    key = rng.choice(("name", "age", "city", "job"))
    return (
        f"Read the text and give the {key}.\nText: {_sentence(person)}",
        f"The {key} in the text is {person[key]}.",
    )


def _passage(rng: random.Random) -> tuple[str, str]:
    name, friend = rng.sample(NAMES, 2)
    place, thing, color = rng.choice(PLACES), rng.choice(WORDS), rng.choice(COLORS)
    passage = f"{name} went to the {place} with {friend}. There they saw a {color} {thing} and took it home."
    question, answer = rng.choice(
        (
            ("Who went with " + name + "?", f"{friend} went to the {place} with {name}."),
            ("What did they see?", f"They saw a {color} {thing} at the {place}."),
            ("Where did they go?", f"{name} and {friend} went to the {place}."),
            (f"What color was the {thing}?", f"The {thing} was {color}."),
        )
    )
    return f"{passage}\nQuestion: {question}", answer


def _opposite(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(sorted(OPPOSITES), rng.randint(2, 5))
    return (
        f"Give the opposite of each word: {', '.join(words)}.",
        "\n".join(f"{word}: {OPPOSITES[word]}" for word in words),
    )


def _past(rng: random.Random) -> tuple[str, str]:
    verb, name, place, thing = rng.choice(sorted(PAST)), rng.choice(NAMES), rng.choice(PLACES), rng.choice(WORDS)
    return (
        f"Rewrite in the past tense: {name} {verb} the {thing} near the {place} today.",
        f"{name} {PAST[verb]} the {thing} near the {place} today.",
    )


def _even(rng: random.Random) -> tuple[str, str]:
    numbers = [rng.randint(1, 99) for _ in range(rng.randint(4, 8))]
    kind = rng.choice(("even", "odd"))
    kept = [str(n) for n in numbers if n % 2 == (kind == "odd")]
    listed = ", ".join(kept) if kept else "none"
    return f"Which of these numbers are {kind}: {', '.join(map(str, numbers))}?", f"The {kind} numbers are: {listed}."


def _sort_numbers(rng: random.Random) -> tuple[str, str]:
    numbers = [rng.randint(1, 99) for _ in range(rng.randint(3, 7))]
    ordered = ", ".join(map(str, sorted(numbers)))
    return (
        f"Sort these numbers from small to large: {', '.join(map(str, numbers))}.",
        f"From small to large the numbers are: {ordered}.",
    )


def _letter(rng: random.Random) -> tuple[str, str]:
    name, friend = rng.sample(NAMES, 2)
    place, hour = rng.choice(PLACES), rng.randint(1, 12)
    return (
        f"Write a short letter from {name} to {friend}. {name} wants to meet at the {place} at {hour} o'clock.",
        f"Dear {friend},\n\nI hope you are well. Would you like to meet me at the {place} at {hour} o'clock? "
        f"I would be very happy to see you.\n\nBest wishes,\n{name}",
    )


def _table(rng: random.Random) -> tuple[str, str]:
    people = [_person(rng) for _ in range(rng.randint(2, 4))]
    asked = "; ".join(f"{p['name']}, {p['age']}, {p['city']}" for p in people)
    rows = "\n".join(f"| {p['name']} | {p['age']} | {p['city']} |" for p in people)
    return (
        f"Make a table with the columns name, age and city: {asked}.",
        f"| name | age | city |\n| --- | --- | --- |\n{rows}",
    )


def _repeat(rng: random.Random) -> tuple[str, str]:
    word, count = rng.choice(WORDS), rng.randint(2, 6)
    return f"Repeat the word {word} {count} times.", " ".join([word] * count) + "."


def _first_letters(rng: random.Random) -> tuple[str, str]:
    words = _words(rng, 3, 6)
    return (
        f"Take the first letter of each word: {', '.join(words)}.",
        "\n".join(f"{word}: {word[0]}" for word in words),
    )


def _replace(rng: random.Random) -> tuple[str, str]:
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    old, new = rng.sample(WORDS, 2)
    color = rng.choice(COLORS)
    text = "{name} left the {color} {thing} at the {place} and came back for the {thing} later."
    before = text.format(name=name, color=color, thing=old, place=place)
    return f"Replace {old} with {new}: {before}", text.format(name=name, color=color, thing=new, place=place)


def _steps(rng: random.Random) -> tuple[str, str]:
    drink = rng.choice(("tea", "coffee", "soup", "lemonade"))
    name, count = rng.choice(NAMES), rng.randint(2, 6)
    return (
        f"Explain to {name} in steps how to make {count} cups of {drink}.",
        f"Here is how to make {count} cups of {drink}, {name}:\n1. Take a clean pot and {count} cups.\n"
        f"2. Pour water for {count} cups into the pot.\n3. Prepare the {drink} in the pot and stir it.\n"
        f"4. Fill the {count} cups and enjoy your {drink}.",
    )


KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "sort_words": _sort_words, "reverse": _reverse, "upper": _upper, "count": _count, "numbered": _numbered_list,
    "bullets": _bullet_list, "to_json": _to_json, "from_json": _from_json, "extract": _extract,
    "passage": _passage, "opposite": _opposite, "past": _past, "even": _even, "sort_numbers": _sort_numbers,
    "letter": _letter, "table": _table, "repeat": _repeat, "first_letters": _first_letters, "replace": _replace,
    "steps": _steps,
}  # fmt: skip


def task(kind: str, rng: random.Random) -> Task:
    """Return a random task of one kind."""
    instruction, answer = KINDS[kind](rng)
    return Task(kind, instruction, answer)
