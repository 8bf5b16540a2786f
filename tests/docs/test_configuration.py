"""docs/configuration.md is what the code reads."""

from __future__ import annotations

import importlib

import pytest

from tests.docs import configuration


def test_the_page_is_current() -> None:
    """A setting that was added, removed or changed shows in the page."""
    assert configuration.PAGE.read_text() == configuration.render(), "run python -m tests.docs.configuration"


@pytest.mark.parametrize(("module", "name"), [section[1:] for section in configuration.SECTIONS])
def test_every_setting_says_what_it_does(module: str, name: str) -> None:
    """No setting is without a docstring."""
    model = getattr(importlib.import_module(module), name)

    silent = [path for path, _, _, description in configuration.settings_of(model) if not description]

    assert not silent
