import importlib
import subprocess
import sys
from unittest import mock

import pytest

from stratascope import integrations
from stratascope.errors import MissingExtraError

HEAVY = {"torch", "lightning", "pytorch_lightning", "transformers", "accelerate"}


@pytest.fixture
def without(monkeypatch):
    """Load the module of a callback anew, as if some packages were not installed."""

    def load(name, *packages):
        module = f"stratascope.integrations.{name}"
        importlib.import_module(module)
        monkeypatch.setattr(integrations, name, getattr(integrations, name))
        with mock.patch.dict(sys.modules):
            for loaded in list(sys.modules):
                if loaded == module or loaded.partition(".")[0] in packages:
                    del sys.modules[loaded]
            sys.modules.update(dict.fromkeys(packages))
            return importlib.import_module(module)

    return load


def test_the_package_imports_no_framework():
    code = "import sys, stratascope.integrations; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "stratascope.integrations" in ran.stdout.split()
    assert not HEAVY & set(ran.stdout.split())


def test_its_names_are_listed_before_any_was_used():
    assert dir(integrations) == ["LightningRecord", "TransformersRecord"]
    with pytest.raises(AttributeError, match=r"'stratascope\.integrations' has no attribute 'Ray'"):
        _ = integrations.Ray


def test_a_framework_that_is_not_installed_is_told_with_its_extra(without):
    with pytest.raises(MissingExtraError, match=r"needs lightning.*stratascope\[lightning\]"):
        without("_lightning", "lightning", "pytorch_lightning")
    with pytest.raises(MissingExtraError, match=r"transformers.*stratascope\[transformers\]"):
        without("_transformers", "transformers")


def test_pytorch_lightning_alone_is_enough(without):
    import pytorch_lightning

    record = without("_lightning", "lightning").LightningRecord

    assert issubclass(record, pytorch_lightning.Callback)
