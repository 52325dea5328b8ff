"""Read, check, override and write `params.yaml`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from csr_core.config import Settings
from csr_core.errors import SettingsError
from csr_core.presets import AUTHORS_CODE_LLAVA, MINIATURE_SIZES, PRESETS, preset_files

START = "# Every setting of a run."  # how the template begins; what stands before it in a preset's file is its header


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings in the file at `path`, with `section.key=value` overrides on top.

    `preset=NAME` among the overrides puts the whole preset on top first; other overrides go over it.

    Raises:
        SettingsError: the file is missing or not YAML, or any key or value is wrong; all problems in one message.
    """
    if not path.is_file():
        raise SettingsError(
            f"expected the settings in {path}, found no such file: write one with `csr init --preset steady`"
        )
    try:
        tree = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise SettingsError(
            f"{path} is not valid YAML (often a tab, an open quote, or a colon without a blank behind it): {error}"
        ) from error
    if not isinstance(tree, dict):
        raise SettingsError(
            f"expected sections such as `model:` in {path}, got {type(tree).__name__}: is it empty, or another file? "
            "`csr init --force` writes it anew"
        )
    changes = dict(_parse_override(text) for text in overrides)
    if (preset := changes.get("preset")) is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            whole = f"; {preset} is a whole file: csr init --preset {preset}" if str(preset) in preset_files() else ""
            raise SettingsError(f"--set preset={preset}: expected one of {sorted(PRESETS)}{whole}")
        changes = {**PRESETS[preset], **changes}
    else:
        _check_preset_line(tree, path)
    for key, value in changes.items():
        _put(tree, key, value)
    names = ", ".join(text.partition("=")[0] for text in overrides)  # a value may hold a password
    return settings_from(tree, f"{path} with --set {names}" if names else str(path))


def settings_from(tree: Mapping[str, Any], source: str = "the settings") -> Settings:
    """Validate a nested mapping; every problem is named in one SettingsError."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        lines = [f"  - {_problem(item)}" for item in error.errors(include_url=False)]
        problems = "\n".join(lines)
        raise SettingsError(f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in {source}:\n{problems}") from None


def flatten(settings: Settings | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"reward.image_weight": 0.9, ...}`: one entry a value."""
    tree = settings.model_dump() if isinstance(settings, BaseModel) else settings
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def preset_values(preset: str, miniature: bool = True) -> dict[str, Any]:
    """The values of a preset as `{dotted key: value}`; `miniature` adds the tiny model's sizes of fine-tuning."""
    own = {"data.per_iteration": None, **(AUTHORS_CODE_LLAVA if preset == "authors-code" else {})}
    sizes = MINIATURE_SIZES if miniature else own
    return {"preset": preset, **PRESETS[preset], **sizes}


def initial_params(preset: str, given: Mapping[str, Any]) -> str:
    """The text that `csr init --preset NAME` writes: a method's values, or a preset file with its header.

    `given`: `{dotted key: value}` that go over the preset's.

    Raises:
        SettingsError: there is no such preset, or its file is not valid.
    """
    whole = preset_files()
    if preset in PRESETS:
        values = preset_values(preset, miniature=given.get("model.path", "miniature") == "miniature")
        return render_params({**values, **given})
    if preset not in whole:
        raise SettingsError(f"--preset {preset}: expected one of {', '.join([*sorted(PRESETS), *sorted(whole)])}")
    return header(whole[preset]) + render_params({**values_of(load_settings(whole[preset])), **given})


def header(path: Path) -> str:
    """The comment above the settings in a preset's file."""
    return path.read_text("utf-8").partition(START)[0]


def values_of(settings: Settings) -> dict[str, Any]:
    """All settings as `render_params` takes them: a value each, but mappings whose keys are free together."""
    tree = settings.model_dump()
    whole = {f"evaluate.{name}": tree["evaluate"].pop(name) for name in ("splits", "twins", "benchmarks", "judge")}
    return {**flatten(tree), **whole}


