import json
import sys

import pytest

from stratascope._optional import require
from stratascope.errors import MissingExtraError


def test_a_package_that_is_installed_is_returned():
    assert require("json", extra="none") is json


def test_a_module_inside_a_package_is_returned():
    assert require("json.decoder", extra="none") is sys.modules["json.decoder"]


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    with pytest.raises(
        MissingExtraError,
        match=r"this needs surely_absent, .* pip install 'stratascope\[view\]'",
    ):
        require("surely_absent.app", extra="view")


def test_a_package_that_breaks_while_it_is_imported_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_inside.py").write_text("import surely_absent\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="surely_absent") as caught:
        require("broken_inside", extra="view")

    assert not isinstance(caught.value, MissingExtraError)


def test_a_package_that_no_extra_brings_is_named_itself():
    with pytest.raises(
        MissingExtraError, match=r"needs no_such_package, .*: pip install no_such_pa"
    ):
        require("no_such_package")
