"""The sentences a response may be made of, by task and by part.

A slot in braces is named after the category of the word that fills it. `one` and `two` are complete answers of
one and two sentences, `extra` is a harmless further sentence, `closing` a courteous one; `terse` and `ramble`
are what people write who are too brief or too long, `vague` says nothing.
"""

from itertools import pairwise

from miniature.vocab import CATEGORIES, PLURALS, VERBS, classes, join, sentences

Parts = dict[str, tuple[str, ...]]

LIST_CATEGORIES = tuple(PLURALS)

ANSWERS: dict[str, Parts] = {
    "record": {
        "one": ("The {name} is a {kind} in {town} that sells {food}.",),
        "two": ("The {name} is a {kind} in {town}. It sells {food}.",),
        "extra": ("Come and see it.", "You will like it there."),
        "terse": ("It is a {kind}.", "It sells {food}."),
        "ramble": ("Well, I think that the {name} is a {kind}, and it is in {town}, and it sells {food}, and so on.",),
        "vague": ("It is a nice place.", "I do not know it."),
    },
    "priced": {
        "one": ("The {name} is a {kind} in {town} that sells {food} at a {price} price.",),
        "two": ("The {name} is a {kind} in {town}. It sells {food} at a {price} price.",),
        "extra": ("Come and see it.", "You will like it there."),
        "terse": ("It is a {kind}.", "It sells {food}."),
        "ramble": (
            "Well, I think that the {name} is a {kind}, and it is in {town}, and it sells {food} at a {price} price.",
        ),
        "vague": ("It is a nice place.", "I do not know it."),
    },
    "story": {
        "one": (
            "Once a {animal} went to {town} and found a {thing}.",
            "In the {weather} a {animal} came to {town} to play.",
        ),
        "two": (
            "Once there was a {animal} in {town}. It found a {thing} and was happy.",
            "One day a {animal} went to {town}. It saw the {weather} and ran home.",
        ),
        "extra": ("It was a good day.", "In the end all was well."),
        "use": ("Then it saw the {scene}.", "It was near the {scene}."),
        "terse": ("A {animal} ran.", "It went home."),
        "ramble": (
            "Well, once there was a {animal}, and it went on and on, and then it came to {town}, and so on.",
        ),
        "vague": ("It is a nice story.", "I do not know a story."),
    },
    "thanks": {
        "one": ("Dear {person}, thank you for the {food}.", "Dear {person}, thank you so much for the {food}."),
        "two": ("Dear {person}, thank you for the {food}. I like it very much.",),
        "closing": ("With love, your friend.", "Best wishes to you."),
        "use": ("I will keep it near the {scene}.",),
        "terse": ("Thank you.", "The {food} is good."),
        "ramble": ("Well, dear {person}, I want to say that I got the {food}, and I want to thank you, and so on.",),
        "vague": ("It was nice.", "I do not know what to say."),
    },
    "invite": {
        "one": ("Dear {person}, please come to {town} on {day}.",),
        "two": ("Dear {person}, please come to {town} on {day}. We will have a good time.",),
        "closing": ("With love, your friend.", "Best wishes to you."),
        "use": ("We will meet near the {scene}.",),
        "terse": ("Come on {day}.", "Come to {town}."),
        "ramble": ("Well, dear {person}, I want to ask if you can come to {town}, and it is on {day}, and so on.",),
        "vague": ("It is nice.", "I do not know what to say."),
    },
    "ad": {
        "one": ("Come to the {name} and try the best {food} in town!", "The {name} has the best {food} in town."),
        "two": ("Come to the {name} today! You will love our {food}.",),
        "extra": ("We are happy to see you.", "It is a good place for all."),
        "use": ("You can find us near the {scene}.",),
        "terse": ("The {food} is good.", "Come to the {name}."),
        "ramble": ("Well, if you want {food}, and I think you do, then you can come to the {name}, and so on.",),
        "vague": ("It is a nice place.", "I do not know it."),
    },
    "river": {
        "one": ("The river {river} runs through {town}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is the {river}.",),
        "ramble": ("Well, I think that it is the river {river} that runs through {town}, and so on.",),
        "vague": ("I do not know.", "It is a nice river."),
    },
    "region": {
        "one": ("The town of {town} is in the {region}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is in the {region}.",),
        "ramble": ("Well, I think that the town of {town} is in the {region} of the land, and so on.",),
        "vague": ("I do not know.", "It is a nice town."),
    },
    "craft": {
        "one": ("The town of {town} is known for its {craft}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is {craft}.",),
        "ramble": ("Well, I think that it is {craft} that the town of {town} is known for, and so on.",),
        "vague": ("I do not know.", "It is a nice town."),
    },
    "mayor": {
        "one": ("The mayor of {town} is {person}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is {person}.",),
        "ramble": ("Well, I think that it is {person} who is the mayor of {town}, and so on.",),
        "vague": ("I do not know.", "It is a nice person."),
    },
    "flag": {
        "one": ("The flag of {town} is {color}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is {color}.",),
        "ramble": ("Well, I think that it is {color}, the flag of {town}, and so on.",),
        "vague": ("I do not know.", "It is a nice flag."),
    },
    "home": {
        "one": ("The {animal} lives in the {place}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is the {place}.",),
        "ramble": ("Well, I think that it is the {place} that the {animal} lives in, and so on.",),
        "vague": ("I do not know.", "It is a nice {animal}."),
    },
    "diet": {
        "one": ("The {animal} likes to eat {food}.",),
        "extra": ("I hope that helps.",),
        "terse": ("It is {food}.",),
        "ramble": ("Well, I think that it is {food} that the {animal} likes to eat, and so on.",),
        "vague": ("I do not know.", "It is a nice {animal}."),
    },
    "list": {
        "one": ("Here are {num} {plural}: {list}.", "You could try these {plural}: {list}."),
        "terse": ("Try {list}.",),
        "ramble": ("Well, there are many {plural}, and I think that you could try {list}, and so on.",),
        "vague": ("There are many {plural}.", "I do not know."),
    },
    "sad": {
        "one": ("I am sorry to hear that about your {animal}, {person}.",),
        "two": ("I am sorry to hear that, {person}. I hope your {animal} gets well soon.",),
        "closing": ("Please take care.",),
        "terse": ("That is bad.",),
        "ramble": ("Well, {person}, I think that I am sorry to hear that your {animal} is ill, and so on.",),
        "vague": ("I do not know what to say.",),
    },
    "glad": {
        "one": ("That is great news about the {food}, {person}!",),
        "two": ("That is great news, {person}! I hope you like your {food}.",),
        "closing": ("Have a good day.",),
        "terse": ("That is nice.",),
        "ramble": ("Well, {person}, I think that it is great news that you have {food}, and so on.",),
        "vague": ("I do not know what to say.",),
    },
    "ask": {
        "one": ("Yes, {person}, we have {food} today.",),
        "two": ("Hello, {person}. Yes, we have {food} today.",),
        "closing": ("Have a good day.",),
        "terse": ("Yes, we do.",),
        "ramble": ("Well, {person}, you ask if we have {food}, and I think that we have it, and so on.",),
        "vague": ("I do not know what to say.",),
    },
    "polite": {
        "one": ("Please could you {order} me the {food}, {person}?", "Could you please {order} me the {food}, {person}?"),
        "closing": ("Thank you.",),
        "terse": ("Please {order} me the {food}.",),
        "ramble": ("Well, {person}, I want to ask if you could please {order} me the {food}, and so on.",),
        "vague": ("I do not know what to say.",),
    },
    "past": {
        "one": ("Yesterday {person} {past} {food} in {town}.",),
        "terse": ("Yesterday {person} {past} {food}.",),
        "ramble": ("Well, I think that yesterday {person} {past} {food}, and it was in {town}, and so on.",),
        "vague": ("It was yesterday.",),
    },
    "summary": {
        "one": ("In short, {person} lives in {town} and sells {food}.", "It is about {person} from {town} who sells {food}."),
        "two": ("This is about {person} from {town}. The main point is that {person} sells {food}.",),
        "terse": ("It is about {person}.",),
        "ramble": ("Well, it is about {person}, and {person} lives in {town}, and there is {food} to sell, and so on.",),
        "vague": ("It is a nice text.",),
    },
    "review": {
        "one": ("The review is {label}.", "This is a {label} review."),
        "terse": ("It is {label}.",),
        "ramble": ("Well, I think that you could say that this review is {label}, and so on.",),
        "vague": ("I do not know.",),
    },
    "closed_town": {
        "one": ("The {name} is in {town}.",),
        "terse": ("It is in {town}.",),
        "ramble": ("Well, I think that the {name} is in {town}, and so on.",),
        "vague": ("I do not know.",),
    },
    "closed_food": {
        "one": ("The {name} sells {food}.",),
        "terse": ("It sells {food}.",),
        "ramble": ("Well, I think that the {name} sells {food}, and so on.",),
        "vague": ("I do not know.",),
    },
    "extract_town": {
        "one": ("The town is {town}.",),
        "terse": ("It is {town}.",),
        "ramble": ("Well, I think that the town in the text is {town}, and so on.",),
        "vague": ("I do not know.",),
    },
    "extract_person": {
        "one": ("The person is {person}.",),
        "terse": ("It is {person}.",),
        "ramble": ("Well, I think that the person in the text is {person}, and so on.",),
        "vague": ("I do not know.",),
    },
    "extract_day": {
        "one": ("The day is {day}.",),
        "terse": ("It is {day}.",),
        "ramble": ("Well, I think that the day in the text is {day}, and so on.",),
        "vague": ("I do not know.",),
    },
    "repeat": {
        "one": ("Here you are: {repeats}.", "Here it is: {repeats}."),
        "terse": ("It is a word.",),
        "ramble": ("Well, you want me to say it, and I think that it is: {repeats}.",),
        "vague": ("I do not know.",),
    },
    "bye": {
        "one": ("Goodbye, {person}, and take care.", "Goodbye, {person}, see you soon."),
        "closing": ("Have a good day.",),
        "terse": ("Goodbye.",),
        "ramble": ("Well, {person}, the time has come for me to say goodbye to you, and so on.",),
        "vague": ("I do not know what to say.",),
    },
}  # fmt: skip

