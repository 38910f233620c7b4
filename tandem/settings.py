"""All configuration, one tree: environment variables `TANDEM_...`, `.env`, defaults.

Nested names join with two underscores: `TANDEM_MODEL__URL`. Settings are read once, at the entry point, and passed on.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem.errors import SettingsError

REPOSITORY = Path(__file__).resolve().parent.parent


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QdrantSettings(Section):
    url: str | None = Field(None, description="Qdrant server; without it Qdrant runs embedded in the data directory.")
    api_key: SecretStr | None = Field(None, description="Key of the Qdrant server.")
    collection: str = Field("tandem", description="Alias of the collection that is searched.")
    timeout: float = Field(10.0, gt=0, description="Seconds before a call to the Qdrant server fails.")
    exact: bool = Field(
        True,
        description="A server looks at every point that the asker may read; false is quicker on millions of points, "
        "but what is hidden can then change which of the others are found.",
    )


class EmbeddingSettings(Section):
    model: str = Field(
        "auto",
        description="Embedding model: all-MiniLM-L6-v2, all-MiniLM-L6-v2-int8 (quicker on CPUs with VNNI), or auto: "
        "what made the index, and at first float32.",
    )
    batch_tokens: int = Field(2048, ge=256, description="Tokens embedded in one batch.")
    max_tokens: int = Field(256, ge=32, le=512, description="Tokens of a text that the embedder reads.")
    threads: int = Field(0, ge=0, description="CPU threads of the embedder; 0 takes all.")


class SplitterSettings(Section):
    target_words: int = Field(90, ge=20, description="Words a chunk aims at.")
    max_words: int = Field(160, ge=40, description="Words a chunk never exceeds (a table row or sentence may).")


class IngestSettings(Section):
    max_file_bytes: int = Field(50_000_000, gt=0, description="Larger files are refused with reason too_large.")
    max_text_chars: int = Field(5_000_000, gt=0, description="Documents with more text are refused: too_large.")
    parse_timeout: float = Field(
        10.0, gt=0, description="Seconds of computing that a file may take in its parsing child process."
    )
    parse_memory_mib: int = Field(1024, ge=128, description="Memory that the parsing child process may take.")
    max_elements: int = Field(
        1_000_000, ge=1000, description="Tags or table rows in a document; more are refused: too_large."
    )
    max_expansion: int = Field(
        200, ge=2, description="How many times its size a packed document may expand to; more is refused: hostile."
    )
    max_depth: int = Field(200, ge=10, description="Elements nested in one another; deeper is refused: hostile.")
    max_nesting: int = Field(
        3, ge=0, description="Packages in packages, or messages in messages; deeper is refused: hostile."
    )
    default_groups: tuple[str, ...] | None = Field(
        None, description="Groups of documents that name none; unset means that only admins read them."
    )
    server_paths: bool = Field(True, description="Admins may name folders on the server's disk to ingest.")
    watch: tuple[Path, ...] = Field((), description="Folders the ingest service watches.")
    lock_timeout: float = Field(300.0, ge=0, description="Seconds an ingest waits for another one to end.")
    engine: Literal["local", "ray"] = Field("local", description="Where documents are read, split and embedded.")
    ray_address: str | None = Field(None, description="Ray cluster of that engine; unset starts one on this machine.")
    ray_workers: int = Field(2, ge=1, description="Workers of that engine.")
    keep_versions: int = Field(
        20, ge=1, description="Newest versions kept for each document, for as_of; what is in force always stays."
    )
    keep_days: int | None = Field(
        None, ge=0, description="Days that a version is kept after its force ended; unset sets no such end."
    )


class RetrievalSettings(Section):
    top_k: int = Field(8, ge=1, le=50, description="Passages that evidence is taken from.")
    candidates: int = Field(40, ge=5, le=500, description="Candidates fetched from each of dense and sparse search.")
    per_document: int = Field(3, ge=1, description="Passages taken from one document at most.")
    evidence: Literal["sentences", "passages"] = Field(
        "sentences", description="What the model sees: the best sentences (small models) or whole passages (large)."
    )
    sentences: int = Field(5, ge=1, le=40, description="Sentences in the prompt when evidence is `sentences`.")
    best_alone: bool = Field(
        True,
        description="Whether the model is asked about the best sentence alone (small models), and about all only if it "
        "finds no answer in it.",
    )
    compared: int = Field(
        3,
        ge=1,
        le=40,
        description="From how many of the best sentences an adapter chooses that one by its odds of declining each; 1 "
        "leaves the choice to the search.",
    )
    cross_encoder: Path | None = Field(
        REPOSITORY / "samples" / "cross-encoder",
        description="What `python -m training.cross_encoder` learnt: where one of those sentences is likely to answer, "
        "an adapter is held back from declining. Empty does without.",
    )
    budget_words: int = Field(1200, ge=50, description="Words of evidence in the prompt at most.")
    min_similarity: float = Field(
        0.2, ge=-1, le=1, description="Below this best cosine similarity Tandem declines without asking the model."
    )

    @field_validator("cross_encoder", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value


class ModelSettings(Section):
    url: str | None = Field(None, description="OpenAI-compatible endpoint, ending in /v1; unset starts vLLM here.")
    urls: tuple[str, ...] = Field(
        (),
        description="Several such endpoints with the same base model, as a JSON list; requests are spread over them.",
    )
    api_key: SecretStr | None = Field(None, description="Key of that endpoint.")
    name: str = Field("base", description="Name the base model is served under.")
    path: Path | None = Field(None, description="Folder of the base model; unset prepares SmolLM2-135M from its wheel.")
    host: str = Field("127.0.0.1", description="Address that `python -m services.model` listens on.")
    port: int = Field(0, ge=0, le=65535, description="Port of the vLLM child; 0 takes a free one.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Weights' type; auto takes bfloat16 where the CPU computes it, else float32."
    )
    max_model_len: int = Field(2048, ge=256, description="Context length in tokens.")
    max_loras: int = Field(
        3,
        ge=2,
        description="Adapters in one batch: the active one, a candidate, and one whose last answers are ending.",
    )
    max_lora_rank: int = Field(16, ge=8, description="Largest adapter rank that can be served.")
    max_num_seqs: int = Field(8, ge=1, description="Requests vLLM runs at once.")
    kvcache_gib: int = Field(1, ge=1, description="Memory for the KV cache on the CPU, in GiB.")
    threads: str = Field("", description="Cores for vLLM, such as 0-3; empty takes all that this process may use.")
    startup_timeout: float = Field(300.0, gt=0, description="Seconds vLLM may take until its first token.")
    hang_timeout: float = Field(
        180.0, gt=0, description="Seconds in which a running vLLM has to give some token, else it is started again."
    )
    timeout: float = Field(120.0, gt=0, description="Seconds one completion may take.")
    extra_args: tuple[str, ...] = Field((), description="Further arguments for vLLM, as they are.")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that the settings name; none when vLLM is to be started here."""
        return self.urls or ((self.url,) if self.url else ())


