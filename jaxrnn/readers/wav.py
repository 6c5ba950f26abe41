"""Recordings as wav files: as they are, or as mel-frequency cepstral coefficients."""

import re
import warnings
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from jaxrnn.errors import JaxrnnError
from jaxrnn.readers import SPLITS, Column, Options, Part, SequenceReader, Sequences, Survey
from jaxrnn.readers.folders import Entry, bytes_of, files_below, read_entries, stem

ENDINGS = (".wav", ".wave")
# Energy below which a filter counts as silent, so that its logarithm is finite. Full scale is 1.
SILENCE = 1e-10
FRAMES_AT_ONCE = 4096


class WavOptions(Options):
    labels: Literal["name", "folder", "table", "none"] = Field(
        default="name",
        description="Where labels come from: the file's `name` by `pattern`, the `folder` that the file lies in, a "
        "`table`, or `none`.",
    )
    pattern: Annotated[str, Field(min_length=1)] = Field(
        default="(?P<label>[^_]+)(_.*)?",
        description="Regular expression that the file's whole name without its ending must match. Its group `label` is "
        "the label (`labels: name`); the groups `group` (speaker), `id` and `split` may stand in it too. The default "
        "takes what stands before the first `_`.",
    )
    table: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        validate_default=True,
        description="For `labels: table`: a CSV file, from the folder of the survey, with the columns `file` (path "
        "from that folder, with or without ending) and `label`, and perhaps `group` and `split`.",
    )
    features: Literal["mfcc", "raw"] = Field(
        default="mfcc",
        description="`mfcc`: mel-frequency cepstral coefficients, a step a window. `raw`: a step a sample; long.",
    )
    coefficients: Annotated[int, Field(ge=1, le=512)] = Field(
        default=13, description="How many coefficients, from the 0th; not more than `filters`."
    )
    filters: Annotated[int, Field(ge=1, le=512)] = Field(
        default=26,
        validate_default=True,
        description="Number of triangular filters, equally spaced in mel.",
    )
    window_seconds: Annotated[float, Field(gt=0, le=60)] = Field(default=0.025, description="Length of a window.")
    hop_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.010, description="From the start of a window to that of the next."
    )
    lowest_hz: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Lower edge of the lowest filter, in Hz. 20 to 100 leaves out hum."
    )
    highest_hz: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        validate_default=True,
        description="Upper edge of the highest filter, in Hz; `null` is half the sampling rate of each file. Set it "
        "where files differ in rate, so that their coefficients mean the same.",
    )

    @field_validator("pattern")
    @classmethod
    def _has_a_label(cls, pattern: str, info: ValidationInfo) -> str:
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        if info.data.get("labels") == "name" and "label" not in groups:
            raise ValueError("expected a group `(?P<label>...)`, because `labels: name` takes the label from it")
        return pattern

    @field_validator("table")
    @classmethod
    def _goes_with_labels(cls, table: str | None, info: ValidationInfo) -> str | None:
        if "labels" in info.data and (table is not None) != (info.data["labels"] == "table"):
            raise ValueError("`labels: table` and `table` need each other")
        return table

    @field_validator("filters")
    @classmethod
    def _as_many_as_coefficients(cls, filters: int, info: ValidationInfo) -> int:
        if filters < info.data.get("coefficients", 0):
            raise ValueError(f"expected at least as many as `coefficients`, {info.data['coefficients']}")
        return filters

    @field_validator("highest_hz")
    @classmethod
    def _above_the_lowest(cls, highest: float | None, info: ValidationInfo) -> float | None:
        if highest is not None and highest <= info.data.get("lowest_hz", 0):
            raise ValueError(f"expected more than `lowest_hz`, {info.data['lowest_hz']:g}")
        return highest


