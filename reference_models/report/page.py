"""`report.html`: the self-contained HTML report of a finished run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reference_models.config import Policy, RunConfig
from reference_models.data.formats import SPLITS, get_format
from reference_models.data.images import check_images
from reference_models.data.samples import Sample, fingerprint
from reference_models.errors import UserError
from reference_models.files import read_json, readable, writable
from reference_models.report.examples import labelled, pick, pick_examples
from reference_models.report.markup import Markup, element
from reference_models.report.modalities import attention, gap
from reference_models.report.sections import curves, examples, facts, types
from reference_models.report.style import STYLE
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.fingerprints import images_fingerprint
from reference_models.training.folder import CONFIG, METRICS, START
from reference_models.training.run import AGAIN, HISTORY, PREDICTIONS, load_whole_model, read_samples

REPORT = "report.html"
COMPARED = 400  # maximum number of test samples for the comparison of the modalities
EXAMPLES = 6  # maximum number of correct examples, and of wrong ones
ATTENDING = 16  # maximum batch size that is readable as a heat map

# The browser runs no script and fetches nothing, whatever text the data contain.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(run: Path, config: RunConfig) -> Path:
    """Write the report of a finished run into its run directory; the same run always gives the same page.

    Args:
        run: The run directory.
        config: Settings of the run, possibly with another data folder.

    Returns:
        Path of the report.

    Raises:
        UserError: If the data are missing or are not the data of the run.
    """
    metrics, history = read_json(run / METRICS, AGAIN), read_json(run / HISTORY, AGAIN)
    with readable(run / PREDICTIONS, AGAIN), (run / PREDICTIONS).open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    # Samples that were too long to predict cannot be encoded either.
    model, processor = load_whole_model(run)
    task = processor.task
    compared = pick([row for row in rows if "too_long" not in row], COMPARED)
    shown = pick_examples(task, rows, EXAMPLES)
    attending = pick(compared, min(config.training.batch_size, ATTENDING))
    wanted = {row["id"] for chosen in (compared, *shown) for row in chosen}
    samples = _read_test(config, read_json(run / START, AGAIN), wanted)
    split, batch = (EncodedSplit([samples[row["id"]] for row in some], processor) for some in (compared, attending))
    sections = {
        "Scores": facts(task, metrics, (run / CONFIG).read_text()),
        "Training": curves(history),
        "Types": types(task, rows),
        "Modalities": gap(model, split, history, config.training.batch_size),
        "Attention": attention(model, batch, [labelled(task, row) for row in attending]),
        "Examples": examples(task, *shown, samples),
    }
    path = run / REPORT
    page = _page(f"Report of {run.resolve().name}", sections)
    with writable(path):
        path.write_text(page, encoding="utf-8")
    return path


def _read_test(config: RunConfig, start: Mapping[str, Any], wanted: set[str]) -> dict[str, Sample]:
    """Read the wanted samples of the test split, by id, and check that labels and images are those of the run."""
    root = Path(config.data.root)
    if not root.is_dir():
        raise UserError(f"the data of the run are no longer in {root}; give their folder with --data.root FOLDER")
    kind = get_format(config.data.format)
    files = [path for split in SPLITS for path in kind.layout(root, split).labels]
    if (found := fingerprint(files)) != (known := start["labels_fingerprint"]):
        raise UserError(f"the labels in {root} are not those of the run: their fingerprint is {found}, not {known}")
    samples = read_samples(config, "test")
    # All test samples are scored, so the policy "drop" blanks a bad image here.
    policy: Policy = "error" if config.data.bad_images == "error" else "blank"
    checked, _ = check_images([sample for sample in samples if sample.id in wanted], policy, progress=False)
    # A run that reads no images has no fingerprint of them.
    known = start.get("test_images_fingerprint")
    if known is not None and (found := images_fingerprint(samples)) != known:
        raise UserError(
            f"the test images or crops in {root} are not those of the run: their fingerprint is {found}, not {known}; "
            "restore them, or give the folder of the original data with --data.root FOLDER"
        )
    return {sample.id: sample for sample in checked}


def _page(title: str, sections: Mapping[str, Markup]) -> str:
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", **{"http-equiv": "Content-Security-Policy"}, content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    links = element("nav", *(element("a", name, href=f"#{name.lower()}") for name in sections))
    parts = [element("section", element("h2", name), body, id=name.lower()) for name, body in sections.items()]
    body = element("body", element("h1", title), links, element("main", *parts))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