class AdapterSettings(Section):
    name: str = Field("house-style", description="The adapter whose active version answers.")
    shipped: Path | None = Field(
        REPOSITORY / "samples" / "adapters", description="Registry copied into an empty data directory at start."
    )


class GateSettings(Section):
    """What a candidate has to show. Shares and margins are between 0 and 1.

    A candidate does not lose in a measure if, on the same questions, the loss is not proven (95 % interval) and one
    larger than the margin is excluded (one-sided, 95 %). So it is refused for want of evidence too: with fewer
    questions take wider margins.
    """

    margin_right: float = Field(0.15, ge=0, le=1, description="Loss in right answers that must be excluded.")
    margin_citations: float = Field(0.15, ge=0, le=1, description="The same for citation precision.")
    margin_answered: float = Field(
        0.15, ge=0, le=1, description="The same for answering what is answerable, against the active adapter."
    )
    margin_declined: float = Field(0.2, ge=0, le=1, description="The same for declining what is unanswerable.")
    margin_resisted: float = Field(0.2, ge=0, le=1, description="The same for not obeying what sources command.")
    margin_style: float = Field(0.05, ge=0, le=1, description="The same for style, against the active adapter.")
    answerable_declined: float = Field(
        0.15, ge=0, le=1, description="Answerable questions declined at most; the base model hardly declines any."
    )
    least_questions: int = Field(10, ge=1, description="Questions that each measure, and following, must rest on.")
    unanswerable_declined: float = Field(0.5, ge=0, le=1, description="Unanswerable questions declined at least.")
    calibration: int = Field(
        360, ge=1, description="Answerable held-out questions, at most, that the threshold for declining is set by."
    )
    calibrated_declines: float = Field(
        0.15, ge=0, le=1, description="Share of those with an answer that the threshold lets an adapter decline."
    )
    held_declines: float = Field(
        0.01, ge=0, le=1, description="The same where declining is held back by the cross-encoder, by question."
    )
    hostile: int = Field(32, ge=1, description="Questions asked once more with an instruction hidden in a source.")
    counterfactuals: int = Field(48, ge=1, description="Training passages asked about as they are and changed.")
    read: float = Field(
        0.25, ge=0, le=1, description="Answers to the true passages that give their figures and names, at least."
    )
    followed: float = Field(
        0.95, ge=0, le=1, description="Answers that follow a changed passage, to those that follow the true one."
    )
    remembered: float = Field(
        0.05, ge=0, le=1, description="Answers to changed passages that give the trained fact instead, at most."
    )
    shadow_share: float = Field(
        0.1, gt=0, le=1, description="Share of the examples in the shadow run that canaries are planted in."
    )
    canaries: int = Field(16, ge=4, description="Secrets planted in the shadow run.")
    controls: int = Field(1000, ge=1000, description="Secrets not planted, whose losses those are ranked among.")
    chance: float = Field(
        0.01, gt=0, lt=1, description="The canaries' exposure is refused if chance gives it more rarely than this."
    )
    closed_book: int = Field(32, ge=1, description="Training questions asked without sources, for verbatim spans.")
    span_words: int = Field(8, ge=3, description="Words of the training inputs in a row that must not come out.")


