import pytest

from spmd.plan.sizes import evaluated

SIZES = {"n": 5, "s": 3}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("n", 5),
        ("n * 8", 40),
        ("n * s * 4", 60),
        ("(n + T.int64(1)) // T.int64(2)", 3),
        ("n + 1 - n % 2", 5),
        ("T.min(n, s)", 3),
        ("T.max(n, 8)", 8),
        ("m", None),
        ("n // 0", None),
        ("n if s else 2", None),
        ("T.Select(n, s, 1)", None),
        ("n.0", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert evaluated(text, SIZES) == size
