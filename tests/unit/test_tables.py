"""Tables in a terminal and in a notebook."""

from stratascope._tables import lay_out, lay_out_html


def test_columns_are_as_wide_as_their_longest_cell():
    assert lay_out(["a", "b"], [["long", "1"], ["x", ""]]) == "a     b\nlong  1\nx"


def test_html_escapes_what_it_shows():
    shown = lay_out_html(["1 < 2"], ["<h>"], [["a & b"]])

    assert "1 &lt; 2" in shown
    assert "&lt;h&gt;" in shown
    assert "a &amp; b" in shown


def test_of_many_rows_the_first_are_shown_and_it_says_so():
    shown = lay_out_html([], ["n"], [[str(n)] for n in range(5000)])

    assert "the first 200 of 5000 rows" in shown
    assert shown.count("<td") == 200
    assert len(shown) < 100_000
