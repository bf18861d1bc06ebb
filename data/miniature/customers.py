"""Customers who send prompts: many with few, a few with hundreds, with habits, duplicates and personal data."""

import random
from dataclasses import dataclass

from miniature.world import Task, sample_task

PREAMBLES: tuple[str, ...] = (
    "You are the helper of our shop. Be kind and clear to all guests. Now do this:",
    "This is a list of things to do for our page. Read it well. Now do this:",
    "You are the friend of all people in the land. Say what is true. Now do this:",
)


@dataclass(frozen=True)
class Customer:
    """A customer: an id, how many prompts they send, and their habits."""

    id: str
    num_prompts: int
    preamble: str
    duplicates: float
    personal: float


def customers(rng: random.Random, num: int, total: int) -> list[Customer]:
    """Draw customers whose numbers of prompts have a heavy tail and sum to about `total`."""
    sizes = [max(1, round(1.2 / (1.0 - rng.random()) ** 0.95)) for _ in range(num - 4)]
    sizes = [min(size, 90) for size in sizes]
    sizes += [540, 450, 180, 130]
    scale = (total - sum(sizes[-4:])) / sum(sizes[:-4])
    sizes = [min(140, max(1, round(size * scale))) if size < 120 else size for size in sizes]
    return [_customer(rng, f"customer-{i:03d}", size) for i, size in enumerate(sizes)]


def _customer(rng: random.Random, name: str, size: int) -> Customer:
    """Draw a customer's habits."""
    preamble = rng.choice(PREAMBLES) if 4 <= size <= 60 and rng.random() < 0.06 else ""
    return Customer(
        name,
        size,
        preamble,
        duplicates=rng.choice([0.0, 0.0, 0.02, 0.1]),
        personal=rng.choice([0.0, 0.0, 0.0, 0.06]),
    )


def _personal(rng: random.Random) -> str:
    """Write an e-mail address or a phone number."""
    digits = "".join(rng.choice("0123456789") for _ in range(7))
    if rng.random() < 0.5:
        return f" Write to me at {rng.choice(['anna', 'ben', 'guest'])}{digits[:2]}@mail.example.com."
    return f" My phone is 555-{digits[:3]}-{digits[3:]}."


def prompts(customer: Customer, rng: random.Random) -> list[Task]:
    """Draw a customer's prompts."""
    sent: list[Task] = []
    for _ in range(customer.num_prompts):
        if sent and rng.random() < customer.duplicates:
            sent.append(rng.choice(sent))
            continue
        task = sample_task(rng, rng.choice(["open_qa", "brainstorming"])) if customer.preamble else sample_task(rng)
        text = f"{customer.preamble} {task.prompt}" if customer.preamble else task.prompt
        if rng.random() < customer.personal and not text.endswith("Helper:"):
            text += _personal(rng)
        sent.append(Task(text, task.gold))
    return sent
