"""What is drawn of an object is what its files hold, all of it, whatever the names in them."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from test_report import CHROMIUM, FLAGS, HOSTILE

from jaxrnn import __version__, readers, shards, view
from jaxrnn.config import Data
from jaxrnn.errors import JaxrnnError
from jaxrnn.features import FeatureColumn
from jaxrnn.readers import Column, Objects, Observations, Part, RowReader, SequenceReader, Sequences, Survey
from jaxrnn.report import figures
from jaxrnn.results import write_json

SURVEY = Survey(
    columns=(Column("flux", "uJy"), Column("flux_error", "uJy"), Column("mag", "AB mag")),
    error_columns=("flux_error",),
    metadata=(Column("redshift"), Column("distance", "Mpc")),
    passbands=("g", "r", "i"),
)


def made(objects: int = 30, seed: int = 1, classes: tuple[str, ...] = ("Ia", "II", "Ib")) -> Sequences:
    """Returns objects of as many observations as their number's last digit, and one."""
    rng = np.random.default_rng(seed)
    lengths = np.arange(objects) % 10 + 1
    rows = int(lengths.sum())
    values = np.stack([rng.normal(10, 3, rows), rng.uniform(0.1, 1, rows), rng.uniform(18, 22, rows)], axis=1)
    return Sequences(
        ids=np.array([f"obj{index:04d}" for index in range(objects)], dtype=object),
        labels=np.array([classes[index % len(classes)] for index in range(objects)], dtype=object),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        time=59000 + rng.uniform(0, 100, rows).round(3),
        values=values.round(4),
        passband=rng.integers(0, 3, rows),
        metadata=rng.uniform(0.1, 2, (objects, 2)).round(3),
        row_numbers=np.arange(rows),
        files=("memory",),
    )


class Held(SequenceReader):
    """Sequences of the test, in parts of `step` objects, in the order `order`."""

    survey: ClassVar[Survey] = SURVEY
    content: ClassVar[Sequences]
    order: ClassVar[np.ndarray]
    step: ClassVar[int] = 7
    reads: ClassVar[int] = 0

    def __init__(self, path: Path, options: Any) -> None:
        Held.reads = 0

    def describe(self) -> Survey:
        return self.survey

    def files(self) -> list[Path]:
        return []

    def parts(self, budget: int) -> list[Part]:
        return [Part((), start, start + self.step) for start in range(0, len(self.order), self.step)]

    def read(self, part: Part) -> Sequences:
        Held.reads += 1
        return taken(self.content, self.order[part.start : part.stop])


class Scattered(RowReader):
    """The same as a table whose rows stand in any order; `told`: whether there is a table of objects."""

    told: ClassVar[bool] = True

    def __init__(self, path: Path, options: Any) -> None:
        self.owner = np.repeat(np.arange(len(Held.content.ids)), np.diff(Held.content.offsets))
        self.rows = np.random.default_rng(3).permutation(len(self.owner))

    def describe(self) -> Survey:
        return SURVEY

    def files(self) -> list[Path]:
        return []

    def rows_at(self, file: str, row_numbers: np.ndarray) -> np.ndarray:
        assert file == "rows.csv"
        return (row_numbers - 7) // 100

    def object_parts(self, budget: int) -> list[Part]:
        return [Part(())] if self.told else []

    def observation_parts(self, budget: int) -> list[Part]:
        return [Part((), start, start + 40) for start in range(0, len(self.rows), 40)]

    def read_objects(self, part: Part) -> Iterator[Objects]:
        held = Held.content
        for own in np.array_split(np.arange(len(held.ids)), 3):
            ids = held.ids[own].astype("S")
            yield Objects(ids, held.labels[own], held.metadata[own], own, "objects.csv")

    def read_observations(self, part: Part) -> Iterator[Observations]:
        held = Held.content
        for own in np.array_split(self.rows[part.start : part.stop], 3):
            yield Observations(
                object_ids=held.ids[self.owner[own]].astype("S"), time=held.time[own], values=held.values[own],
                passband=held.passband[own], row_numbers=100 * own + 7, file="rows.csv",
                labels=None if self.told else held.labels[self.owner[own]],
            )  # fmt: skip


