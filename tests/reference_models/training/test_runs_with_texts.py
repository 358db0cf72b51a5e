"""A system that reads image texts: its batches, its run from the command line, and the fingerprints of the run."""

import json
from pathlib import Path

import pytest

from reference_models.cli import main
from reference_models.config import RunConfig
from reference_models.data.formats import SPLITS
from reference_models.data.image_texts import image_texts_path, read_image_texts, write_image_texts
from reference_models.data.samples import Sample
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError
from reference_models.prediction import Predictor
from reference_models.settings import read_settings
from reference_models.tasks import get_task
from reference_models.tasks.processor import Processor
from reference_models.training.fingerprints import input_fingerprints
from reference_models.training.run import read_samples
from tests.reference_models.training.tiny_runs import tiny_set

SHORT = ["--training.epochs", "1", "--training.batch_size", "8", "--model.tiny_vocabulary", "200"]
TEXTS = (("caption", "here is Vexmor"), ("tags", "Azure"), ("mood", "good"))


def test_image_texts_follow_the_sentence_and_only_they_are_cut() -> None:
    tokenizer = learn_tokenizer([["Scarlet", "Vexmor", "is", "here", "Azure"]] * 4, 120)
    processor = Processor(
        tokenizer, get_task("ner")(["O"]), image_size=None, max_length=6, texts=["tags", "caption"], text_length=4
    )
    words = ("Scarlet", "Vexmor", "is", "here")
    items = [processor.encode(Sample("1", words, image_texts=TEXTS)), processor.encode(Sample("2", words[:2]))]
    assert items[1]["image_text_ids"] == []
    batch = processor.collate(items)
    sentence = ["[CLS]", *words, "[SEP]"]
    joined = [tokenizer.convert_ids_to_tokens(row) for row in batch["joined_ids"]]
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0]) == sentence
    assert joined[0] == [*sentence, "Azure", "here", "is", "[SEP]"]
    assert joined[1] == ["[CLS]", *words[:2], "[SEP]", *["[PAD]"] * 6]
    assert batch["joined_mask"].tolist() == [[1] * 10, [1] * 4 + [0] * 6]
    assert items[0]["words_cut"] == 0


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_set(tmp_path_factory.mktemp("data"))


def test_run_trains_and_predicts_with_and_without_image_texts(posts: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", "synthetic-ner", "ita", "--data.root", str(posts), "--output", str(run), *SHORT]) == 0
    scores = json.loads((run / "metrics.json").read_text())
    assert scores["test"].keys() >= {"precision", "recall", "f1"}
    assert main(["evaluate", str(run)]) == 0
    predictor = Predictor(run)
    assert predictor.processor.image_size is None
    text = "look , Scarlet Vexmor again !"
    plain, other = predictor.predict_posts([{"text": text}, {"text": text, "image_texts": {"tags": "red person"}}])
    assert plain.keys() == other.keys() == {"entities"}
    encoded = predictor.processor.encode(predictor.read({"text": text, "image_texts": {"tags": "red person"}}, Path()))
    assert len(encoded["image_text_ids"]) >= 3
    with pytest.raises(UserError, match="expected an object of image texts by kind"):
        predictor("x", image_texts=["red person"])


def settings(posts: Path, system: str) -> RunConfig:
    return read_settings("synthetic-ner", ["--data.root", str(posts)], system=system)


def test_fingerprints_cover_the_image_texts_that_are_read(posts: Path, tmp_path: Path) -> None:
    config, path = settings(posts, "ita"), image_texts_path(posts, "valid")

    def fingerprints(config: RunConfig) -> dict[str, str]:
        return input_fingerprints(config, {split: read_samples(config, split) for split in SPLITS})

    before, text_only = fingerprints(config), fingerprints(settings(posts, "text-only"))
    texts = read_image_texts(path)
    write_image_texts(path, texts | {"valid_0.jpg": {"tags": "green tower", "mood": "good"}})
    after = fingerprints(config)
    assert {key for key in before if before[key] != after[key]} == {"valid_image_texts_fingerprint"}
    assert fingerprints(settings(posts, "text-only")) == text_only
    write_image_texts(path, texts | {"valid_0.jpg": {"tags": "green tower", "mood": "bad"}})
    assert fingerprints(config) == after
    write_image_texts(path, texts)


def test_missing_image_texts_and_long_text_length_raise(
    posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "synthetic-ner", "ita", "--data.root", str(posts), "--output", str(tmp_path / "run"), *SHORT]
    assert main([*command, "--model.texts", '["ocr"]']) == 2
    message = capsys.readouterr().err
    assert "train: ita reads the image texts ocr, but no sample has any" in message
    assert "i2srm data tags" in message
    assert main([*command, "--model.text_length", "33"]) == 2
    assert "model.text_length is 33" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
