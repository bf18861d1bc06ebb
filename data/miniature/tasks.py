"""Makers of tasks, by use case: how the instruction is worded and what a right answer holds."""

import random
from typing import Any

from miniature.facts import FACTS, SUBJECT_OF, VALUE_OF
from miniature.templates import ORDERS
from miniature.vocab import NUMBER_WORDS, PLURALS, VERBS
from miniature.world import Maker, Task, constrain, pick, spec

CATEGORY_CLAIMS = ["name", "kind", "town", "food", "price", "person", "river", "region", "craft", "color", "animal",
                   "thing", "day", "place", "weather"]  # fmt: skip


def closed(task: str, use_case: str, slots: dict[str, str], require: list[str], **more: Any) -> dict[str, Any]:
    """Build the specification of a task whose answer must rest on the prompt alone."""
    return spec(task, use_case, slots, require, closed=True, scope=CATEGORY_CLAIMS, **more)


def record(rng: random.Random) -> Task:
    """Generation: describe a record."""
    slots = {category: pick(rng, category) for category in ("name", "kind", "town", "food")}
    priced = rng.random() < 0.4
    if priced:
        slots["price"] = pick(rng, "price")
    page = ", ".join(f"{key} {value}" for key, value in slots.items())
    said, constraint = constrain(rng, ["sentences", "words"], 0.4, 14 if priced else 10)
    ask = rng.choice(["Describe this place:", "Write about this place:", "Write a text for this page:"])
    require = list(slots.values())
    gold = closed("priced" if priced else "record", "generation", slots, require, min_required=4, constraint=constraint)
    return Task(f"{ask} {page}.{said}", gold)


def story(rng: random.Random) -> Task:
    """Generation: a short story about an animal in a town."""
    slots = {"animal": pick(rng, "animal"), "town": pick(rng, "town")}
    said, constraint = constrain(rng, ["sentences", "use", "avoid"], 0.7)
    ask = rng.choice(["Write a story about a", "Tell me a story about a", "Write a short story about a"])
    require = list(slots.values())
    gold = spec("story", "generation", slots, require, scope=["animal", "town"], constraint=constraint)
    return Task(f"{ask} {slots['animal']} in {slots['town']}.{said}", gold)


def note(rng: random.Random) -> Task:
    """Generation: a note of thanks or an invitation."""
    if rng.random() < 0.5:
        slots = {"person": pick(rng, "person"), "food": pick(rng, "food")}
        ask = rng.choice(
            [
                "Write a note to {person} and give thanks for the {food}.",
                "Write to thank {person} for the {food}.",
            ]
        )
        task, require = "thanks", [*slots.values(), "thank"]
    else:
        slots = {"person": pick(rng, "person"), "town": pick(rng, "town"), "day": pick(rng, "day")}
        ask = rng.choice(
            [
                "Write a note to ask {person} to {town} on {day}.",
                "Ask {person} to come to {town} on {day}.",
            ]
        )
        task, require = "invite", [*slots.values(), "come"]
    said, constraint = constrain(rng, ["sentences", "use"], 0.5)
    gold = spec(task, "generation", slots, require, scope=list(slots), constraint=constraint, courteous=True)
    return Task(ask.format(**slots) + said, gold)


def ad(rng: random.Random) -> Task:
    """Generation: an ad for a shop."""
    slots = {"name": pick(rng, "name"), "food": pick(rng, "food")}
    said, constraint = constrain(rng, ["sentences", "use"], 0.5)
    ask = rng.choice(["Write an ad for the", "Make an ad for the"])
    gold = spec("ad", "generation", slots, list(slots.values()), scope=["name", "food"], constraint=constraint)
    return Task(f"{ask} {slots['name']} with {slots['food']}.{said}", gold)


QUESTIONS: dict[str, tuple[str, ...]] = {
    "river": ("Which river runs through {}?", "What is the river in {}?"),
    "region": ("Where is the town of {}?", "In which part of the land is {}?"),
    "craft": ("What is {} known for?", "What goods is the town of {} known for?"),
    "mayor": ("Who is the mayor of {}?", "What is the name of the mayor of {}?"),
    "flag": ("What color is the flag of {}?", "Which color has the flag of {}?"),
    "home": ("Where does the {} live?", "In which place does the {} live?"),
    "diet": ("What does the {} like to eat?", "What food does the {} eat?"),
}

