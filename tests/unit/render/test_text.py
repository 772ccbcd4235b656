import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratascope.render._text import number, numbers, width, wrap


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-1e-320, "-1e-320"),
        (0.1 + 0.2, "0.3"),
        (-2.314, "-2.31"),
        (999.9, "1000"),
        (4487, "4490"),
        (1e6, "1e6"),
        (1.234e-7, "1.23e-7"),
        (-np.inf, "-Inf"),
    ],
)
def test_a_number_has_three_significant_digits(value, text):
    assert number(value) == text


def test_ends_that_differ_are_written_differently():
    assert numbers([1.0, 1.0 + 1e-12]) == ["1", "1.000000000001"]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80), st.integers(30, 400))
def test_no_line_is_wider_than_its_room(text, room):
    assert all(width(line, 11) <= room for line in wrap(text, 11, room))


def test_signs_that_the_font_lacks_become_their_nearest():
    assert wrap("3×4 – größe → 日", 12, 1000) == ["3x4 - gro?e -> ?"]