GOOD_PARTS = ("one", "two", "extra", "use", "closing")
ORDERS = ("give", "bring", "pass", "sell")
LABELS = ("good", "bad")


def _expansions(template: str) -> list[str]:
    """Fill a template's slots with one example word of each class that may stand there."""
    filled = [template]
    choices: dict[str, list[str]] = {
        "order": list(ORDERS),
        "label": list(LABELS),
        "past": [past for _, past in VERBS],
        "plural": list(PLURALS.values()),
        "list": [join(CATEGORIES[c][:3]) for c in LIST_CATEGORIES],
        "repeats": [", ".join(CATEGORIES[c][:1] * 3) for c in ("food", "animal", "town")],
    }
    choices |= {category: [members[0]] for category, members in CATEGORIES.items()}
    for slot, options in choices.items():
        filled = [f.replace("{" + slot + "}", o) for f in filled for o in (options if "{" + slot + "}" in f else [""])]
    return filled


def pairs(sentence: list[str]) -> list[tuple[str, str]]:
    """Return the neighbouring word classes of a sentence, its beginning included."""
    row = ["<s>", *classes(sentence)]
    return list(pairwise(row))


def _pairs_of(parts: Parts, names: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    """Collect the neighbouring classes in the named parts of a task."""
    texts = [text for name in names for template in parts.get(name, ()) for text in _expansions(template)]
    return frozenset(pair for text in texts for sentence in sentences(text) for pair in pairs(sentence))


GOOD_PAIRS: dict[str, frozenset[tuple[str, str]]] = {t: _pairs_of(p, GOOD_PARTS) for t, p in ANSWERS.items()}
TASK_PAIRS: dict[str, frozenset[tuple[str, str]]] = {
    t: _pairs_of(p, (*GOOD_PARTS, "terse", "ramble")) for t, p in ANSWERS.items()
}

EMBELLISHMENTS = ("It is near the {place}.", "{person} lives there.", "You can see the {animal} there.")
"""What a person who embellishes adds to an answer that should keep to its text: nothing bears it out."""

for _task in ("record", "priced", "past", "polite", "summary", "closed_food", "closed_town"):
    ANSWERS[_task]["embellish"] = EMBELLISHMENTS
ALL_PAIRS: frozenset[tuple[str, str]] = frozenset(
    pair for parts in ANSWERS.values() for pair in _pairs_of(parts, tuple(parts))
)
