"""The studio's pipelines: each is a module that reads like its description, and this table is all that lists them.

Routes, jobs, metrics and docs follow from it. docs/pipelines.md says how to add one.
"""

import importlib
from collections.abc import Mapping, Sequence

from core.settings import SettingsError
from orchestrator.pipelines import chat1to1, imagegen, private, profile, scenes, shorts
from orchestrator.pipelines.base import Pipeline, of_module

MODULES = (chat1to1, shorts, scenes, private, imagegen, profile)
PIPELINES: Mapping[str, Pipeline] = {module.NAME: of_module(module) for module in MODULES}


def known(modules: Sequence[str]) -> dict[str, Pipeline]:
    """By name: those that ship, and the owner's own `modules` (PIPELINE_MODULES). Raises SettingsError."""
    found = dict(PIPELINES)
    for name in modules:
        try:
            own = of_module(importlib.import_module(name))
        except ImportError as exc:
            raise SettingsError(f"PIPELINE_MODULES: {name} cannot be imported: {exc}") from exc
        if own.name in found or own.path in {pipeline.path for pipeline in found.values()}:
            raise SettingsError(f"PIPELINE_MODULES: {name} takes the name or the path of another pipeline.")
        found[own.name] = own
    return found