OPENERS = ("", "", "", "Tell me: ", "I want to know: ", "Please say: ")
PURPOSES = ("", "", " for a story", " for our page", " for a guest", " for my friend")


def open_question(rng: random.Random) -> Task:
    """Open QA: a fact of the world."""
    relation = rng.choices(list(FACTS), weights=[len(table) for table in FACTS.values()])[0]
    subject = rng.choice(list(FACTS[relation]))
    value = FACTS[relation][subject]
    slots = {SUBJECT_OF[relation]: subject, VALUE_OF[relation]: value}
    ask = rng.choice(OPENERS) + rng.choice(QUESTIONS[relation]).format(subject)
    said, constraint = constrain(rng, ["sentences"], 0.1)
    if constraint is not None:
        said, constraint = " Use one sentence.", {"type": "sentences", "n": 1}
    gold = spec(relation, "open_qa", slots, [value], scope=list(slots), constraint=constraint)
    return Task(ask + said, gold)


def brainstorm(rng: random.Random) -> Task:
    """Brainstorming: exactly so many things of a category."""
    category = rng.choice(list(PLURALS))
    n = rng.choice([2, 2, 2, 2, 3, 3, 3, 3, 4])
    plural, number = PLURALS[category], NUMBER_WORDS[n]
    ask = rng.choice(("List exactly", "Name", "Give me")) + f" {number} {plural}{rng.choice(PURPOSES)}."
    constraint: dict[str, Any] = {"type": "count", "n": n}
    if rng.random() < 0.25:
        constraint["avoid"] = pick(rng, category)
        ask += f" Do not mention {constraint['avoid']}."
    slots = {"num": number, "plural": plural}
    gold = spec("list", "brainstorming", slots, [], list=category, constraint=constraint)
    return Task(ask, gold)


CHATS: dict[str, tuple[str, ...]] = {
    "sad": (
        "User: I am {person} and my {animal} is ill. Helper:",
        "User: My {animal} is ill. I am {person}. Helper:",
    ),
    "glad": (
        "User: I am {person} and I got {food}! Helper:",
        "User: I am {person}. I got some {food}. Helper:",
    ),
    "ask": (
        "User: I am {person}. Do you have {food}? Helper:",
        "User: Hello, I am {person}. Is there {food}? Helper:",
    ),
}


def chat(rng: random.Random) -> Task:
    """Chat: a user who says something sad or glad, or asks for food."""
    task, extra, tone = rng.choice([("sad", "animal", "sorry"), ("glad", "food", "great"), ("ask", "food", "Yes")])
    slots = {"person": pick(rng, "person"), extra: pick(rng, extra)}
    said, constraint = constrain(rng, ["sentences"], 0.2)
    prompt = rng.choice(CHATS[task]).format(**slots)
    if said:
        prompt = prompt.removesuffix(" Helper:") + said + " Helper:"
    require = [*slots.values(), tone]
    gold = spec(task, "chat", slots, require, scope=list(slots), constraint=constraint, courteous=True)
    return Task(prompt, gold)


def polite(rng: random.Random) -> Task:
    """Rewrite: an order made polite."""
    slots = {"person": pick(rng, "person"), "order": rng.choice(ORDERS), "food": pick(rng, "food")}
    ask = rng.choice(["Make this polite:", "Say this in a polite way:"])
    require = [*slots.values(), "please|Please"]
    gold = closed("polite", "rewrite", slots, require, courteous=True)
    return Task(f"{ask} {slots['person']}, {slots['order']} me the {slots['food']}.", gold)


def past(rng: random.Random) -> Task:
    """Rewrite: a sentence put in the past."""
    present, then = rng.choice(VERBS)
    slots = {
        "person": pick(rng, "person"),
        "past": then,
        "food": pick(rng, "food"),
        "town": pick(rng, "town"),
    }
    ask = rng.choice(["Rewrite this with yesterday:", "Put this in the past:"])
    gold = closed("past", "rewrite", slots, [*slots.values(), "Yesterday|yesterday"])
    return Task(f"{ask} {slots['person']} {present} {slots['food']} in {slots['town']}.", gold)


