"""An experiment as the text of a TOML file that `load_experiment` reads."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from qwafer.experiment import TEXT_KEYS, Experiment
from qwafer.overrides import flat_config, no_effect
from qwafer.source import source_facts


def experiment_toml(experiment: Experiment) -> str:
    """Return the text of an experiment's TOML file, every arm with all options that have an effect in it."""
    lines = [f"{key} = {_toml(getattr(experiment, key))}" for key in TEXT_KEYS if getattr(experiment, key)]
    lines += [f"seeds = {_toml(experiment.seeds)}", f"margin = {experiment.margin}"]
    if experiment.searched is not None:
        lines += ["", "[search]"]
        lines += [
            f"{item.name} = {_toml(getattr(experiment.searched, item.name))}"
            for item in dataclasses.fields(experiment.searched)
        ]
    for arm, config in experiment.arms.items():
        facts = experiment.facts.get(arm, source_facts(config.data))
        lines += ["", f"[arms.{json.dumps(arm)}]"]
        lines += [f"{k} = {_toml(v)}" for k, v in flat_config(config).items() if no_effect(config, k, facts) is None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
