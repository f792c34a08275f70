"""How metrics, tasks and precisions describe themselves: typed data that generic code reads.

A file of `metrics/` or `tasks/` holds one `Metric`, a file of `precisions/` one `Precision`.
Generic code reads these and knows no metric, task or precision by its name. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from harness.records.record import Measured, Record, Value


# How many tokens go through the model at once at most; "auto" leaves it to the device.
BatchTokens = Annotated[int, Field(ge=1)] | Literal["auto"]


class OptionsBase(BaseModel):
    """Base of everything a suite file sets: unknown keys refused, types strict, frozen.

    ``BATCH`` names the field that says only how much goes through the model at once; ``VARIED`` is
    less than what "auto" comes to. ``REPEATS`` names the field that says in how many fresh
    processes all of it is measured. In messages, ``KEYS`` is what its keys are called and
    ``WRITTEN_AS`` what a suite may hold for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    BATCH: ClassVar[str | None] = None
    VARIED: ClassVar[int] = 128
    REPEATS: ClassVar[str | None] = None
    KEYS: ClassVar[str] = "key"
    WRITTEN_AS: ClassVar[str] = "a mapping"

    def list_qualifiers(self, per: str) -> tuple[str, ...] | None:
        """What a value per ``per`` may have in brackets; None where only measuring shows it."""
        return None

    @property
    def repeats(self) -> int:
        """In how many fresh processes the measurement is made."""
        return 1 if self.REPEATS is None else getattr(self, self.REPEATS)


@dataclass(frozen=True)
class Margin:
    """How much worse still counts as the same: the larger of ``absolute`` and ``relative`` x value.

    For a paired value, ``relative`` is of the value it compares (``of``).
    """

    absolute: float = 0.0
    relative: float = 0.0

    def of(self, value: float) -> float:
        """The margin around ``value``, in its unit."""
        return max(self.absolute, self.relative * abs(value))


@dataclass(frozen=True)
class ValueSpec:
    """One value that a measurement reports.

    - ``unit``: shown behind it; "" for a number without one. ``better``: which way is good, None
      where neither is. ``help``: one line for `harness list` and the report.
    - ``per``: what the brackets of ``name[...]`` hold (``decode_tokens_per_s[8]``: batch size), one
      of the options' ``list_qualifiers``. ``total``: there is also a value without brackets.
    - ``sampled``: what the value is a sample of, so that a limit on it needs an interval: items of
      a task, chunks of a text, processes. None for a number that is exact or of no known spread.
    - ``margin``: how much worse still counts as the same. Runs are compared by the paired values
      that have one, thresholds are kept for the other values that have one.
    - ``row``: the list in ``Measured.items`` whose mean the value is, one number per item
      ("right"); ``answers``: the list of what was answered to each item ("chosen"). ``lists``:
      lists of numbers there, by item or chunk, that it is compared by; thresholds keep them.

    A paired value (``paired``) compares a record with the reference's. ``of`` names the value that
    it compares. ``neutral`` is the number that means "no difference": 1 for ratios, None where
    there is none, and then no noise floor.
    """

    unit: str
    better: Literal["lower", "higher"] | None
    help: str
    per: str | None = None
    total: bool = False
    paired: bool = False
    of: str | None = None
    neutral: float | None = 0.0
    sampled: Literal["items", "chunks", "processes"] | None = None
    margin: Margin | None = None
    row: str | None = None
    answers: str | None = None
    lists: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """One column of the summary: ``value`` may name a paired value; ``scale`` divides it.

    ``{}`` in a headline's title is replaced by the qualifier of a value that has one. ``stderr``
    has the standard error shown behind the value.
    """

    title: str
    value: str
    format: str
    scale: float = 1.0
    stderr: bool = False


# The three things that are weighed where somebody decides for a precision.
Weighed = Literal["quality", "memory", "speed"]


@dataclass(frozen=True)
class Chart:
    """One picture of the report: a value along its brackets, or several beside each other.

    A single column, of a value with ``per``, is drawn over what its brackets hold; several columns
    are drawn side by side for each cell. ``share`` names the value that says which share of the
    possible was reached, so that the possible is drawn too. ``marks`` are limits by name, in the
    unit of the columns.
    """

    title: str
    columns: Sequence[Column]
    share: str = ""
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """Seconds per round of one workload, as one line of pytest-benchmark's table."""

    name: str
    group: str
    seconds: tuple[float, ...]
    extra: dict[str, float | int]


