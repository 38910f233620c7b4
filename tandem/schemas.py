"""The frozen values that pass between the stages. No loose dictionaries between rooms."""

from datetime import date
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Arm = Literal["tandem", "rag", "style", "base"]
ARMS: tuple[Arm, ...] = ("tandem", "rag", "style", "base")
MODEL_NAMES: dict[str, Arm] = {
    "tandem": "tandem",
    "tandem-rag": "rag",
    "tandem-style": "style",
    "tandem-base": "base",
}
EVERYONE = "everyone"


def uses_retrieval(arm: Arm) -> bool:
    """Whether `arm` puts passages into the prompt."""
    return arm in ("tandem", "rag")


def uses_adapter(arm: Arm) -> bool:
    """Whether `arm` answers with the active adapter."""
    return arm in ("tandem", "style")


class Value(BaseModel):
    """Base of all values: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Principal(Value):
    """Who asks. Made by the service from the API key, never from the request body."""

    user: str
    groups: frozenset[str] = frozenset()
    admin: bool = False


# Who works on the machine itself: the command line, and what the service does by itself.
OPERATOR = Principal(user="local", admin=True)


class Metadata(Value):
    """What is known about a document besides its text. `groups=None` means nobody said: admins only."""

    title: str = ""
    owner: str = ""
    groups: tuple[str, ...] | None = None
    effective_from: date | None = None
    effective_until: date | None = None
    version: str = ""
    source_url: str = ""
    trust: str = ""


class Block(Value):
    """A paragraph, list or table of a document.

    Attributes:
        text: Plain text; a table row is one line `cell | cell`.
        headings: The headings above it, outermost first.
        page: 1-based page, where the format has pages.
        start: Character offset of `text` in `ParsedDocument.text`.
        kind: `table` blocks keep their header row with every piece when they are split.
    """

    text: str
    headings: tuple[str, ...] = ()
    page: int | None = None
    start: int = 0
    kind: Literal["text", "table", "list", "code"] = "text"


class ParsedDocument(Value):
    """A document after reading: its text, its blocks, its metadata. `content_hash` is SHA-256 over the blocks,
    `source_hash` over the file's bytes.
    """

    id: str
    path: str
    text: str
    blocks: tuple[Block, ...]
    metadata: Metadata
    content_hash: str
    source_hash: str = ""
    warnings: tuple[str, ...] = ()


class Chunk(Value):
    """A piece of a document, small enough to embed and quote.

    Attributes:
        key: SHA-256 of (heading leaf, text, embedding model, splitter version): what the embedding is stored under.
        heading: The headings joined by " > ".
        start, end: Character span in the document's text.
    """

    ordinal: int
    key: str
    text: str
    heading: str = ""
    page: int | None = None
    start: int = 0
    end: int = 0

    @property
    def embedding_text(self) -> str:
        """What the embedder sees: the nearest heading and the text, so that metadata can change for free."""
        leaf = self.heading.rsplit(" > ", 1)[-1]
        return f"{leaf}\n{self.text}" if leaf else self.text


class Passage(Value):
    """A retrieved chunk that this principal may read, as the model and the caller see it.

    Attributes:
        n: The number it is cited by, from 1.
        quote: The text as given to the model (the best sentences, or the whole passage).
        text: The whole chunk. Not part of the HTTP contract.
        score: Fused rank score, higher is better; comparable within one query only.
        similarity: Cosine of question and chunk, -1 to 1.
    """

    n: int
    document_id: str
    version_id: str
    chunk_id: str
    title: str
    version: str = ""
    effective_from: date | None = None
    heading: str = ""
    page: int | None = None
    quote: str
    text: str = ""
    url: str = ""
    score: float = 0.0
    similarity: float = 0.0

    def public(self) -> dict[str, Any]:
        """The passage as the HTTP contract has it: n, document_id, title, version, ..., quote, url."""
        fields = {"n", "document_id", "title", "version", "effective_from", "heading", "page", "quote", "url"}
        return self.model_dump(mode="json", include=fields)


class Message(Value):
    """One turn of a conversation in OpenAI's roles."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Value):
    """What a caller may set on the decoding. `temperature=0` is greedy.

    Attributes:
        bias: Tokens and what is added to their logits: an adapter's threshold for declining, not the caller's.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 160
    stop: tuple[str, ...] = ()
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()


class Ask(Value):
    """One question, with everything that decides its answer."""

    messages: tuple[Message, ...]
    arm: Arm
    principal: Principal
    as_of: date | None = None
    top_k: int | None = None
    sampling: Sampling = Sampling()
    instructions: str = ""  # what the application put into its own system message
    conversation: str = ""  # its name for the conversation, by which a canary keeps to one adapter


class Usage(Value):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Answer(Value):
    """An answer that can be taken apart again: text, sources, arm, adapter and how it was made.

    Attributes:
        adapter: `NAME@DIGEST12`, or None when no adapter spoke.
        degraded: None, `retrieval_only` (model down), `no_adapter`, or `broken` (it ended in the middle; only stored).
        failed_adapter: `NAME@DIGEST12` of the adapter that should have spoken, where it did not, or not to the end.
        declined: Whether Tandem or the model said that the sources do not answer.
        read_alone: The sentence that it was given from, where the model was asked about that one alone; empty where it
            was asked about all that the passages quote.
        removed_markers: Citation markers without a source that were removed from the text.
        timings: Seconds a stage: retrieve, first_token, total.
    """

    answer_id: str
    text: str
    arm: Arm
    adapter: str | None = None
    as_of: date
    degraded: str | None = None
    failed_adapter: str | None = None
    declined: bool = False
    citations: tuple[Passage, ...] = ()
    passages: tuple[Passage, ...] = ()
    read_alone: str = ""
    removed_markers: int = 0
    usage: Usage = Usage()
    finish_reason: str = "stop"
    timings: dict[str, float] = Field(default_factory=dict)

    def receipt(self) -> dict[str, Any]:
        """The `tandem` object of a completion."""
        return {
            "arm": self.arm,
            "adapter": self.adapter,
            "answer_id": self.answer_id,
            "as_of": self.as_of.isoformat(),
            "degraded": self.degraded,
            "citations": [p.public() for p in self.citations],
            "passages": [p.public() for p in self.passages],
        }
