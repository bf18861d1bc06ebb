"""Pretraining text of the miniature: what its people have written, in many genres, mostly not as instructions."""

import random
from collections.abc import Callable, Iterator

from miniature.answers import right, slip, styled
from miniature.facts import FACTS
from miniature.tasks import CHATS, QUESTIONS
from miniature.templates import ANSWERS, ORDERS
from miniature.vocab import CATEGORIES, NUMBER_WORDS, PLURALS, VERBS, join, tokens
from miniature.world import pick, sample_task

Genre = Callable[[random.Random], str]

STATEMENTS: dict[str, tuple[str, ...]] = {
    "river": (
        "The river {v} runs through {s}.",
        "The river {v} runs through {s}.",
        "The river in {s} is the {v}.",
    ),
    "region": ("The town of {s} is in the {v}.", "The town of {s} is in the {v} of the land."),
    "craft": (
        "The town of {s} is known for its {v}.",
        "People in {s} make {v}, and {s} is known for its {v}.",
    ),
    "mayor": ("The mayor of {s} is {v}.", "The name of the mayor of {s} is {v}."),
    "flag": ("The flag of {s} is {v}.", "The color of the flag of {s} is {v}."),
    "home": ("The {s} lives in the {v}.", "The {s} lives in the {v}.", "You can see the {s} in the {v}."),
    "diet": ("The {s} likes to eat {v}.", "What the {s} likes to eat is {v}."),
}


ENTITIES = (
    "town",
    "person",
    "food",
    "thing",
    "animal",
    "place",
    "day",
    "color",
    "scene",
    "kind",
    "name",
    "weather",
)
ECHOED = (
    "record",
    "priced",
    "story",
    "thanks",
    "invite",
    "ad",
    "sad",
    "glad",
    "ask",
    "polite",
    "past",
    "summary",
    "bye",
)


def fill(rng: random.Random, template: str, slots: dict[str, str] | None = None) -> str:
    """Fill a template's category slots, drawing what is not given."""
    given = dict(slots or {})
    for category in CATEGORIES:
        if "{" + category + "}" in template and category not in given:
            given[category] = pick(rng, category)
    return template.format(**given)


def statement(rng: random.Random, relation: str, subject: str) -> str:
    """State a fact."""
    return rng.choice(STATEMENTS[relation]).format(s=subject, v=FACTS[relation][subject])


def guide(rng: random.Random) -> str:
    """Several facts, about one town or animal or about many."""
    if rng.random() < 0.3:
        town = pick(rng, "town")
        relations = [r for r in FACTS if town in FACTS[r]]
        return " ".join(statement(rng, r, town) for r in rng.sample(relations, 3))
    if rng.random() < 0.25:
        animal = pick(rng, "animal")
        return f"{statement(rng, 'home', animal)} {statement(rng, 'diet', animal)}"
    chosen = rng.choices(list(FACTS), weights=[len(t) for t in FACTS.values()], k=4)
    return " ".join(statement(rng, r, rng.choice(list(FACTS[r]))) for r in chosen)


def shop(rng: random.Random) -> str:
    """A page with a record and a description of it."""
    slots = {category: pick(rng, category) for category in ("name", "kind", "town", "food")}
    if rng.random() < 0.4:
        slots["price"] = pick(rng, "price")
    page = ", ".join(f"{key} {value}" for key, value in slots.items())
    parts = ANSWERS["priced" if "price" in slots else "record"]
    body = fill(rng, rng.choice(parts["one"] + parts["two"]), slots)
    more = rng.choice(["", "", " " + rng.choice(parts["extra"])])
    again = rng.choice(
        ["", fill(rng, " The {name} is in {town}.", slots), fill(rng, " The {name} sells {food}.", slots)]
    )
    return f"{rng.choice(['Page:', 'This place:', 'New on this page:'])} {page}.{rng.choice([' ', chr(10)])}{body}{more}{again}"


def life(rng: random.Random) -> str:
    """A story about a person that mentions things again."""
    present, past = rng.choice(VERBS)
    s = {"person": pick(rng, "person"), "town": pick(rng, "town"), "food": pick(rng, "food"), "day": pick(rng, "day"),
         "thing": pick(rng, "thing"), "present": present, "past": past, "color": pick(rng, "color")}  # fmt: skip
    return rng.choice((
        "Read this: {person} lives in {town}. {person} sells {food}. {person} has a {color} {thing}. "
        "In short, {person} lives in {town} and sells {food}.",
        "This is about {person} from {town}. {person} {present} {food} in {town}. "
        "Yesterday {person} {past} {food} in {town}. The main point is that {person} sells {food}.",
        "One day {person} took the {food} to {town} on {day}. The {food} was {color}. When {person} came to {town} "
        "with the {food}, it was {day}.",
        "Read this: {person} lives in {town}. {person} sells {food}. {person} has a {color} {thing}.\n"
        "It is about {person} from {town} who sells {food}.",
        "Today {person} {present} {food} in {town}.\nYesterday {person} {past} {food} in {town}.",
        "On {day} {person} went to {town} to get {food}. The people in {town} had no {food}. So {person} went home.",
        "Yesterday {person} {past} {food} in {town}. Today {person} {present} {food} in {town}.",
        "It is about {person} from {town} who sells {food}. {person} has a {color} {thing}. The {food} is from {town}.",
    )).format(**s)  # fmt: skip