@dataclass(frozen=True)
class MeasureContext:
    """What a measurement gets besides the loaded model.

    - ``suite_folder``: local paths in the options are relative to it. ``online``: whether the hub
      may be asked.
    - ``progress(done, total, noun)``: to be called as items are finished.
    - ``reference``: the reference cell's record, for a metric with ``needs_reference``;
      ``is_reference``: this cell is the one that others are compared with.
    - ``keep(measured, before)``: stores what is measured so far, in case the process does not
      survive the step named ``before``.
    """

    suite_folder: Path
    online: bool
    progress: Callable[[int, int, str], None]
    reference: Record | None = None
    is_reference: bool = False
    keep: Callable[[Measured, str], None] = lambda measured, before: None


@dataclass(frozen=True)
class Metric:
    """What one file of `metrics/` or `tasks/` reports, needs and does.

    ``help``: its first line is shown by `harness list`. ``options``: what a suite may set.
    ``values``: every value that the measurement may report, by name. ``headline``: its columns in
    the summary; ``details``: further columns, shown by ``pytest -v``.

    ``weighs`` gives the value by which a precision is chosen, titled ``noun, unit``: for quality
    the loss, compared with the reference. ``charts`` are its pictures in the report. ``texts``
    names the rows of ``Measured.items`` that hold prompts and answers, to be read side by side.

    ``measure(engine, options, context)`` runs in the cell's process, where torch may be imported.
    It asks the engine (`harness.engines.base.Engine`), calls ``context.progress`` now and then, and
    returns a `harness.records.record.Measured`:

    - ``values``: made by `harness.records.values.make_values` from numbers, standard errors and
      counts. A number that is not available is None, never 0.
    - ``protocol``: everything that the numbers depend on, as JSON-able values: the options without
      the batch size, hashes of data and tokenizer. Records of other protocols are not compared.
    - ``items``: lists with one entry per item or chunk, for ``compare`` and for flipped answers.
    - ``validity``: ``flagged`` with the reasons that a reader must know, ``invalid`` where the
      numbers must not be used (NaN). A user's mistake raises `harness.errors.InputError`.

    ``needs`` names the engine's methods that ``measure`` calls: a cell whose engine lacks one is
    skipped with that reason. ``fresh_process``: an earlier measurement in the process would disturb
    it. ``timed``: the values are speeds, so telemetry watches the machine and a record is never
    reused in another run. ``needs_reference``: ``measure`` reads ``context.reference``.

    ``how`` names the entries of ``protocol`` and ``items`` that say how, or how often, something
    was measured (a count of rounds, a file whose hash is there too): records may differ in them.

    Two more are asked before anything is loaded, by `harness plan`: ``least_context(options)``, the
    tokens that a model must be able to read at once, and ``count_items(options, context)``, which
    reads the data in a worker process, without a model. It returns the number of items, None where
    the data is none of items, and raises `InputError` for mistakes in it.

    The other functions are optional, run on the host too and import no torch:

    - ``compare(candidate, reference)``: the paired values of two records; {} where the two were not
      measured on the same items.
    - ``remarks(record)``: sentences for the notes below the summary.
    - ``series(record)``: timings for pytest-benchmark.
    - ``merge_repeats(measured)``: one `Measured` of several processes'; its options then name
      their ``REPEATS``.
    - ``is_intact(record)``: whether what a reference left in the cache is still there; otherwise
      the reference is measured again.
    """

    help: str
    options: type[OptionsBase]
    values: Mapping[str, ValueSpec]
    measure: Callable[[Any, Any, MeasureContext], Measured]
    headline: Sequence[Column]
    details: Sequence[Column] = ()
    weighs: Mapping[Weighed, Column] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    texts: tuple[str, str] | None = None
    needs: frozenset[str] = frozenset()
    how: frozenset[str] = frozenset()
    compare: Callable[[Record, Record], dict[str, Value]] = lambda candidate, reference: {}
    remarks: Callable[[Record], list[str]] = lambda record: []
    series: Callable[[Record], list[Series]] = lambda record: []
    merge_repeats: Callable[[Sequence[Measured]], Measured] | None = None
    is_intact: Callable[[Record], bool] = lambda record: True
    least_context: Callable[[Any], int] = lambda options: 0
    count_items: Callable[[Any, MeasureContext], int | None] = lambda options, context: None
    fresh_process: bool = False
    timed: bool = False
    needs_reference: bool = False


