"""What notebooks show of meshes and shardings."""

import re

import pytest

from spmd import Mesh, Sharding


def cells(html):
    """The rows of the table."""
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_a_mesh_is_a_grid_of_its_workers():
    assert cells(Mesh(dp=2, tp=3)._repr_html_()) == [["dp", "tp=0", "tp=1", "tp=2"], ["0", "0", "1", "2"], ["1", "3", "4", "5"]]
    assert cells(Mesh(tp=2)._repr_html_()) == [["tp=0", "tp=1"], ["0", "1"]]
    assert cells(Mesh(a=2, b=1, c=1)._repr_html_()) == [["a", "b", "c=0"], ["0", "0", "0"], ["1", "0", "1"]]
    assert "Mesh(dp=2, tp=3), 6 workers" in Mesh(dp=2, tp=3)._repr_html_()


def test_a_mesh_tells_hosts_and_devices():
    html = Mesh(dp=2, tp=2, hosts=2, devices=[0, 1, 3, 2])._repr_html_()
    assert cells(html)[1:] == [["0", "0, host 0, device 0", "1, host 0, device 1"], ["1", "2, host 1, device 3", "3, host 1, device 2"]]


def test_a_large_mesh_is_told_in_a_line():
    assert Mesh(tp=1 << 20)._repr_html_() == "<div>Mesh(tp=1048576), 1048576 workers</div>"


@pytest.mark.parametrize(
    ("text", "shape", "rows"),
    [
        ("[tp:8|2, -, dp]", (10, 3, 4), [["0", "tp", "8|2"], ["1", "whole", ""], ["2", "dp", "4"]]),
        ("[dp+tp, tp:~1]", (4, -1), [["0", "dp and tp", "4"], ["1", "tp", "~1"]]),
        ("[]", (), []),
    ],
)
def test_a_sharding_is_a_line_a_dimension(text, shape, rows):
    html = Sharding.parse(text, shape)._repr_html_()
    assert html.startswith(f"<div>{text}</div>") and cells(html)[1:] == rows


def test_a_sharding_tells_partial_sums():
    assert "every worker along tp holds a term of the max" in Sharding.parse("[-] max@tp", (4,))._repr_html_()