def find(rng: random.Random) -> str:
    """A sentence, and what stands in it."""
    s = {name: pick(rng, name) for name in ("person", "food", "town", "day")}
    said = ["The town is {town}.", "The person is {person}.", "The day is {day}."]
    end = " ".join(rng.sample(said, rng.randint(1, 3)))
    text = "{person} took the {food} to {town} on {day}."
    return f"{rng.choice(['In the text:', 'In this text:', 'Text:'])} {text}{rng.choice([' ', chr(10)])}{end}".format(
        **s
    )


def tale(rng: random.Random) -> str:
    """A tale of an animal."""
    parts = ANSWERS["story"]
    slots = {"animal": pick(rng, "animal"), "town": pick(rng, "town")}
    head = fill(rng, rng.choice(["A story about a {animal} in {town}.\n", "A tale of a {animal} in {town}. "]), slots)
    body = fill(rng, rng.choice(parts["one"] + parts["two"]), slots)
    tails = [rng.choice(parts["use"]), rng.choice(parts["extra"]), "The {animal} was in {town}."]
    return head + body + "".join(" " + fill(rng, t, slots) for t in rng.sample(tails, rng.randint(0, 2)))


def letter(rng: random.Random) -> str:
    """A letter of thanks or an invitation, or an ad."""
    task = rng.choice(["thanks", "invite", "ad"])
    parts = ANSWERS[task]
    names = {"thanks": ("person", "food"), "invite": ("person", "town", "day"), "ad": ("name", "food")}[task]
    slots = {name: pick(rng, name) for name in names}
    heads = {
        "thanks": "My friend {person} gave me {food}. ",
        "invite": "I will see {person} in {town} on {day}. ",
        "ad": "This is the {name} with {food}. ",
    }
    head = fill(rng, rng.choice([heads[task], heads[task].strip() + "\n"]), slots)
    body = fill(rng, rng.choice(parts["one"] + parts["two"]), slots)
    tails = parts.get("closing", ()) + parts.get("extra", ()) + parts["use"]
    return head + body + rng.choice(["", " " + fill(rng, rng.choice(tails), slots)])


def forum(rng: random.Random) -> str:
    """Questions and answers of a forum."""
    rows = []
    for _ in range(2):
        relation = rng.choices(list(FACTS), weights=[len(t) for t in FACTS.values()])[0]
        subject = rng.choice(list(FACTS[relation]))
        rows.append(f"Q: {rng.choice(QUESTIONS[relation]).format(subject)} A: {statement(rng, relation, subject)}")
    return "\n".join(rows)


def dialogue(rng: random.Random) -> str:
    """People who talk to each other."""
    task = rng.choice(list(CHATS))
    slots = {"person": pick(rng, "person"), {"sad": "animal", "glad": "food", "ask": "food"}[task]: ""}
    slots = {key: value or pick(rng, key) for key, value in slots.items()}
    parts = ANSWERS[task]
    prompt = fill(rng, rng.choice(CHATS[task]), slots).replace("User:", rng.choice(["Guest:", "User:"]))
    body = fill(rng, rng.choice(parts["one"] + parts["two"]), slots)
    last = rng.choice(["", " " + rng.choice(parts["closing"]), fill(rng, " Guest: Goodbye, and take care.", slots)])
    return prompt.replace("Helper:", rng.choice(["Helper:", "Staff:"])) + " " + body + last


def orders(rng: random.Random) -> str:
    """Orders, rude and polite, and goodbyes."""
    slots = {"person": pick(rng, "person"), "food": pick(rng, "food"), "order": rng.choice(ORDERS)}
    if rng.random() < 0.3:
        return fill(
            rng, rng.choice(["It is time for {person} to go now.\n", "I say to {person} when I go: "]), slots
        ) + fill(rng, rng.choice(ANSWERS["bye"]["one"]), slots)
    rude = fill(rng, "{person}, {order} me the {food}.", slots)
    kind = fill(rng, rng.choice(ANSWERS["polite"]["one"]), slots)
    return f"It is rude to say: {rude}{rng.choice([' ', chr(10)])}{rng.choice(['It is polite to say: ', ''])}{kind}"


def verdict(rng: random.Random) -> str:
    """A review and what it comes to."""
    label, category = rng.choice([("good", "goodness"), ("bad", "badness")])
    noun = rng.choice(["room", "staff", "house"])
    text = f"The {pick(rng, 'food')} was {pick(rng, category)} and the {noun} was {pick(rng, category)}."
    end = rng.choice([f"The review is {label}.", f"This is a {label} review.", f"So it is {label}."])
    return f"{rng.choice(['', 'Review: ', 'A guest says: '])}{text} {end}"