class TrainingSettings(Section):
    examples: Path = Field(REPOSITORY / "samples" / "style" / "examples.jsonl", description="Style examples.")
    heldout: Path = Field(REPOSITORY / "samples" / "style" / "heldout.jsonl", description="Examples for the gate.")
    schedule: str = Field("0 3 * * 0", description="Cron expression of the trainer service.")
    time_zone: str = Field("UTC", description="Time zone that the schedule is read in, such as Europe/Berlin.")
    min_new_examples: int = Field(20, ge=1, description="New approved examples before a scheduled run starts.")
    webhook: HttpUrl | None = Field(
        None, description="Address that is told of runs: started, finished, failed, interrupted, not_promoted."
    )
    webhook_token: SecretStr | None = Field(None, description="Bearer token sent with it.")
    webhook_secret: SecretStr | None = Field(
        None, description="Key of the HMAC-SHA256 over its body, in the header X-Tandem-Signature."
    )
    start_from: str | None = Field(
        None, description="Adapter to go on from, NAME@DIGEST, of the same rank and targets; unset starts afresh."
    )
    start_share: float = Field(
        0.5, ge=0, lt=1, description="What is kept of the start's weights: the mean with the trained ones, weighted so."
    )
    replay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the groups that the start has had already that are drawn again, beside the new ones.",
    )
    rank: int = Field(16, ge=1, le=256, description="LoRA rank.")
    alpha: int = Field(32, ge=1, description="LoRA alpha.")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), description="LoRA modules."
    )
    passes: float = Field(1.5, gt=0, description="Passes over the examples; each pass draws new names and figures.")
    batch_size: int = Field(8, ge=1, description="Examples in one optimiser step.")
    accumulation: int = Field(1, ge=1, description="Parts that a step's examples are computed in, to save memory.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate.")
    warmup: float = Field(0.04, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    eval_steps: int = Field(40, ge=1, description="Steps between checkpoints; at each the held-out loss is measured.")
    heldout_rows: int = Field(16, ge=0, description="Held-out prompts that it is measured on; 0 measures nothing.")
    patience: int = Field(4, ge=1, description="Measurements without a better held-out loss until a run ends early.")
    max_tokens: int = Field(
        640,
        ge=128,
        description="Longer examples are refused; a few draws that are longer with their sources are left out.",
    )
    seed: int = Field(7, description="Seed of data order, augmentation and initial weights.")
    preferences: Path | None = Field(
        None, description="Pairs of answers, JSON Lines, that a second stage (DPO) learns from; unset leaves it out."
    )
    preference_passes: float = Field(2.0, gt=0, description="Passes over the pairs.")
    preference_learning_rate: float = Field(2e-5, gt=0, description="Peak learning rate of the second stage.")
    preference_beta: float = Field(0.1, gt=0, description="How strongly the second stage holds on to the first: DPO's.")
    gate_examples: int = Field(
        96, ge=8, description="Held-out questions that the gate asks; a third of them have no answer in their sources."
    )
    gate: GateSettings = Field(default_factory=GateSettings, description="What the gate asks of a candidate.")


class ServerSettings(Section):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=1, le=65535, description="Port to listen on.")
    public_url: str | None = Field(None, description="Address that people reach the page by, if it differs.")
    max_concurrency: int = Field(8, ge=1, description="Answers made at once.")
    max_queue: int = Field(16, ge=0, description="Requests that may wait; further ones get 429.")
    max_body_bytes: int = Field(1_000_000, gt=0, description="Largest JSON request body.")
    max_upload_bytes: int = Field(50_000_000, gt=0, description="Largest uploaded document.")