def taken(held: Sequences, objects: np.ndarray) -> Sequences:
    spans = [np.arange(*held.offsets[index : index + 2].tolist()) for index in objects]
    rows = np.concatenate([*spans, np.zeros(0, int)])
    return replace(
        held,
        ids=held.ids[objects], labels=held.labels[objects], metadata=held.metadata[objects],
        offsets=np.cumsum([0, *map(len, spans)]), time=held.time[rows], values=held.values[rows],
        passband=held.passband[rows], row_numbers=held.row_numbers[rows],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> Sequences:
    content = made()
    monkeypatch.setattr(Held, "content", content, raising=False)
    monkeypatch.setattr(Held, "order", np.arange(len(content.ids)), raising=False)
    return content


def draw(folder: Path, name: str = "view.html", reader: str = "Held", **wanted: Any) -> tuple[str, Path]:
    data = Data(reader=f"{__name__}:{reader}", path=str(folder), features=["flux"])  # pyright: ignore
    return view.draw_survey(data, folder, view.Wanted(**wanted), folder / name), folder / name


def articles(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Returns by id the text of each object's card and what its marks say, in their order."""
    found = {}
    for card in re.findall(r"<article.*?</article>", path.read_text(encoding="utf-8"), re.S):
        root = ElementTree.fromstring(card.replace("&nbsp;", " "))
        title = "".join(next(root.iter("h3")).itertext())
        marks = [str(e.get("aria-label")) for e in root.iter("{http://www.w3.org/2000/svg}path") if e.get("aria-label")]
        found[title] = (" ".join("".join(root.itertext()).split()), marks)
    return found


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


@pytest.mark.parametrize(("reader", "told"), [("Held", True), ("Scattered", True), ("Scattered", False)])
def test_every_observation_of_an_object_is_drawn_with_its_values(
    tmp_path: Path, held: Sequences, monkeypatch: pytest.MonkeyPatch, reader: str, told: bool
) -> None:
    monkeypatch.setattr(Scattered, "told", told)
    said, path = draw(tmp_path, reader=reader, per_class=4)
    found = articles(path)
    assert len(found) == 12 and "12 objects of 3 classes" in said
    for index, name in enumerate(held.ids):
        if name not in found:
            continue
        text, marks = found[name]
        drawn = set()
        for mark in marks:
            match = re.fullmatch(r"([\d.]+) days · flux (\S+) ± (\S+) uJy · (\w) · row (\d+)", mark)
            assert match
            drawn.add((number(match[1]), number(match[2]), number(match[3]), match[4], int(match[5])))
        rows = range(held.offsets[index], held.offsets[index + 1])
        bands = [SURVEY.passbands[band] for band in held.passband]
        assert drawn == {(held.time[r], held.values[r, 0], held.values[r, 1], bands[r], r) for r in rows}
        assert held.labels[index] in text
        if told:
            assert f"redshift {held.metadata[index, 0]:g}" in text.replace("redshift", "redshift ").replace("  ", " ")


def test_the_same_objects_are_drawn_whatever_the_order_of_the_files(
    tmp_path: Path, held: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    for turn in range(2):
        monkeypatch.setattr(Held, "order", np.random.default_rng(turn).permutation(len(held.ids)))
        monkeypatch.setattr(Held, "step", 3 + 4 * turn)
        drawn[turn] = sorted(articles(draw(tmp_path, seed=5, per_class=2)[1]))
    drawn["rows"] = sorted(articles(draw(tmp_path, reader="Scattered", seed=5, per_class=2)[1]))
    assert len(set(map(tuple, drawn.values()))) == 1
    labels = dict(zip(held.ids, held.labels, strict=True))
    assert sorted(labels[name] for name in drawn[0]) == sorted(["Ia", "II", "Ib"] * 2)
    assert sorted(articles(draw(tmp_path, seed=6, per_class=2)[1])) != drawn[0]


def test_every_object_may_be_drawn(held: Sequences) -> None:
    """No object is left out by the way they are chosen: over many seeds each comes about as often."""
    seen = dict.fromkeys(held.ids, 0)
    for seed in range(300):
        choice = view._Choice(view.Wanted(per_class=2, seed=seed), Path())
        for index in choice.entering(held.ids.tolist(), held.labels.tolist()):
            choice.put(held.ids[index], held.labels[index], None)
        for name, _, _ in choice.chosen():
            seen[name] += 1
    expected = 300 * 2 / 10  # 10 objects a class
    assert sum(seen.values()) == 300 * 6
    assert all(abs(count - expected) < 5 * np.sqrt(expected * 0.8) for count in seen.values())


def test_named_objects_are_drawn_in_their_order_and_reading_stops_there(tmp_path: Path) -> None:
    said, path = draw(tmp_path, objects=("obj0005", "obj0001"))
    assert list(articles(path)) == ["obj0005", "obj0001"] and "2 objects" in said
    assert Held.reads == 1  # both stand in the first of five parts
    assert "2 objects" in draw(tmp_path, reader="Scattered", objects=("obj0009", "obj0001"))[0]
    assert len(articles(path)["obj0009"][1]) == 10


def test_faulty_observations_are_crossed_and_told(
    tmp_path: Path, held: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = held.offsets[9] + np.arange(5)
    held.values[rows[0], 0] = np.nan
    held.values[rows[1], 1] = -9
    held.values[rows[2], 1] = 0
    held.passband[rows[3]] = -1
    held.time[rows[4]] = np.nan
    held.values[rows[0] + 6, 0] = 1e300  # would leave nothing of the others
    faults = np.full(len(held.time), "", dtype=object)
    faults[rows[0] + 7] = "12 fields instead of 4"
    monkeypatch.setattr(Held, "read", lambda self, part: replace(held, row_faults=faults))
    monkeypatch.setattr(Held, "step", 1000)
    said, path = draw(tmp_path, objects=("obj0009",))
    text, marks = articles(path)["obj0009"]
    assert "faulty observations in 1 object" in said
    for reason in ("flux is not finite", "flux_error -9 is not positive", "flux_error 0 is not positive",
                   "passband is none of g, r, i", "time is not finite", "12 fields instead of 4"):  # fmt: skip
        assert reason in text
    crosses = [mark for mark in marks if re.search(r"row \d+ · \w", mark)]
    assert len(marks) == 9 and len(crosses) == 6, "all but the one without a time"
    ticks = [number(t) for t in re.findall(r"text-anchor=\"end\"[^>]*>([\N{MINUS SIGN}\d.]+)<", path.read_text())]
    assert ticks and max(ticks) < 100, "a faulty value doesn't set the frame"


def test_magnitudes_grow_downwards_and_fluxes_upwards(tmp_path: Path, held: Sequences) -> None:
    for column, sign in (("flux", -1), ("mag", 1)):
        path = draw(tmp_path, "one.svg", objects=("obj0009",), column=column)[1]
        root = ElementTree.parse(path).getroot()
        points = {
            number(re.findall(rf"{column} (\S+)", str(e.get("aria-label")))[0]): float(
                re.findall(r"translate\([-\d.]+,([-\d.]+)\)", str(e.get("transform")))[0]
            )
            for e in root.iter()
            if str(e.get("aria-label", "")).startswith("59")
        }
        heights = [points[value] for value in sorted(points)]
        assert len(heights) == 10 and (np.diff(heights) * sign > 0).all()


def test_what_cannot_be_drawn_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in ("Held", "Scattered"):
        with pytest.raises(JaxrnnError, match=r"no object 'OBJ7'; the nearest ids are obj0007"):
            draw(tmp_path, reader=reader, objects=("obj0001", "OBJ7"))
        with pytest.raises(JaxrnnError, match=r"class 'Iax'; did you mean 'Ia'.*Ia, II, Ib"):
            draw(tmp_path, reader=reader, classes=("Iax",))
    with pytest.raises(JaxrnnError, match=r"column 'fluxx'; did you mean 'flux'"):
        draw(tmp_path, column="fluxx")
    with pytest.raises(JaxrnnError, match=r"\.html, \.png, \.svg"):
        draw(tmp_path, "view.gif")
    with pytest.raises(JaxrnnError, match="both objects and classes"):
        draw(tmp_path, objects=("obj0001",), classes=("Ia",))
    with pytest.raises(JaxrnnError, match="at least 1"):
        draw(tmp_path, per_class=0)
    monkeypatch.setattr(Held, "content", made(400, classes=tuple("abcdefgh")))
    monkeypatch.setattr(Held, "order", np.arange(400))
    with pytest.raises(JaxrnnError, match="more than 200 objects would be drawn"):
        draw(tmp_path, per_class=30)
    monkeypatch.setattr(Held, "order", np.arange(0))
    with pytest.raises(JaxrnnError, match="holds no object"):
        draw(tmp_path)
    assert not any(tmp_path.iterdir())


def test_objects_without_observations_labels_or_with_an_id_twice_are_drawn(tmp_path: Path, held: Sequences) -> None:
    held.labels[:] = ""
    held.ids[3] = held.ids[5]
    held.offsets[1] = 0
    said, path = draw(tmp_path, per_class=30)
    text = path.read_text(encoding="utf-8")
    assert "30 objects" in said and text.count("<article") == 30
    assert text.count("this id stands more than once") == 2 and text.count("<bdi>no label") == 30
    assert ">no observations<" in text and "0 observations" in text


def test_a_long_sequence_keeps_its_extremes() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        count, most = int(rng.integers(500, 5000)), int(rng.integers(20, 300))
        time, values, band = rng.uniform(0, 1, count), rng.normal(size=count), rng.integers(0, 4, count)
        kept = view._envelope(time, values, band, most)
        assert len(kept) <= most + 8 and (np.diff(time[kept]) >= 0).all() and len(set(kept.tolist())) == len(kept)
        for own in range(4):
            for extreme in (values[band == own].min(), values[band == own].max()):
                assert extreme in values[kept]
    assert sorted(view._envelope(time, values, band, count).tolist()) == list(range(count))


@pytest.mark.parametrize(("shape", "most"), [((28, 28), 10_000), ((50, 30), 100), ((3, 200), 64), ((1, 9), 5)])
def test_a_map_shows_means_of_cells(shape: tuple[int, int], most: int) -> None:
    values = np.random.default_rng(5).normal(size=shape)
    values[0, 0] = np.nan
    names = [f"c{index}" for index in range(shape[1])]
    for downwards in (True, False):
        panel, _ = view._map(values, names, "K", downwards, most)
        assert len(panel.rows) + len(panel.faults) <= most + 1
        cells = {}
        for row in panel.rows:
            step, column = ("y", "x") if downwards else ("x", "y")
            own = values[row[step] : row[f"{step}2"], row[column] : row[f"{column}2"]]
            cells[row["share"]] = np.nanmean(own)
            shown = re.search(r"(\S+) K", row["text"])
            assert shown and number(shown[1]) == pytest.approx(cells[row["share"]], rel=1e-5)
        area = sum((row["x2"] - row["x"]) * (row["y2"] - row["y"]) for row in panel.rows)
        assert area == values.size - (most == 10_000), "every value but a lone faulty one is in one cell"
        ordered = [cells[share] for share in sorted(cells)]
        assert (np.diff(ordered) >= 0).all() and min(cells) == 0 and max(cells) == 1
        assert len(panel.faults) == 1 and "not finite" in panel.faults[0]["text"]


def test_many_columns_are_drawn_as_a_map(tmp_path: Path, held: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = tuple(Column(f"pixel_{index}") for index in range(12))
    monkeypatch.setattr(Held, "survey", replace(SURVEY, columns=columns, error_columns=(), passbands=()))
    content = replace(held, values=np.random.default_rng(6).uniform(0, 255, (len(held.time), 12)).round(2))
    monkeypatch.setattr(Held, "content", content)
    _, path = draw(tmp_path, objects=("obj0004",))
    marks = articles(path)["obj0004"][1]
    first = content.offsets[4]
    expected = [f"step {s} · pixel_{c} {content.values[first + s, c]:g}" for s in range(5) for c in range(12)]
    assert sorted(marks) == sorted(expected)
    marks = articles(draw(tmp_path, objects=("obj0004",), column="pixel_7")[1])["obj0004"][1]
    assert len(marks) == 5 and all("pixel_7" in mark for mark in marks)


def dataset(folder: Path, held: Sequences, bands: tuple[str, ...] = SURVEY.passbands) -> Path:
    """Writes two shards of nights: the magnitude and presence of each passband."""
    folder.mkdir()
    columns = (
        FeatureColumn("time", "days", "time", "", "", 0, False),
        *(FeatureColumn(f"mag_{band}", "mag", "value", "mag", band, 1, False) for band in bands),
        *(FeatureColumn(f"passband_{band}", "", "passband", "", band, 2, True) for band in bands),
    )
    for number_, own in enumerate(np.array_split(np.arange(len(held.ids)), 2)):
        part = taken(held, own)
        present = part.passband[:, None] == np.arange(3)
        values = np.where(present, part.values[:, 2:], np.nan)
        shard = shards.Shard(
            part.ids, part.labels, part.offsets, part.time,
            np.concatenate([part.time[:, None], values, present], axis=1).astype(np.float32),
            part.metadata.astype(np.float32), None, None, None, columns, SURVEY.metadata, "days",
            ((str(part.ids[0]), "memory", 3, "flux_error not positive"),), {},
        )  # fmt: skip
        shards.write(folder / f"{number_}.h5", shard, __version__)
    write_json(folder / "manifest.json", {"shards": [{"file": "0.h5"}, {"file": "1.h5"}]})
    (folder / "rejected.csv").write_text("object,file,row,reason\nobj9999,memory,,no label\n")
    return folder


def test_shards_show_the_same_objects_with_their_features(tmp_path: Path, held: Sequences) -> None:
    folder, path = dataset(tmp_path / "key", held), tmp_path / "shards.html"
    said = view.draw_dataset(folder, view.Wanted(seed=5), path)
    found = articles(path)
    assert "9 objects of 3 classes" in said and list(found) == list(articles(draw(tmp_path, seed=5)[1]))
    for name, (_, marks) in found.items():
        index = held.ids.tolist().index(name)
        rows = slice(held.offsets[index], held.offsets[index + 1])
        expected = [f"mag {np.float32(value):.6g} mag" for value in held.values[rows, 2]]
        assert sorted(re.findall(r"mag \S+ mag", " ".join(marks))) == sorted(expected)
        assert len(marks) == 3 * len(expected), "time, magnitude and passband of each"
    view.draw_dataset(folder, view.Wanted(objects=("obj0000",), column="mag"), path)
    text, marks = articles(path)["obj0000"]
    assert "1 observation left out by ingest: flux_error not positive" in text and len(marks) == 1
    with pytest.raises(JaxrnnError, match="'obj9999' was rejected by ingest: no label"):
        view.draw_dataset(folder, view.Wanted(objects=("obj9999",)), path)
    with pytest.raises(JaxrnnError, match="no feature 'magg'; did you mean 'mag'"):
        view.draw_dataset(folder, view.Wanted(column="magg"), path)
    with pytest.raises(JaxrnnError, match="jaxrnn ingest"):
        view.draw_dataset(tmp_path / "nowhere", view.Wanted(), path)


def test_images_are_written_whole_in_their_format(tmp_path: Path, held: Sequences) -> None:
    png, svg = draw(tmp_path, "a.png", per_class=2)[1], draw(tmp_path, "a.svg", per_class=2)[1]
    head = png.read_bytes()[:24]
    root = ElementTree.parse(svg).getroot()
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20], "big") == pytest.approx(2 * float(root.get("width", "0")), abs=2)
    words = {"".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")}
    assert {"Ia", "II", "Ib", "time (days)", "flux (uJy)", "g", "r", "i"} <= words
    assert sum(word.startswith("obj") for word in words) == 6
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_passbands_differ_in_colour_and_shape_in_both_schemes() -> None:
    for scheme in (0, 1):
        colours = [figures.TOKENS[token][scheme] for token in figures.BAND_TOKENS]
        assert len(set(colours)) == len(colours) >= 6
    names = [f"band{index}" for index in range(42)]
    channels = figures._band_channels(names)
    colours, shapes = (channels[name].to_dict()["scale"]["range"] for name in ("color", "shape"))
    pairs = set(zip(colours, shapes, strict=True))
    assert len(pairs) == 42


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, jaxrnn.view; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"jax", "altair", "vl_convert", "h5py", "pandas"} & set(done.stdout.split())


@pytest.mark.data
def test_the_faulty_object_of_spcc_shows_its_twenty_faults(tmp_path: Path, data_folder: Path) -> None:
    data = Data(reader="spcc", path="spcc", features=["flux"])  # pyright: ignore
    view.draw_survey(data, data_folder / "spcc", view.Wanted(objects=("396420",)), tmp_path / "view.html")
    text, marks = articles(tmp_path / "view.html")["396420"]
    assert "20 faulty observations: flux_error -9 is not positive" in text
    assert sum("not positive" in mark for mark in marks) == 20 and len(marks) == 88


@pytest.mark.data
def test_digits_stand_upright(tmp_path: Path, data_folder: Path) -> None:
    data = Data(reader="mnist", path="mnist", features=["pixel_00"])  # pyright: ignore
    reader = readers.open_reader("mnist", data_folder / "mnist")
    assert isinstance(reader, SequenceReader)
    first = taken(reader.read(reader.parts(1 << 20)[0]), np.array([0]))
    view.draw_survey(data, data_folder / "mnist", view.Wanted(objects=(str(first.ids[0]),)), tmp_path / "view.svg")
    root = ElementTree.parse(tmp_path / "view.svg").getroot()
    drawn = np.zeros((28, 28))
    for element in root.iter():
        if match := re.match(r"step (\d+) · pixel_(\d+) (\S+)", element.get("aria-label", "")):
            path = re.match(r"M([\d.]+),([\d.]+)", str(element.get("d")))
            assert path
            drawn[round(float(path[2]) / 300 * 28), round(float(path[1]) / 300 * 28)] = number(match[3])
    np.testing.assert_array_equal(drawn, first.values)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs playwright: pip install playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as running:
        opened = running.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(
    browser: Any, tmp_path: Path, held: Sequences, monkeypatch: pytest.MonkeyPatch, width: int, scheme: str
) -> None:
    hostile = [name for name in HOSTILE if name]
    held.ids[: len(hostile)] = hostile
    held.labels[: len(hostile)] = hostile[::-1]
    columns = (Column("flux </svg><script>alert(2)</script>", "<b>uJy"), *SURVEY.columns[1:])
    survey = replace(SURVEY, columns=columns, passbands=("</title><script>alert(3)</script>", "r", 'i" onload="'))
    monkeypatch.setattr(Held, "survey", survey)
    _, path = draw(tmp_path, per_class=1)
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    faults: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    assert not faults
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(24, 27, 32)")
    assert page.evaluate("getComputedStyle(document.querySelector('article svg > rect')).fill") == background
    assert page.locator("script").count() == 1
    drawings = page.locator("article")
    assert drawings.count() >= len(hostile)
    drawings.last.scroll_into_view_if_needed()
    mark = drawings.last.locator("path[aria-label]").first
    box = mark.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = page.locator("#tip")
    assert tip.is_visible() and "<b>uJy" in tip.inner_text() and " days" in tip.inner_text()
    place = tip.bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= width
    context.close()