class WavReader(SequenceReader):
    r"""Folders of wav files (and folders below them), an object a file, such as spoken digits.

    PCM of 8, 16, 24 or 32 bits and floating point; full scale becomes -1 to 1, and several channels their mean. Ids are
    paths from the folder without ending (`fold1/7_jackson_32`) unless `pattern` has a group `id`.

    Columns: `mfcc_00`, `mfcc_01`, ... (pure numbers; time is the middle of the window) or, with `features: raw`,
    `value`. Time in seconds. No metadata, no passbands. Files shorter than a window have no steps.
    """

    Options = WavOptions
    TO_PREDICT: ClassVar[dict[str, Any]] = {"labels": "none", "table": None}
    EXAMPLE = r"""data:
  reader: wav
  path: free-spoken-digit-dataset/recordings
  options:
    pattern: '(?P<label>\d)_(?P<group>\w+)_\d+' # 7_jackson_32.wav: the digit 7 by the speaker jackson
    coefficients: 13
    lowest_hz: 20
    highest_hz: 4000
  features: ['mfcc_*']
"""

    def __init__(self, path: Path, options: WavOptions) -> None:
        self._path, self._options = path, options
        self._files = files_below(path, ENDINGS)
        self._pattern = re.compile(options.pattern)
        self._folder = path if path.is_dir() else path.parent
        self._table = self._folder / options.table if options.table else None
        self._entries  # noqa: B018  (a table that cannot be read is said at once)

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        """What the table says of each file, by the file's path without ending."""
        if self._table is None:
            return {}
        entries = read_entries(self._table, "file", ["label"], ["group", "split"])
        plain = {stem(self._folder, self._folder / name, ENDINGS): entry for name, entry in entries.items()}
        if len(plain) < len(entries):
            raise JaxrnnError(f"{self._table}: a file stands in it both with and without its ending; remove one row")
        return plain

    @property
    def _known(self) -> frozenset[str]:
        """Which of group and split the options tell of."""
        table = next(iter(self._entries.values())).cells if self._entries else {}
        return frozenset({"group", "split"} & {*self._pattern.groupindex, *table})

    def describe(self) -> Survey:
        options = self._options
        names = [f"mfcc_{k:02d}" for k in range(options.coefficients)] if options.features == "mfcc" else ["value"]
        return Survey(
            columns=tuple(Column(name) for name in names),
            time_unit="seconds",
            gives_splits="split" in self._known,
            gives_groups="group" in self._known,
            labelled=options.labels != "none",
        )

    def files(self) -> list[Path]:
        return [*self._files, *([self._table] if self._table else [])]

    def parts(self, budget: int) -> list[Part]:
        table = (self._table,) if self._table else ()
        whole = [Part((file, *table), 0, 1, bytes_of(file)) for file in self._files]
        # rows of the table whose recording is not there: objects without steps, which ingest accounts for
        absent = len(self._absent())
        return [*whole, *([Part(table, 0, absent, 100 * absent)] if absent else [])]

    def _absent(self) -> list[str]:
        return sorted(self._entries.keys() - {stem(self._path, file, ENDINGS) for file in self._files})

    def read(self, part: Part) -> Sequences:
        width = len(self.describe().columns)
        if self._table is not None and part.files[0] == self._table:
            names = self._absent()
            faults = [f"in {self._table.name}, and there is no such recording" for _ in names]
            return self._sequences(part, names, names, np.zeros(0), np.zeros((0, width)), faults)
        file = part.files[0]
        rate, samples = _samples(file)
        if self._options.features == "raw":
            time, values = np.arange(len(samples)) / rate, samples[:, None]
        else:
            time, values = mfcc(samples, rate, self._options, str(file))
        return self._sequences(part, [stem(self._path, file, ENDINGS)], [file.stem], time, values, [""])

    def _sequences(
        self, part: Part, keys: list[str], names: list[str], time: np.ndarray, values: np.ndarray, faults: list[str]
    ) -> Sequences:
        ids, labels, groups, splits = [], [], [], []
        for place, (key, name) in enumerate(zip(keys, names, strict=True)):
            match = self._pattern.fullmatch(name.rpartition("/")[2])
            said = {word: text or "" for word, text in match.groupdict().items()} if match else {}
            entry = self._entries.get(key)
            if entry is not None:
                said |= entry.cells
                faults[place] = faults[place] or entry.fault
            if not match and self._needs_match:
                faults[place] = faults[place] or f"the name {name} does not match `pattern` {self._pattern.pattern}"
            if self._options.labels == "folder":
                said["label"] = (self._folder / key).parent.name
            elif self._options.labels == "none" or (self._options.labels == "table" and entry is None):
                said["label"] = ""
            split = said.get("split", "")
            if "split" in self._known and split not in SPLITS:
                faults[place] = faults[place] or f"its split is '{split[:40]}'; expected one of {', '.join(SPLITS)}"
            ids.append(said.get("id") or key)
            labels.append(said.get("label", ""))
            groups.append(said.get("group", ""))
            splits.append(split if split in SPLITS else SPLITS[0])
        return Sequences(
            ids=np.array(ids, dtype=str),
            labels=np.array(labels, dtype=str),
            offsets=np.array([0] * len(ids) + [len(time)], dtype=np.int64),
            time=time,
            values=values,
            passband=np.zeros(len(time), dtype=np.int64),
            metadata=np.zeros((len(ids), 0)),
            row_numbers=np.arange(len(time)),
            files=(str(part.files[0]),),
            splits=np.array(splits, dtype=str) if "split" in self._known else None,
            groups=np.array(groups, dtype=str) if "group" in self._known else None,
            object_faults=np.array(faults, dtype=object),
        )

    @property
    def _needs_match(self) -> bool:
        """Whether something is taken from names: the label, or what the groups of a pattern of the user's own say."""
        return self._options.labels == "name" or bool({"group", "split", "id"} & {*self._pattern.groupindex})