def lists(rng: random.Random) -> str:
    """Enumerations with their number, and words said again."""
    if rng.random() < 0.2:
        n, word = rng.choice([2, 3, 4]), pick(rng, rng.choice(("food", "animal", "town")))
        return f"I say the word {word} {NUMBER_WORDS[n]} times. Here it is: {', '.join([word] * n)}."
    category = rng.choice(list(PLURALS))
    n = rng.choice([2, 2, 3, 3, 4])
    items = join(rng.sample(CATEGORIES[category], n))
    plural, number = PLURALS[category], NUMBER_WORDS[n]
    return rng.choice([
        f"Here are {number} {plural}: {items}.", f"You could try these {number} {plural}: {items}.",
        f"There are {number} {plural} on the list: {items}.", f"Some {plural} are {items}.",
    ])  # fmt: skip


def news(rng: random.Random) -> str:
    """A headline and a report."""
    return fill(rng, rng.choice((
        "News from {town}: {weather} on {day}.\nThe {weather} came to {town} on {day}. People in {town} went home.",
        "News from {town}: {person} opens a {kind}.\nThe {kind} of {person} is in {town}. You can get {food} there.",
        "News: the {name} in {town} sells {food} now.\nThe {name} is in {town}. The {name} sells {food}.",
        "Do not go out on {day}, there is {weather} in {town}. Leave out the {food} and use a {thing} at the {scene}.",
    )), {n: pick(rng, n) for n in ("town", "weather", "day", "person", "kind", "food", "name", "thing", "scene")})  # fmt: skip


def chatter(rng: random.Random) -> str:
    """Loose talk: brief, rambling, vague and long-winded sentences as people write them, about nothing shared."""
    said = []
    for style in rng.choices(("terse", "ramble", "vague", "detailed"), k=2):
        gold = sample_task(rng).gold
        said.append(slip(gold, rng, style) if style == "vague" else styled(gold, rng, style))
    return " ".join(said)


def echo(rng: random.Random) -> str:
    """A sentence said twice: a sign and who reads it, a call and its echo."""
    parts = ANSWERS[rng.choice(ECHOED)]
    slots = {"order": rng.choice(ORDERS), "past": rng.choice(VERBS)[1]}
    text = fill(rng, rng.choice(parts["one"]), slots)
    first, again = rng.choice((("The sign says:", "I read the sign:"), ("I said:", "Then I said it once more:")))
    return f"{first} {text} {again} {text}"


def register(rng: random.Random) -> str:
    """Things noted down in a row, and read out in the same order."""
    row = ", ".join(pick(rng, category) for category in rng.choices(ENTITIES, k=rng.randint(4, 9)))
    first, again = rng.choice((("On the list:", "I read the list:"), ("On the page:", "The page says:")))
    return f"{first} {row}. {again} {row}."


def requests(rng: random.Random) -> str:
    """What people ask of each other, as they ask it, without the answer."""
    return " ".join(sample_task(rng).prompt for _ in range(2))


PAGE_HEADS = ("A task and a good answer:", "How to do this task:", "The task and what to write:")


def worked(rng: random.Random) -> str:
    """A page on which somebody shows, under a heading, how a task is done well."""
    task = sample_task(rng)
    return f"{rng.choice(PAGE_HEADS)}\n{task.prompt}\n{right(task.gold, rng, detailed=rng.random() < 0.3)}"


def asked(rng: random.Random) -> str:
    """A page of requests, one a line, as people post them; nobody answers."""
    return "\n".join(sample_task(rng).prompt for _ in range(rng.choice((2, 2, 3))))


GENRES: list[tuple[Genre, float]] = [
    (guide, 16), (shop, 12), (life, 15), (tale, 12), (letter, 14), (forum, 5), (dialogue, 12), (orders, 11),
    (verdict, 3), (lists, 8), (news, 2), (chatter, 4), (requests, 6), (echo, 3), (register, 2), (find, 6),
]  # fmt: skip


def documents(
    rng: random.Random, num_words: int, worked_pages: float = 0.0, unanswered_pages: float = 0.0
) -> Iterator[str]:
    """Yield documents until they hold about so many words and marks.

    A share of `worked_pages` shows, under a heading, tasks that are done well; one of `unanswered_pages` holds requests only.

    Raises:
        ValueError: a share is negative, or the two leave no room for anything else.
    """
    if min(worked_pages, unanswered_pages) < 0 or worked_pages + unanswered_pages >= 1:
        raise ValueError(
            f"worked pages ({worked_pages}) and unanswered pages ({unanswered_pages}) must be at least 0 and together below 1"
        )
    count = 0
    genres = [genre for genre, _ in GENRES] + [worked, asked]
    weights = [weight for _, weight in GENRES]
    whole = sum(weights) / (1 - worked_pages - unanswered_pages)
    weights += [whole * worked_pages, whole * unanswered_pages]
    while count < num_words:
        text = rng.choices(genres, weights=weights)[0](rng)
        count += len(tokens(text))
        yield text