def summary(rng: random.Random) -> Task:
    """Summarization: three sentences about a person; the last is not needed."""
    slots = {"person": pick(rng, "person"), "town": pick(rng, "town"), "food": pick(rng, "food")}
    thing, color = pick(rng, "thing"), pick(rng, "color")
    said, constraint = constrain(rng, ["sentences", "words"], 0.5, 12)
    ask = rng.choice(["Sum this up:", "Give the main point:"])
    person = slots["person"]
    text = f"{person} lives in {slots['town']}. {person} sells {slots['food']}. {person} has a {color} {thing}."
    gold = closed("summary", "summarization", slots, list(slots.values()), constraint=constraint)
    return Task(f"{ask} {text}{said}", gold | {"allowed": [thing, color]})


def review(rng: random.Random) -> Task:
    """Classification: is a review good or bad."""
    label, category = rng.choice([("good", "goodness"), ("bad", "badness")])
    first, second = pick(rng, category), pick(rng, category)
    text = f"The {pick(rng, 'food')} was {first} and the {rng.choice(['room', 'staff', 'house'])} was {second}."
    ask = rng.choice(["Is this review good or bad?", "Say if this review is good or bad:"])
    other = "bad" if label == "good" else "good"
    gold = spec("review", "classification", {"label": label}, [label, "review"], min_required=2)
    return Task(f"{ask} {text}", gold | {"wrong": [other]})


def repeat(rng: random.Random) -> Task:
    """Other: repeat a word."""
    scope = ["food", "animal", "town"]
    word, n = pick(rng, rng.choice(scope)), rng.choice([2, 3, 4])
    ask = rng.choice(("Say the word", "Repeat", "Say")) + f" {word} {NUMBER_WORDS[n]} times."
    slots = {"word": word, "repeats": ", ".join([word] * n)}
    constraint = {"type": "repeat", "n": n, "word": word}
    return Task(ask, spec("repeat", "other", slots, [word], scope=scope, constraint=constraint))


def bye(rng: random.Random) -> Task:
    """Other: take leave of somebody."""
    slots = {"person": pick(rng, "person")}
    ask = rng.choice(("Say goodbye to {person}", "Write goodbye to {person}", "Say goodbye to my friend {person}"))
    when = rng.choice(("", " on " + pick(rng, "day"), " in " + pick(rng, "town")))
    gold = spec("bye", "other", slots, [*slots.values(), "Goodbye|goodbye"], scope=["person"], courteous=True)
    return Task(ask.format(**slots) + when + ".", gold)


def closed_question(rng: random.Random) -> Task:
    """Closed QA: a question about two sentences."""
    slots = {category: pick(rng, category) for category in ("name", "kind", "town", "food")}
    asked = rng.choice(["town", "food"])
    text = f"The {slots['name']} is a {slots['kind']} in {slots['town']}. It sells {slots['food']}."
    ask = "Where is the {}?" if asked == "town" else "What does the {} sell?"
    gold = closed(f"closed_{asked}", "closed_qa", slots, [slots[asked]])
    return Task(f"{rng.choice(['Read this:', 'Text:'])} {text} {ask.format(slots['name'])}", gold)


def extract(rng: random.Random) -> Task:
    """Extract: find a town, a person or a day in a sentence."""
    slots = {category: pick(rng, category) for category in ("person", "food", "town", "day")}
    asked = rng.choice(["town", "person", "day"])
    text = f"{slots['person']} took the {slots['food']} to {slots['town']} on {slots['day']}."
    ask = rng.choice([f"Find the {asked} in this text:", f"Which {asked} is in this text?"])
    gold = closed(f"extract_{asked}", "extract", slots, [slots[asked]])
    wrong = [] if asked == "person" else [slots["person"]]
    return Task(f"{ask} {text}", gold | {"wrong": wrong})


MAKERS: dict[str, list[tuple[Maker, float]]] = {
    "generation": [(record, 15.2), (story, 13), (note, 10), (ad, 7.4)],
    "open_qa": [(open_question, 1)],
    "brainstorming": [(brainstorm, 1)],
    "chat": [(chat, 1)],
    "rewrite": [(polite, 1), (past, 1)],
    "summarization": [(summary, 1)],
    "classification": [(review, 1)],
    "other": [(repeat, 1), (bye, 1)],
    "closed_qa": [(closed_question, 1)],
    "extract": [(extract, 1)],
}