def _samples(file: Path) -> tuple[int, np.ndarray]:
    """Returns the rate in Hz and the samples of a wav file, [sample] float64 from -1 to 1, the mean over channels."""
    from scipy.io import wavfile

    expected = "expected a whole wav file, PCM or floating point; copy it again, or leave it out"
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            rate, samples = wavfile.read(file)
    except OSError as error:
        raise JaxrnnError(f"{file}: cannot be read ({error.strerror or error}); {expected}") from None
    except Exception as error:  # SciPy meets a broken header with whatever its arithmetic raises
        raise JaxrnnError(f"{file}: not a readable wav file ({_first_line(error)}); {expected}") from None
    # other remarks are on chunks without sound (cover text, cue points)
    if any("EOF" in str(remark.message) for remark in remarks) or rate <= 0:
        raise JaxrnnError(f"{file}: shorter than its header says, so it was cut; {expected}")
    samples = np.asarray(samples)
    if samples.dtype.kind == "u":
        scaled = (samples.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":  # 24 bits come in the upper part of 32
        scaled = samples / -float(np.iinfo(samples.dtype).min)
    else:
        scaled = samples.astype(np.float64)
    return rate, scaled if scaled.ndim == 1 else scaled.mean(axis=1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def mel_filters(filters: int, points: int, rate: float, lowest_hz: float, highest_hz: float) -> np.ndarray:
    """Returns triangular filters [filter, frequency] for the spectrum of `points` samples.

    Filter i rises from edge i to 1 at edge i + 1 and falls to 0 at edge i + 2; the edges are equally spaced in
    mel = 2595 log10(1 + f / 700 Hz) (O'Shaughnessy 1987, Speech Communication: Human and Machine).
    """
    ends = 2595 * np.log10(1 + np.array([lowest_hz, highest_hz]) / 700)
    edges = 700 * (10 ** (np.linspace(ends[0], ends[1], filters + 2) / 2595) - 1)
    frequency = np.arange(points // 2 + 1) * rate / points
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.clip(np.minimum((frequency - lower) / (centre - lower), (upper - frequency) / (upper - centre)), 0, None)


def mfcc(samples: np.ndarray, rate: int, options: WavOptions, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the middle of each window [window], in seconds, and its mel-frequency cepstral coefficients [window,
    coefficient] (Davis and Mermelstein 1980, IEEE Trans. ASSP 28, 357).

    c_k = sum_i log(E_i) cos(pi k (i + 1/2) / n) over n filters, scaled to an orthonormal transform (DCT-II); E_i is the
    energy in filter i of `mel_filters`, at least `SILENCE`, of the power spectrum |FFT|^2 / N of a window under
    Hamming's taper, with N the next power of 2. Only whole windows count.
    """
    from scipy.fft import dct

    length, hop = round(options.window_seconds * rate), round(options.hop_seconds * rate)
    highest = rate / 2 if options.highest_hz is None else options.highest_hz
    if highest > rate / 2 or options.lowest_hz >= highest:
        raise JaxrnnError(
            f"{where}: sampled at {rate} Hz, so it holds nothing above {rate / 2:g} Hz, and the filters go from "
            f"{options.lowest_hz:g} to {highest:g} Hz; lower data.options.highest_hz or lowest_hz"
        )
    if length < 2 or hop < 1:
        raise JaxrnnError(
            f"{where}: sampled at {rate} Hz, so a window has {length} samples and a hop {hop}; expected at least 2 and "
            "1; raise data.options.window_seconds or hop_seconds"
        )
    points = 1 << (length - 1).bit_length()
    filters = mel_filters(options.filters, points, rate, options.lowest_hz, highest)
    if not filters.any(axis=1).all():
        raise JaxrnnError(
            f"{where}: {options.filters} filters are too many for windows of {length} samples at {rate} Hz: filter "
            f"{int(np.argmin(filters.any(axis=1)))} holds no frequency; lower data.options.filters, or raise "
            "window_seconds or lowest_hz"
        )
    starts = np.arange(0, len(samples) - length + 1, hop)
    taper, coefficients = np.hamming(length), np.zeros((len(starts), options.coefficients))
    for first in range(0, len(starts), FRAMES_AT_ONCE):
        windows = samples[starts[first : first + FRAMES_AT_ONCE, None] + np.arange(length)] * taper
        energy = np.abs(np.fft.rfft(windows, points)) ** 2 / points @ filters.T
        logarithms = np.log(np.maximum(energy, SILENCE))
        coefficients[first : first + len(windows)] = np.asarray(dct(logarithms, norm="ortho"))[
            :, : options.coefficients
        ]
    return (starts + length / 2) / rate, coefficients
