"""Custom data from the check to prediction: any labels, any format, with and without images."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reference_models.cli import main
from reference_models.settings import read_settings
from reference_models.tasks import NamedEntities
from reference_models.training.run import check_samples, read_samples, warn_of_unused_settings

LEARNS = ("--training.epochs", "8", "--training.batch_size", "4")  # enough steps to find the entities
SIZES = {"train": 24, "valid": 6, "test": 6}
NAMES = {"muppet": ("Bert", "Ernie"), "Straße 7": ("Sesame", "Main")}


def rows(size: int, seed: int) -> list[dict[str, Any]]:
    """Return lines of a `jsonl` data set: who sings where, with a grey image."""
    draw = random.Random(seed)
    made = []
    for number in range(size):
        who, where = (draw.choice(names) for names in NAMES.values())
        entities = [{"start": 0, "end": 1, "label": "muppet"}, {"start": 3, "end": 5, "label": "Straße 7"}]
        label = "NA" if who == "Bert" else "sings in"
        made.append(
            {
                "tokens": [who, "sings", "in", where, "Street"],
                "image": f"images/{number % 4}.png",
                "entities": entities,
                "relations": [{"head": 0, "tail": 1, "label": label}],
            }
        )
    return made


def write_jsonl(root: Path, *keys: str) -> Path:
    (root / "images").mkdir(parents=True)
    for number in range(4):
        Image.new("L", (50, 40), 60 * number).save(root / "images" / f"{number}.png")
    for seed, (split, size) in enumerate(SIZES.items()):
        lines = [json.dumps({key: row[key] for key in ("tokens", *keys) if key in row}) for row in rows(size, seed)]
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return root


def write_flickr(root: Path) -> Path:
    for folder in ("Sentences", "Annotations", "images"):
        (root / folder).mkdir(parents=True)
    number = 0
    for split, size in SIZES.items():
        photos = [f"{number + place}" for place in range(size // 2)]
        number += len(photos)
        (root / f"{split}.txt").write_text("\n".join(photos) + "\n")
        for photo in photos:
            pixels = np.zeros((40, 50, 3), np.uint8)
            pixels[10:20, 25:50] = 255  # the annotated dog; the photo has half the size given in the annotations
            Image.fromarray(pixels).save(root / "images" / f"{photo}.jpg", quality=95)
            sentences = [f"[/EN#1/animals A dog] sees [/EN#2/people {who} .]" for who in ("Ann", "Bob")]
            (root / "Sentences" / f"{photo}.txt").write_text("\n".join(sentences) + "\n")
            (root / "Annotations" / f"{photo}.xml").write_text(
                "<annotation><size><width>100</width><height>80</height></size><object><name>1</name><bndbox>"
                "<xmin>50</xmin><ymin>20</ymin><xmax>100</xmax><ymax>40</ymax></bndbox></object></annotation>"
            )
    return root


def arguments(format: str, root: Path, run: Path, *more: str) -> list[str]:
    data = ["--data.format", format, "--data.root", str(root), "--output", str(run), "--training.epochs", "1"]
    return ["train", "synthetic-ner", *data, *more]


def run_pipeline(
    format: str, root: Path, run: Path, detector: str, capsys: pytest.CaptureFixture[str], *more: str
) -> str:
    """Run check, crops, training, evaluation and report, and return the output of evaluation."""
    assert main(["data", "check", str(root)]) == 0
    assert f"({format})" in capsys.readouterr().out
    train = arguments(format, root, run, *more)
    crops = ["data", "crops", *train[1:], "--grounding.detector", detector, "--grounding.size", "32"]
    assert main(crops) == 0
    assert main(["data", "check", str(root)]) == 0
    assert "unused files: 0" in capsys.readouterr().out
    assert main(train) == 0
    assert main(["report", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    return capsys.readouterr().out


def check_prediction(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that `predict` finds the entities of a test post that were found when the split was scored."""
    sample = read_samples(read_settings(run / "config.yaml"), "test")[0]
    row = json.loads((run / "predictions_test.jsonl").read_text().splitlines()[0])
    post = ["--text", " ".join(sample.words)]
    if sample.image is not None:
        post += ["--image", str(sample.image), "--crops", *map(str, sample.crops)]
    capsys.readouterr()
    assert main(["predict", str(run), *post]) == 0
    expected = NamedEntities(["O"]).describe(sample, row["predicted"])
    assert capsys.readouterr().out.splitlines()[0] == expected != "no entity"