@dataclass(frozen=True)
class PackedLayer:
    """One quantised linear layer, as the reader of its library finds it; tensors are torch's.

    ``kind`` is the record's word for the quantisation ('int8', 'nf4'); ``packed`` hold the weights,
    ``shape`` is their (out, in) once unpacked; ``constants`` are the scales and code books that
    unpacking needs. ``settings`` go into the record: all layers of a kind should agree on them;
    "compute_dtype" and "product_dtype" among them, where they differ from the model's dtype, and
    "input_dtype" and "result_dtype", through which a product's inputs and results pass on the way.
    """

    kind: str
    shape: tuple[int, ...]
    packed: tuple[Any, ...]
    constants: tuple[Any, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReader:
    """How one library's quantised layers are recognised and read; imports no library by itself.

    ``modules`` are the starts of the Python module names that define its layer and tensor classes:
    only these may hold weights as anything but plain torch tensors; ``(__name__,)`` for a class
    that a function of the precision's own file makes. ``read(layer)`` is asked about every module
    of any model and returns None for one that is not its own, or not quantised. A checkpoint that
    holds tensors whose names end in ``stored_names`` is quantised already. ``skip_option`` is the
    field of the model's ``quantization_config`` that names layers to leave unquantised.

    ``library`` is the package whose version matters. ``identity`` names the settings of a layer on
    which the numbers depend: records that differ in one are not compared.

    ``describe_library()`` is for the record; ``describe_products(kind, layers, device)`` says what
    computes the products of these layers. ``warm_up(device)`` makes what the library creates at its
    first use, so that it does not count as the model's memory. ``preload(has_gpu)`` imports what
    every cell needs, in the process that cells are forked from: it may not touch the GPU.
    ``try_out(device)`` multiplies by a tiny layer of each kind, says what did so, and raises
    RuntimeError where the product is wrong or there is none.
    """

    library: str
    modules: tuple[str, ...]
    read: Callable[[Any], PackedLayer | None]
    stored_names: tuple[str, ...] = ()
    skip_option: str = ""
    identity: tuple[str, ...] = ()
    describe_library: Callable[[], dict[str, Any]] = dict
    describe_products: Callable[[str, Sequence[Any], str], str] = lambda *_: "unknown"
    warm_up: Callable[[str], None] = lambda device: None
    preload: Callable[[bool], None] = lambda has_gpu: None
    try_out: Callable[[str], str] = lambda device: "not tried"

    def owns(self, thing: object) -> bool:
        """Whether a layer or tensor is of one of the library's own classes."""
        return type(thing).__module__.startswith(self.modules)


@dataclass(frozen=True)
class Device:
    """Where a cell is loaded: ``type`` is 'cpu' or 'cuda'.

    ``capability`` is a CUDA board's compute capability; None of a CPU, and where it is unknown.
    """

    type: str
    capability: tuple[int, int] | None = None

    @property
    def lacks_bfloat16(self) -> bool:
        """Whether it is a CUDA board without units for bfloat16, which came with 8.0 (Ampere)."""
        return self.type == "cuda" and self.capability is not None and self.capability < (8, 0)


@dataclass(frozen=True)
class Precision:
    """What one file of `precisions/` declares.

    ``load_arguments(options, device)`` gives the keywords of ``from_pretrained``, "dtype" among
    them as a name; ``prepare(model, options, device)`` changes the loaded model where that is not
    enough; ``check(attested, options, device)`` lists the differences between what was declared and
    what was loaded. ``device`` is a `Device`. ``layers`` reads the layers of a quantised model.
    ``matrix_bytes(options, rows, columns)`` are the bytes of a linear layer's weights between the
    embedding and the head, packed, and of their constants; without it, weights are kept in "dtype".
    ``variants`` are settings of the options that are common enough for a name of their own.
    ``rules_of_thumb`` say by card or use when it is usually chosen, for who has no numbers yet.
    ``min_capability`` is the oldest CUDA card, ``engine`` loads the model where the suite names
    none. Each function may import torch and raise `InputError`; a small model on a CPU is loaded
    and prepared twice, the first time as a rehearsal.
    """

    help: str
    options: type[OptionsBase]
    load_arguments: Callable[[Any, Device], dict[str, Any]]
    check: Callable[[dict[str, Any], Any, Device], list[str]]
    prepare: Callable[[Any, Any, Device], None] = lambda model, options, device: None
    layers: LayerReader | None = None
    matrix_bytes: Callable[[Any, int, int], tuple[int, int]] | None = None
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules_of_thumb: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")
    min_capability: tuple[int, int] = (0, 0)
    tf32: bool = False
    engine: str = "transformers"
