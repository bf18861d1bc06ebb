"""The four kinds of training record, checked strictly: a number is not a string.

Every record may carry ``id``, ``user``, ``split``, ``source`` and ``labeler``;
fields without a meaning here are kept in ``extra`` and passed on.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    model_validator,
)

from lit_instructgpt.records_lines import LineProblem, shown


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty or only white space")
    return text


Words = Annotated[str, AfterValidator(_not_blank)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Message(_Strict):
    """One turn of a conversation; keys other than role and content are dropped."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "user", "assistant"]
    content: Words


def _prompt_form(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    return "messages" if isinstance(value, list) else None


PromptField = Annotated[
    Annotated[Words, Tag("text")] | Annotated[list[Message], Field(min_length=1), Tag("messages")],
    Discriminator(
        _prompt_form,
        custom_error_type="prompt_form",
        custom_error_message="must be a string or a list of messages",
    ),
]


class BaseRecord(_Strict):
    """What every kind of record may carry."""

    kind: ClassVar[str]
    id: Words | None = None
    user: Words | None = None
    split: Words | None = None
    source: Words | None = None
    labeler: Words | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    _where: str = PrivateAttr(default="")

    @property
    def where(self) -> str:
        """``FILE:LINE`` that it was read from; its id, or nothing, where it was not."""
        return self._where or self.id or ""

    def __eq__(self, other: object) -> bool:
        """By content, wherever it was read from."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class Demonstration(BaseRecord):
    """A prompt and the response a person wrote for it."""

    kind: ClassVar[str] = "demonstration"
    prompt: PromptField
    response: Words


class Comparison(BaseRecord):
    """K responses to one prompt, ranked: 1 is best, equal numbers are ties.

    Only the order of the ranks matters; they may have gaps and be of any size.
    """

    kind: ClassVar[str] = "comparison"
    prompt: PromptField
    responses: Annotated[list[Words], Field(min_length=2)]
    ranking: list[Annotated[int, Field(ge=1)]]

    @model_validator(mode="after")
    def _ranking_fits(self) -> "Comparison":
        if len(self.ranking) != len(self.responses):
            found = f"{len(self.ranking)} ranks for {len(self.responses)} responses"
            raise ValueError(f"ranking: needs one rank per response, found {found}")
        first: dict[str, int] = {}
        for index, response in enumerate(self.responses):
            other = first.setdefault(response, index)
            if self.ranking[other] != self.ranking[index]:
                same = f"responses[{other}] and responses[{index}] are the same text"
                raise ValueError(f"ranking: {same} under two different ranks")
        return self


class Prompt(BaseRecord):
    """A prompt alone, for the policy to answer."""

    kind: ClassVar[str] = "prompt"
    prompt: PromptField


class Text(BaseRecord):
    """A piece of plain text, for the pretraining mix."""

    kind: ClassVar[str] = "text"
    text: Words


Record = Demonstration | Comparison | Prompt | Text
RecordType = TypeVar("RecordType", bound=BaseRecord)


def validation_problems(error: ValidationError) -> tuple[LineProblem, ...]:
    """Return pydantic's findings as problems named by field, ``ranking[2]`` for example."""
    problems = []
    for found in error.errors(include_url=False, include_context=False):
        text = found["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        name = ""
        for index, part in enumerate(found["loc"]):
            if isinstance(part, int):
                name += f"[{part}]"
            elif not (index == 1 and found["loc"][0] == "prompt"):
                name += f".{part}" if name else part
        if not name:
            name, _, text = text.partition(": ")
        elif not isinstance(found["input"], str) or not found["msg"].startswith("Value error"):
            text += f", found {shown(found['input'])}"
        problems.append(LineProblem(name, text))
    return tuple(problems)