def test_custom_entity_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_jsonl(tmp_path / "set", "image", "entities")
    printed = run_pipeline("jsonl", root, tmp_path / "run", "centre", capsys, "--training.epochs", "8")
    assert "muppet" in printed
    assert "Straße 7" in (tmp_path / "run" / "report.html").read_text()
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert {"muppet_f1", "Straße 7_f1"} <= set(scores)
    image = str(root / "images" / "0.png")
    assert main(["predict", str(tmp_path / "run"), "--text", "Ernie sings in Main Street", "--image", image]) == 0


def test_custom_relation_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_jsonl(tmp_path / "set", "image", "entities", "relations")
    more = ["--data.no_relation", "NA"]
    printed = run_pipeline("jsonl", root, tmp_path / "run", "centre", capsys, *more)
    assert "sings in" in printed
    assert "NA means no relation" in (tmp_path / "run" / "report.html").read_text()
    post = ["--text", "Ernie sings in Main Street", "--head", "Ernie", "--tail", "Main Street"]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), *post]) == 0
    assert {line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:]} == {"NA", "sings in"}
    assert main(arguments("jsonl", root, tmp_path / "other")) == 2
    assert "data.no_relation is 'None', but the relations are" in capsys.readouterr().err
    assert main(arguments("jsonl", root, tmp_path / "other", "--data.task", "ner")) == 0


@pytest.mark.parametrize(("prefix", "warns"), [("paper", True), ("release", False)])
def test_images_without_crops_warn_if_only_crops_are_read(
    prefix: str, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_jsonl(tmp_path / "set", "image", "entities")
    config = read_settings(root, ["--model.prefix", prefix])
    for split in SIZES:
        caplog.clear()
        check_samples(config, split, read_samples(config, split), scored=split != "train")
        assert ("no sample has crops, but i2srm reads only the crops of an image" in caplog.text) == warns


def test_text_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for seed, (split, size) in enumerate(SIZES.items()):
        lines = [f"{row['tokens'][0]}\tB-muppet\nsings\tO\n" for row in rows(size, seed)]
        (root / f"{split}.txt").write_text("\n".join(lines))
    assert main(["data", "check", str(root)]) == 0
    assert "muppet" in capsys.readouterr().out
    assert main(arguments("conll", root, tmp_path / "run")) == 2
    assert "no sample has an image; train a text-only system" in capsys.readouterr().err
    command, data, *settings = arguments("conll", root, tmp_path / "run")
    assert main([command, data, "text-only", *settings, "--model.text", "tiny", *LEARNS]) == 0
    assert main(["report", str(tmp_path / "run")]) == 0
    check_prediction(tmp_path / "run", capsys)
    assert main(["data", "crops", *arguments("conll", root, tmp_path / "run")[1:]]) == 2
    assert "expected samples with images, from which crops are cut" in capsys.readouterr().err


def test_photos_with_annotated_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_flickr(tmp_path / "set")
    printed = run_pipeline("flickr30k_entities", root, tmp_path / "run", "annotations", capsys, *LEARNS)
    assert "animals" in printed
    check_prediction(tmp_path / "run", capsys)
    config = read_settings("synthetic-ner", arguments("flickr30k_entities", root, tmp_path / "run")[2:])
    for sample in read_samples(config, "train"):
        [crop] = sample.crops
        assert np.asarray(Image.open(crop)).mean() > 245  # only the dog
    write_jsonl(tmp_path / "j", "image")
    more = ["--data.format", "jsonl", "--data.root", str(tmp_path / "j"), "--grounding.detector", "annotations"]
    assert main(["data", "crops", "synthetic-ner", *more]) == 2
    assert "expected data with annotated boxes" in capsys.readouterr().err


def test_crops_of_a_changed_label_file_raise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_jsonl(tmp_path / "set", "image", "entities")
    train = arguments("jsonl", root, tmp_path / "run")
    crops = ["data", "crops", *train[1:], "--grounding.detector", "centre", "--grounding.size", "32"]
    assert main(crops) == 0
    labels = root / "train.jsonl"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))
    capsys.readouterr()
    assert main(["data", "check", str(root)]) == 1
    assert main(train) == 2
    printed = capsys.readouterr()
    assert "was cut from" in printed.out
    assert "the label file or data.task has changed since the crops were made" in printed.err
    assert main([*crops, "--grounding.overwrite", "true"]) == 0
    assert main(train) == 0


