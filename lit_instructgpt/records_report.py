"""What reading a file found: counts, the lines not used, and the error that lists them."""

from dataclasses import dataclass, field

from lit_instructgpt.records_lines import LineProblem, field_name


@dataclass(frozen=True)
class BadRecord:
    """A line that was not used: where it is and every problem found in it."""

    file: str
    line: int
    problems: tuple[LineProblem, ...]

    @property
    def field(self) -> str:
        """Field of the first problem; ``line`` when it is about the whole line."""
        return self.problems[0].field

    @property
    def problem(self) -> str:
        """Text of the first problem."""
        return self.problems[0].problem

    def lines(self) -> list[str]:
        """Return one ``file:line: field: problem`` per problem."""
        return [f"{self.file}:{self.line}: {problem}" for problem in self.problems]


@dataclass
class ReadReport:
    """What became of every line: ``lines`` is the sum of the other counts.

    Attributes:
        lines: Lines (or dataset rows) read, over all files.
        accepted: Records returned.
        bad: Lines that are not a valid record.
        set_aside: Valid records not used: rankings in which all are tied.
        other_split: Valid records of another split than the one asked for.
        blank: Lines of white space only.
        ignored_fields: How often each field without a meaning here was seen.
    """

    lines: int = 0
    accepted: int = 0
    bad: list[BadRecord] = field(default_factory=list)
    set_aside: list[BadRecord] = field(default_factory=list)
    other_split: int = 0
    blank: int = 0
    ignored_fields: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """Return the counts as one paragraph."""
        text = f"{self.lines} lines: {self.accepted} accepted, {len(self.bad)} bad"
        if self.set_aside:
            text += f", {len(self.set_aside)} set aside (all responses tied: no preference to learn)"
        if self.other_split:
            text += f", {self.other_split} of another split"
        text += f", {self.blank} blank." if self.blank else "."
        if self.ignored_fields:
            names = ", ".join(f"{field_name(name)} ({count})" for name, count in self.ignored_fields.items())
            text += f" Fields not used: {names}."
        return text


SKIP = (
    "Remedy: correct these lines, or set reading.skip_bad_records to true, and reading.rejects to the file to write them to, and "
    "go on with the others (in prepare: skip_bad_records)."
)
NONE_LEFT = (
    "Remedy: correct these lines, or give another file: none is what is asked for here (docs/data.md has the fields)."
)
"""What to do about bad lines, where there are others and where there are none."""


class RecordError(ValueError):
    """Bad lines were found. ``report`` holds all of them; the message lists the first."""

    def __init__(self, report: ReadReport, max_listed: int = 20) -> None:
        listed = [text for bad in report.bad for text in bad.lines()]
        more = len(listed) - max_listed
        super().__init__(
            "\n".join(
                [
                    *listed[:max_listed],
                    *([f"... and {more} more"] if more > 0 else []),
                    report.summary(),
                    SKIP if report.accepted else NONE_LEFT,
                ]
            )
        )
        self.report = report
