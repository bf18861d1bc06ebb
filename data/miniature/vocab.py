"""The words of the world by category, and how a text is cut into words, sentences and word classes."""

import re


def _row(text: str) -> tuple[str, ...]:
    """Cut a row of words at its blanks."""
    return tuple(text.split())


CATEGORIES: dict[str, tuple[str, ...]] = {
    "town": _row(
        "Alden Borga Corin Delmo Elvas Fenby Garth Holm Irwell Jarrow "
        "Kelso Lund Marl Norby Orsa Perth Rowan Selby Tarn Velden"
    ),
    "person": _row("Anna Ben Clara David Emma Finn Grace Hugo Iris Jack Kate Leo"),
    "name": _row("Lion Crown Bell Swan Anchor Star Oak Ship Rose Moon"),
    "kind": _row("cafe pub hotel bakery shop bar farm mill"),
    "food": _row("bread soup cheese fish rice pie honey cake plums eggs corn nuts"),
    "price": ("low", "fair", "high"),
    "river": _row("Avon Blyth Cam Don Esk Fal Nene Ouse Tay Wye"),
    "region": ("north", "south", "east", "west"),
    "craft": _row("wool glass boats bells paper salt silk shoes chairs knives pots maps"),
    "color": _row("red blue green white black brown pink gray"),
    "animal": _row("fox bear dog cat goat hen duck owl mouse pig frog crow"),
    "place": _row("forest lake garden barn hills cave field park"),
    "thing": _row("cup hat book lamp ring box coat ball key drum"),
    "weather": _row("rain snow wind sun fog storm"),
    "day": _row("Monday Tuesday Friday Sunday"),
    "scene": _row("moon bridge tower song road light gate clock"),
    "goodness": _row("fresh warm clean tasty lovely quick"),
    "badness": _row("cold dirty stale rude slow noisy"),
    "num": ("one", "two", "three", "four"),
}

NUMBERS: dict[str, int] = {
    "one": 1, "two": 2, "three": 3, "four": 4, "six": 6, "eight": 8, "ten": 10, "twelve": 12, "fourteen": 14,
}  # fmt: skip

NUMBER_WORDS: dict[int, str] = {value: word for word, value in NUMBERS.items()}

VERBS: tuple[tuple[str, str], ...] = (
    ("buys", "bought"), ("sells", "sold"), ("eats", "ate"), ("makes", "made"), ("brings", "brought"),
)  # fmt: skip

PLURALS: dict[str, str] = {
    "food": "foods", "animal": "animals", "color": "colors", "town": "towns", "thing": "gifts",
    "place": "places", "craft": "goods",
}  # fmt: skip

CLASS_OF: dict[str, str] = {word: name for name, words in CATEGORIES.items() for word in words}

_TOKEN = re.compile(r"[^\W_]+|[.,!?:]|[^\w\s]|_")
_END = frozenset(".!?")


def tokens(text: str) -> list[str]:
    """Cut a text into words and punctuation marks."""
    return _TOKEN.findall(text)


def words(text: str) -> list[str]:
    """Return the words of a text, without punctuation."""
    return [token for token in tokens(text) if token[0].isalnum()]


def sentences(text: str) -> list[list[str]]:
    """Cut a text into sentences (lists of words and marks); the last may lack its final mark."""
    found: list[list[str]] = []
    current: list[str] = []
    for token in tokens(text):
        current.append(token)
        if token in _END:
            found.append(current)
            current = []
    if current:
        found.append(current)
    return [sentence for sentence in found if any(token[0].isalnum() for token in sentence)]


def classes(sentence: list[str]) -> list[str]:
    """Replace the words that have a category by that category in angle brackets."""
    return [f"<{CLASS_OF[token]}>" if token in CLASS_OF else token for token in sentence]


def join(items: list[str] | tuple[str, ...]) -> str:
    """Write items as an enumeration: a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]
