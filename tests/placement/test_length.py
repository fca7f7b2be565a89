import pytest

from spmd.placement.length import Length


@pytest.mark.parametrize("text", ["1", "8", "s", "8.s", "8.s.t", "s.s"])
def test_text_reads_back(text: str) -> None:
    assert str(Length.parse(text)) == text
    assert not Length.parse(text).wrong


def test_products() -> None:
    assert Length(2, ("t",)).times(Length(3, ("s",))) == Length(6, ("s", "t"))
    assert Length(6, ("s", "t")).without(Length(3, ("s",))) == Length(2, ("t",))
    assert Length(6, ("s",)).without(Length(4)) is None
    assert Length(6, ("s",)).without(Length(1, ("s", "s"))) is None


def test_what_is_no_length() -> None:
    assert Length(0).wrong == Length(1, ("t", "s")).wrong == "a length has a number above 0, and names in order"