def test_ner_crops_are_made_per_line_if_lines_have_relations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_jsonl(tmp_path / "set", "image", "entities", "relations")
    for path in root.glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(line | {'relations': 2 * line['relations']})}\n" for line in lines))
    train = arguments("jsonl", root, tmp_path / "run", "--data.task", "ner")
    assert main(["data", "crops", *train[1:], "--grounding.detector", "centre", "--grounding.size", "32"]) == 0
    samples = read_samples(read_settings("synthetic-ner", train[2:]), "train")
    manifest = [json.loads(line) for line in (root / "crops_train.jsonl").read_text().splitlines()]
    sources = {row["crop"]: row["image"] for row in manifest}
    assert all(sample.crops for sample in samples)
    for sample in samples:
        names = {sources[str(crop.relative_to(root / "crops" / "train"))] for crop in sample.crops}
        assert names == {str(sample.image.relative_to(root))}
    assert main(arguments("jsonl", root, tmp_path / "run", "--data.no_relation", "NA")) == 2
    assert "data.task has changed since the crops were made" in capsys.readouterr().err


def test_model_is_scored_for_its_own_task_if_data_have_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entities = write_jsonl(tmp_path / "entities", "entities")
    both = write_jsonl(tmp_path / "both", "entities", "relations")
    train, data, *settings = arguments("jsonl", entities, tmp_path / "run")
    assert main([train, data, "text-only", *settings, "--model.text", "tiny"]) == 0
    printed = []
    for root in (entities, both):
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "run"), "--data.root", str(root)]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_empty_relation_lists_count_as_no_relations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_jsonl(tmp_path / "set", "entities", "relations")
    for path in root.glob("*.jsonl"):
        lines = [json.loads(line) | {"relations": []} for line in path.read_text().splitlines()]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["data", "check", str(root), "--text-only"]) == 0
    assert "muppet" in capsys.readouterr().out
    with (root / "train.jsonl").open("a") as file:
        file.write(json.dumps(rows(1, 0)[0] | {"image": None}) + "\n")
    assert main(["data", "check", str(root), "--text-only"]) == 1
    message = "valid.jsonl: expected lines with relations, but no line of this split has one"
    assert message in capsys.readouterr().out
    for path in root.glob("*.jsonl"):
        path.write_text('{"tokens": ["Bert"]}\n')
    assert main(["data", "check", str(root), "--text-only"]) == 1
    assert "expected samples with entities or relations, but no sample has one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.mixup.preset", "recommended"], "model.mixup has no effect, because model.attn_mixup is false"),
        (["--model.semantic", '{"contrast": 1.0}', "--model.semantic_weight", "0"], "model.semantic has no effect"),
        (["--model.attn_mixup", "true", "--model.mixup.preset", "recommended"], ""),
    ],
)
def test_settings_of_a_disabled_module_warn(
    settings: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_unused_settings(read_settings("synthetic-ner", settings, system="hvpnet").model)
    assert message in caplog.text
    assert bool(message) == bool(caplog.text)
