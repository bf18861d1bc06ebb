"""What is true in the world: constant tables, drawn once from a fixed seed."""

import random

from miniature.vocab import CATEGORIES


def _draw(rng: random.Random, subjects: str, values: str) -> dict[str, str]:
    """Give every subject a value, every value about equally often."""
    names, pool = CATEGORIES[subjects], CATEGORIES[values]
    spread = [pool[i % len(pool)] for i in range(len(names))]
    rng.shuffle(spread)
    return dict(zip(names, spread, strict=True))


def _facts() -> dict[str, dict[str, str]]:
    """Draw all facts: relation, then subject, then value."""
    rng = random.Random(20220304)
    return {
        "river": _draw(rng, "town", "river"),
        "region": _draw(rng, "town", "region"),
        "craft": _draw(rng, "town", "craft"),
        "mayor": _draw(rng, "town", "person"),
        "flag": _draw(rng, "town", "color"),
        "home": _draw(rng, "animal", "place"),
        "diet": _draw(rng, "animal", "food"),
    }


FACTS: dict[str, dict[str, str]] = _facts()

SUBJECT_OF: dict[str, str] = {r: "animal" if r in ("home", "diet") else "town" for r in FACTS}

VALUE_OF: dict[str, str] = {
    "river": "river", "region": "region", "craft": "craft", "mayor": "person", "flag": "color", "home": "place",
    "diet": "food",
}  # fmt: skip
