"""Claims: of several copies of a job the newest one writes, and what the others had begun harms nothing."""

from pathlib import Path

import pytest

from jaxrnn import claims, results
from jaxrnn.claims import Claim
from jaxrnn.errors import JaxrnnError

LOST = r"a newer copy of this job works here \(process \d+ on \S+, since .*\)"


def test_the_newest_claim_is_the_one_that_holds(tmp_path: Path) -> None:
    with claims.held(tmp_path / "job") as first:
        first.check()
        with claims.held(tmp_path / "job") as second:
            second.check()
            with pytest.raises(JaxrnnError, match=LOST):
                first.check()
            assert second.token > first.token
        # that the newer one has ended makes no difference
        with pytest.raises(JaxrnnError, match="or has ended"):
            first.check()
        with claims.held(tmp_path / "job") as third, pytest.raises(JaxrnnError):
            first.check()
    assert third.token > second.token
    assert not (tmp_path / "job").exists()


def test_a_killed_copys_claim_is_followed_by_a_greater_one_whatever_the_clock_says(tmp_path: Path) -> None:
    ahead = Claim(tmp_path, f"{10**19:020d}-00000000")
    ahead.file.touch()
    with claims.held(tmp_path) as claim:
        assert claim.token > ahead.token and not ahead.file.exists()
        claim.check()


@pytest.mark.parametrize("other", [1, 10**19], ids=["older", "newer"])
def test_of_two_copies_that_come_at_once_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int) -> None:
    """The other one's claim appears between this one's look at those before it and its own."""
    theirs, listed, looks = Claim(tmp_path, f"{other:020d}-00000000"), claims._claims, []

    def found(folder: Path) -> list[str]:
        tokens = listed(folder)
        if not looks:
            theirs.file.touch()
        looks.append(folder)
        return tokens

    monkeypatch.setattr(claims, "_claims", found)
    if other == 1:
        with claims.held(tmp_path) as ours:
            ours.check()
            with pytest.raises(JaxrnnError):
                theirs.check()
    else:
        with pytest.raises(JaxrnnError, match="a newer copy of this job works here"), claims.held(tmp_path):
            pass
        theirs.check()


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("stopped", ["while it writes", "before its rename", "within its rename"])
def test_an_old_copys_write_harms_nothing_wherever_it_was_stopped(tmp_path: Path, kind: str, stopped: str) -> None:
    path = tmp_path / "outputs"

    def write(temporary: Path, text: str) -> None:
        if kind == "folder":
            temporary.mkdir()
        (temporary / "table" if kind == "folder" else temporary).write_text(text)

    def content() -> str:
        return (path / "table" if kind == "folder" else path).read_text()

    def overtaken() -> None:
        with claims.held(tmp_path / "job") as newer, results.written_whole(path, claim=newer) as temporary:
            write(temporary, "new")
        assert content() == "new"

    class Stopped(Claim):
        """Its check is the last thing that it does before it is stopped."""

        def check(self) -> None:
            super().check()
            if stopped == "within its rename" and not path.exists():
                overtaken()

    def write_late(old: Claim) -> None:
        with results.written_whole(path, claim=old) as temporary:
            if stopped == "while it writes":
                overtaken()
            write(temporary, "old")
            if stopped == "before its rename":
                overtaken()

    with claims.held(tmp_path / "job") as held, pytest.raises(JaxrnnError, match="a newer copy"):
        write_late(Stopped(held.folder, held.token))
    assert content() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["outputs"]


def test_the_newer_copy_clears_what_killed_ones_left_and_nothing_of_a_newer_one(tmp_path: Path) -> None:
    with claims.held(tmp_path / "job") as first, claims.held(tmp_path / "job") as second:
        for name in (f".table.csv.{first.token}.part", ".table.csv.part", ".other.csv.part"):
            (tmp_path / name).touch()
        newer = f".table.csv.{int(second.token.partition('-')[0]) + 1:020d}-00000000.part"
        (tmp_path / newer).touch()
        with results.written_whole(tmp_path / "table.csv", claim=second) as temporary:
            temporary.write_text("whole")
    assert {entry.name for entry in tmp_path.iterdir()} == {"table.csv", ".other.csv.part", newer}
