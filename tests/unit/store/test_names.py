import re

import pytest

from stratascope.errors import SiteNotFoundError
from stratascope.sites import Site
from stratascope.store import SiteSpec
from stratascope.store._names import SiteNames

CONV = {"Conv1d": 1, "_ConvNd": 1}
SITES = [
    SiteSpec("enc.conv:in", "enc.conv", "in", None, 1, "Conv1d", ("dec.conv",), CONV),
    SiteSpec("enc.conv", "enc.conv", "out", None, 1, "Conv1d", ("dec.conv",), CONV),
    SiteSpec("enc.relu@1", "enc.relu", "out", 1, 3, "ReLU", ("dec.relu",), {"ReLU": 1}),
    SiteSpec("enc.relu@3", "enc.relu", "out", 3, 3, "ReLU", ("dec.relu",), {"ReLU": 1}),
    SiteSpec("enc.add", "enc.add"),
    SiteSpec("head", "head", "out", None, 1, "Conv1d", (), {"Conv1d": 3, "_ConvNd": 3}),
    SiteSpec("model", "", "out", None, 1, "Net", (), {"Net": 1}),
]
NAMES = SiteNames("acts.zarr", SITES)
PLAIN = SiteNames("old.zarr", [SiteSpec.from_text(spec.site) for spec in SITES])


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("enc.conv", "enc.conv"),
        ("enc.conv@1", "enc.conv"),
        ("enc.conv@-1", "enc.conv"),
        ("enc.conv:in", "enc.conv:in"),
        ("enc.conv@1:in", "enc.conv:in"),
        ("enc.relu@1", "enc.relu@1"),
        ("enc.add", "enc.add"),
        ("model", "model"),
        ("", "model"),
    ],
)
@pytest.mark.parametrize("names", [NAMES, PLAIN], ids=["table", "texts alone"])
def test_a_site_is_found_by_its_text(names, name, site):
    assert names.find(name) == site


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("dec.conv", "enc.conv"),
        ("dec.conv:in", "enc.conv:in"),
        ("Conv1d[1]", "enc.conv"),
        ("_ConvNd[1]:in", "enc.conv:in"),
        ("Conv1d[3]", "head"),
        ("ReLU[1]@3", "enc.relu@3"),
        ("enc.relu@-1", "enc.relu@3"),
        ("dec.relu@-3", "enc.relu@1"),
        ("Net[1]", "model"),
    ],
)
def test_a_site_is_found_by_alias_class_and_call(name, site):
    assert NAMES.find(name) == site
    with pytest.raises(SiteNotFoundError, match=r"old.zarr holds no site"):
        PLAIN.find(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dec.relu", r"It ran several times: ask for one of 'enc\.relu@1', 'enc\.relu@3'\."),
        ("enc.relu@2", r"Did you mean 'enc\.relu@3', 'enc\.relu@1'"),
        ("enc.relu@-2", "Did you mean"),
        ("enc.relu@-4", "Did you mean"),
        ("head:in", "Did you mean 'head'"),
        ("Conv1d[2]", r"Of that class it holds Conv1d\[1\], Conv1d\[3\]\."),
        ("Conv1d[*]", r"Of that class it holds"),
        ("Conv1d", r"Did you mean 'Conv1d\[3\]', 'Conv1d\[1\]'"),
        ("dec.cnv", r"Did you mean .*'dec\.conv'"),
        ("enc.*", r"It holds: enc\.conv:in, enc\.conv, enc\.relu@1"),
        ("Net[2]", r"Of that class it holds Net\[1\]\."),
        ("Linear[1]", "It holds"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_is(name, words):
    with pytest.raises(
        SiteNotFoundError, match=rf"^acts.zarr holds no site {re.escape(repr(name))}\..*{words}"
    ):
        NAMES.find(name)


def test_classes_of_which_nothing_is_held_are_not_listed_twice():
    with pytest.raises(SiteNotFoundError) as caught:
        NAMES.find("Conv1d[2]")

    assert str(caught.value).count("Conv1d[1]") == 1


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("enc.*", ["enc.conv", "enc.relu@1", "enc.relu@3", "enc.add"]),
        ("**", ["enc.conv", "enc.relu@1", "enc.relu@3", "enc.add", "head"]),
        ("**:in", ["enc.conv:in"]),
        ("dec.*", ["enc.conv", "enc.relu@1", "enc.relu@3"]),
        ("enc.relu", ["enc.relu@1", "enc.relu@3"]),
        ("*.relu@-1", ["enc.relu@3"]),
        ("Conv1d[*]", ["enc.conv", "head"]),
        ("_ConvNd[*]:in", ["enc.conv:in"]),
        ("Conv1d[3]", ["head"]),
        ("", ["model"]),
    ],
)
def test_names_and_globs_pick_sites_in_order(name, sites):
    assert NAMES.select(name) == sites


@pytest.mark.parametrize("name", ["enc", "Linear[*]", "enc.*:grad", "enc.*@7"])
def test_a_glob_that_picks_nothing_is_an_error(name):
    with pytest.raises(
        SiteNotFoundError, match=r"acts.zarr holds no site .* It holds: enc.conv:in"
    ):
        NAMES.select(name)


def test_the_text_of_a_site_tells_its_parts():
    assert SiteSpec.from_text("enc.relu@2:in") == SiteSpec("enc.relu@2:in", "enc.relu", "in", 2)
    assert SiteSpec.from_text(str(Site(""))) == SiteSpec("model", "model")