def render_params(values: Mapping[str, Any]) -> str:
    """The commented `params.yaml` with `values` (`{dotted key: value}`) in their places.

    `evaluate.splits`, whose names are free, is given as a whole: `{name: {folder, count}}`.
    """
    template = files("csr_core").joinpath("params_template.yaml").read_text("utf-8")
    return with_values(template, values)


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The text of a settings file with `values` (`{dotted key: value}`) in their places, comments kept.

    Raises:
        SettingsError: a key has no line of its own, `key: value`, in the text.
    """
    left = dict(values)
    splits = left.pop("evaluate.splits", None)
    section, lines, replaced = "", [], False
    for line in text.splitlines():
        replaced = replaced and line.startswith("    ")
        if replaced:  # the text's own splits
            continue
        if top := re.match(r"^(\w+):\s*(#.*)?$", line):
            section = f"{top[1]}."
        match = re.match(r"^(\s*)(\w+): (\{[^}]*\}|[^#{]*?)(\s*)(#.*)?$", line)
        if match and match[3]:
            key = (section if match[1] else "") + match[2]
            if key in left:
                line = _with_value(match, left.pop(key))
        lines.append(line)
        if splits is not None and line.startswith("  splits:"):
            lines += [f"    {one}" for one in yaml.safe_dump(splits, sort_keys=False).splitlines()]
            replaced = True
    if left:
        keys = ", ".join(f"{key} = {value}" for key, value in left.items())
        raise SettingsError(f"the settings file has no line for {sorted(left)}: write it by hand ({keys})")
    return "\n".join(lines) + "\n"


def _with_value(match: re.Match[str], value: Any) -> str:
    text = (
        yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
        .removesuffix("\n")
        .removesuffix("\n...")
        .strip()
    )
    if isinstance(value, float) and "e" in text:
        text = text if "." in text else text.replace("e", ".0e")  # YAML 1.1 reads 1e-07 as a string
        text = re.sub(r"e-0(?=\d)", "e-", text)
    start = f"{match[1]}{match[2]}: {text}"
    if not match[5]:
        return start
    width = len(match[0]) - len(match[5])
    return f"{start:<{width}}{match[5]}" if len(start) < width else f"{start}  {match[5]}"


def _parse_override(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise SettingsError(f"--set {text}: expected section.key=value, such as --set reward.image_weight=0.5")
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text}: {value!r} is not a YAML value: {error}") from error


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise SettingsError(f"--set {key}=...: {section} is a value, not a section: set {section} itself")
        tree = child
    tree[name] = value


def _check_preset_line(tree: Mapping[str, Any], path: Path) -> None:
    """Catch a `preset:` line changed by hand, which would silently change nothing."""
    named, flat = tree.get("preset"), flatten(tree)
    if named not in PRESETS:
        return  # validation says so

    def follows(preset: str) -> bool:
        return all(flat.get(key, value) == value for key, value in PRESETS[preset].items())

    others = [name for name in PRESETS if name != named and follows(name)]
    if others and not follows(named):
        raise SettingsError(
            f"{path} says `preset: {named}`, but its values are those of {others[0]!r}: that line alone does nothing. "
            f"Write the preset's values with `csr init --preset {named} --force`, or run with `--set preset={named}`"
        )


def _problem(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{place}: there is no such setting{_suggestion(item['loc'])}"
    message = item["msg"].removeprefix("Value error, ")
    got = "" if isinstance(item["input"], dict) or item["type"] == "missing" else f", got {item['input']!r}"
    return f"{place}: {message}{got}" if place else message


def _suggestion(place: tuple[Any, ...]) -> str:
    model: Any = Settings
    for part in place[:-1]:
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = field.annotation if field else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    names = list(model.model_fields)
    sections = [key for key in flatten(Settings()) if len(place) == 1 and key.endswith(f".{place[0]}")]
    if sections:
        return f"; did you mean {' or '.join(sections)}?"
    close = difflib.get_close_matches(str(place[-1]), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"


class _Loader(yaml.SafeLoader):
    """YAML 1.1's loader, which would read 1e-7 as text, with YAML 1.2's numbers."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
