"""Write docs/api.md from the docstrings: ``python docs/make_api.py``."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import attnmixup
from attnmixup import batch_norm, distributed, functional, sampling, schedule, training

HEAD = """# API

Made from the docstrings by `python docs/make_api.py`; do not edit.
"""
PAGES: list[tuple[ModuleType, list[str]]] = [
    (attnmixup, ["AttnMixup", "MixedBatch", "SemanticKLLoss", "SampleAttention", "MixupPlan", "Origin"]),
    (
        functional,
        [
            "semantic_kl",
            "additive_scores",
            "dot_scores",
            "attention_weights",
            "sample_attention",
            "interpolate",
            "interpolate_targets",
            "mixed_loss",
            "row_weights",
            "masked_mean",
            "finite_padding",
        ],
    ),
    (
        sampling,
        [
            "draw_plan",
            "draw_lam",
            "draw_rows",
            "draw_permutation",
            "draw_other_class",
            "draw_balanced",
            "draw_derangement",
        ],
    ),
    (schedule, ["strength_at"]),
    (training, ["missing_parameters", "warn_of_missing_parameters"]),
    (batch_norm, ["statistics_of_originals"]),
    (distributed, ["gather_rows"]),
]


def markdown(docstring: str) -> str:
    """A docstring with its sections as lists and its doctests as code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(docstring)).replace("``", "`")
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Attributes|Returns|Raises|Example):", line):
            section = line[:-1]
            lines += ["", f"**{section}**", "", *(["```pycon"] if section == "Example" else [])]
        elif section == "Example":
            lines.append(line.removeprefix("    "))
        elif section and re.match(r"    \S", line):
            item = line.removeprefix("    ")
            named = re.sub(r"^(\w+):", r"`\1`:", item) if section != "Returns" else item
            lines.append(f"- {named}")
        elif section:
            lines.append(line.removeprefix("      ") if line else line)
        else:
            lines.append(line)
    return "\n".join([*lines, "```"] if section == "Example" else lines).strip()


def signature(member: Callable[..., object], name: str) -> str:
    """Parameters and their defaults; their types are in the source."""
    found = inspect.signature(member)
    plain = [
        parameter.replace(annotation=parameter.empty) for key, parameter in found.parameters.items() if key != "self"
    ]
    return name + str(found.replace(parameters=plain, return_annotation=found.empty))


def entry(member: Callable[..., object], name: str) -> list[str]:
    """A heading, a signature and the docstring; for a class also its public methods."""
    lines = [f"### {name}", "", f"`{signature(member, name.rsplit('.')[-1])}`", "", markdown(member.__doc__ or ""), ""]
    if inspect.isclass(member):
        for method_name, method in vars(member).items():
            if inspect.isfunction(method) and not method_name.startswith("_") and method_name != "extra_repr":
                lines += entry(method, f"{name}.{method_name}")
    return lines


def page() -> str:
    """The whole of api.md."""
    lines = [HEAD]
    for module, names in PAGES:
        lines += [f"## {module.__name__}", "", (module.__doc__ or "").strip(), ""]
        for name in names:
            lines += entry(getattr(module, name), name)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "api.md").write_text(page())