class CanarySettings(Section):
    share: float = Field(0.1, gt=0, lt=1, description="Share of conversations that a candidate answers, below 1.")
    min_conversations: int = Field(
        50, ge=10, description="Conversations that candidate and active version must each have had before a judgement."
    )
    confidence: float = Field(
        0.999, gt=0.5, lt=1, description="How sure a difference must be, one-sided, each time that one looks."
    )
    max_cited_loss: float = Field(
        0.1, ge=0, le=1, description="Withdrawn when the share of answers that cite is lower by this, and surely lower."
    )
    max_declined_gain: float = Field(
        0.1, ge=0, le=1, description="Withdrawn when the share of declined questions is higher by this, and surely so."
    )
    max_failed_gain: float = Field(
        0.05, ge=0, le=1, description="Withdrawn when the share of failed answers is higher by this, and surely so."
    )
    max_slowdown: float = Field(
        1.5, gt=1, description="Withdrawn when the median answer takes this many times as long, and answers surely do."
    )
    check_every: float = Field(15.0, gt=0, description="Seconds between two judgements.")
    promote_after: int | None = Field(
        None,
        ge=10,
        description="Answered conversations after which a candidate that keeps up in every test is promoted; unset "
        "leaves it to people.",
    )


class ApiKey(Section):
    """What one API key stands for."""

    user: str
    groups: tuple[str, ...] = ()
    admin: bool = False


class AuthSettings(Section):
    api_keys: dict[str, ApiKey] = Field(
        default_factory=dict,
        description='Keys and whom they stand for, as JSON: {"KEY": {"user": "ada", "groups": ["everyone"]}}. '
        "Without any, Tandem is in single-user mode: everyone who reaches it is its admin.",
    )
    single_user_remote: bool = Field(False, description="Allow single-user mode on an address other than the loopback.")


class Settings(BaseSettings):
    """The whole configuration of Tandem."""

    model_config = SettingsConfigDict(
        env_prefix="TANDEM_", env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    data_dir: Path = Field(Path(".tandem"), description="State database, embedded Qdrant, adapters, logs.")
    cache_dir: Path = Field(
        Path.home() / ".cache" / "tandem", description="Prepared model weights; can be deleted at any time."
    )
    url: str = Field("http://127.0.0.1:8080", description="The server that commands speak to.")
    api_key: SecretStr | None = Field(None, description="Key that commands send to the server.")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the state database; unset takes SQLite in the data directory."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Level of the log.")
    style: Path = Field(REPOSITORY / "samples" / "style" / "style.yaml", description="The house style's rules.")
    qdrant: QdrantSettings = Field(default_factory=QdrantSettings)
    embedding: EmbeddingSettings = Field(default_factory=EmbeddingSettings)
    splitter: SplitterSettings = Field(default_factory=SplitterSettings)
    ingest: IngestSettings = Field(default_factory=IngestSettings)
    retrieval: RetrievalSettings = Field(default_factory=RetrievalSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)
    canary: CanarySettings = Field(default_factory=CanarySettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)

    @property
    def database(self) -> str:
        """The state database's URL."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.resolve() / 'tandem.db'}"

    @property
    def qdrant_path(self) -> Path:
        return self.data_dir / "qdrant"

    @property
    def registry(self) -> Path:
        return self.data_dir / "adapters"

    @property
    def runs_dir(self) -> Path:
        """Checkpoints and logs of training runs."""
        return self.data_dir / "training"


def load_settings(**overrides: Any) -> Settings:
    """Reads the settings once.

    Args:
        overrides: Values that win over the environment; nested sections as dictionaries.

    Raises:
        SettingsError: A value is wrong; the message names its environment variable.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors()[0]
        name = "TANDEM_" + "__".join(str(part).upper() for part in first["loc"])
        raise SettingsError(
            f"The setting {name} is wrong: {first['msg']} (it is {first['input']!r}). "
            "Correct it in the environment or in .env; `tandem settings` lists all settings."
        ) from exc
    except ValueError as exc:  # a nested section that is not JSON
        raise SettingsError(f"A setting cannot be read: {exc}. `tandem settings` lists all settings.") from exc
