"""The processor: sub-words of words, entity markers, the length limit, batches, and decoding."""

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from reference_models.data.samples import Sample
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError
from reference_models.tasks import NamedEntities, get_task
from reference_models.tasks.ner import tags_of
from reference_models.tasks.processor import KEYS, Processor
from reference_models.tasks.re import MARKERS
from reference_models.tasks.subwords import TooLongError

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

WORDS = ["Scarlet", "Vexmor", "is", "here", "with", "Azure", "Kolbrin", "!"]
TOKENIZER_TEXT = [WORDS] * 4
RELATIONS = ["None", "peer"]


def make(task: str, **options: object) -> Processor:
    labels = TAGS if task == "ner" else RELATIONS
    return Processor(learn_tokenizer(TOKENIZER_TEXT, 120), get_task(task)(labels), **{"image_size": None, **options})


NER, RE = make("ner"), make("re")
words_strategy = st.lists(
    st.sampled_from([*WORDS, "Vexkol", "\u200b", "\xa0", "\ufe0f", "日", "[SEP]"]), min_size=1, max_size=12
)


@given(words_strategy)
def test_word_starts_are_the_first_subwords(words: list[str]) -> None:
    item = NER.encode(Sample("x:1", tuple(words), tags=("O",) * len(words)))
    assert len(item["word_starts"]) == len(item["labels"]) == len(words)
    assert item["word_starts"] == sorted(set(item["word_starts"]))
    for word, start in zip(words, item["word_starts"], strict=True):
        pieces = NER.tokenizer.tokenize(word) or [NER.tokenizer.unk_token]
        assert NER.tokenizer.convert_ids_to_tokens(item["input_ids"][start]) == pieces[0]


@given(words_strategy, st.integers(3, 12))
def test_truncated_words_are_decoded_as_outside(words: list[str], limit: int) -> None:
    processor = make("ner", max_length=limit)
    item = processor.encode(Sample("x:1", tuple(words), tags=("B-PER",) * len(words)))
    whole = NER.encode(Sample("x:1", tuple(words)))["word_starts"]
    assert len(item["input_ids"]) <= limit
    assert item["word_starts"] == [start for start in whole if start < limit - 1]
    decoded = processor.decode(Sample("x:1", tuple(words)), [1] * len(item["word_starts"]) + [-100] * 2)
    assert decoded == ["B-PER"] * len(item["word_starts"]) + ["O"] * (len(words) - len(item["word_starts"]))


@st.composite
def pairs(draw: st.DrawFn) -> Sample:
    words = draw(words_strategy)
    spans = [sorted(draw(st.lists(st.integers(0, len(words)), min_size=2, max_size=2, unique=True))) for _ in range(2)]
    return Sample("x:1", tuple(words), head=tuple(spans[0]), tail=tuple(spans[1]), relation="peer")


@given(pairs())
def test_markers_enclose_entities_even_if_they_overlap(sample: Sample) -> None:
    item = RE.encode(sample)
    tokens = RE.tokenizer.convert_ids_to_tokens(item["input_ids"])
    for name, (opening, closing) in (("head", MARKERS[:2]), ("tail", MARKERS[2:])):
        start, end = item[name]
        assert (tokens[start - 1], tokens[end]) == (opening, closing)
        entity = [token for token in tokens[start:end] if token not in MARKERS]
        words = sample.words[slice(*getattr(sample, name))]
        assert entity == [p for word in words for p in RE.tokenizer.tokenize(word) or [RE.tokenizer.unk_token]]
    assert item["labels"] == 1


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ((0, 1), (0, 1), "[HEAD] [TAIL] a [/TAIL] [/HEAD] b c"),
        ((0, 2), (1, 2), "[HEAD] a [TAIL] b [/TAIL] [/HEAD] c"),
        ((0, 1), (0, 2), "[TAIL] [HEAD] a [/HEAD] b [/TAIL] c"),
        ((1, 2), (0, 3), "[TAIL] a [HEAD] b [/HEAD] c [/TAIL]"),
        ((1, 2), (0, 1), "[TAIL] a [/TAIL] [HEAD] b [/HEAD] c"),
    ],
    ids=["equal", "same end", "same start", "inside", "adjacent"],
)
def test_markers_of_overlapping_entities_are_nested(
    head: tuple[int, int], tail: tuple[int, int], expected: str
) -> None:
    sample = Sample("x:1", ("a", "b", "c"), head=head, tail=tail)
    assert " ".join(RE.task.words_read(sample)) == expected


@given(pairs())
def test_markers_are_balanced_unless_entities_cross(sample: Sample) -> None:
    first, second = sorted(span for span in (sample.head, sample.tail) if span)
    assume(not first[0] < second[0] < first[1] < second[1])
    opened = []
    for word in RE.task.words_read(sample):
        if word in MARKERS[::2]:
            opened.append(word)
        elif word in MARKERS:
            assert opened.pop() == word.replace("/", "")
    assert opened == []


def test_marker_string_in_the_text_is_not_an_entity() -> None:
    item = RE.encode(Sample("x:1", ("[HEAD]", "is", "Vexmor"), head=(2, 3), tail=(1, 2)))
    tokens = RE.tokenizer.convert_ids_to_tokens(item["input_ids"])
    assert tokens[item["tail"][0]] == "is"
    assert item["head"][0] > item["tail"][1]


def test_entity_beyond_the_length_limit_raises() -> None:
    sample = Sample("ours_train.txt:7", tuple(WORDS), head=(0, 2), tail=(5, 7))
    with pytest.raises(TooLongError, match=r"ours_train.txt:7: the tail entity at words \[5, 7\] .* 9 sub-words"):
        make("re", max_length=9).encode(sample)


def test_missing_spans_or_unknown_relation_raises() -> None:
    with pytest.raises(UserError, match="x:1: expected the spans"):
        RE.encode(Sample("x:1", ("a",)))
    with pytest.raises(UserError, match="x:1: unknown relation 'foe'"):
        RE.encode(Sample("x:1", ("a", "b"), head=(0, 1), tail=(1, 2), relation="foe"))


@given(st.lists(words_strategy, min_size=1, max_size=4))
def test_batch_is_padded_to_the_longest_sentence_with_masks(sentences: list[list[str]]) -> None:
    items = [NER.encode(Sample("x:1", tuple(words), tags=("I-LOC",) * len(words))) for words in sentences]
    batch = NER.collate(items)
    assert batch["input_ids"].shape == (len(items), max(len(item["input_ids"]) for item in items))
    for row, item in enumerate(items):
        length, words = len(item["input_ids"]), len(item["word_starts"])
        assert batch["input_ids"][row].tolist() == item["input_ids"] + [0] * (batch["input_ids"].shape[1] - length)
        assert batch["attention_mask"][row].sum() == length
        assert batch["word_mask"][row].tolist() == [True] * words + [False] * (batch["word_mask"].shape[1] - words)
        assert batch["word_starts"][row, :words].tolist() == item["word_starts"]
        assert batch["labels"][row, :words].tolist() == [TAGS.index("I-LOC")] * words


@given(st.lists(pairs(), min_size=1, max_size=4))
def test_entity_masks_of_a_batch_mark_both_entities(samples: list[Sample]) -> None:
    items = [RE.encode(sample) for sample in samples]
    batch = RE.collate(items)
    for row, item in enumerate(items):
        for name in ("head", "tail"):
            assert batch[f"{name}_mask"][row].nonzero().flatten().tolist() == list(range(*item[name]))
    assert batch["labels"].tolist() == [1] * len(items)


def test_images_fill_their_slots_and_missing_ones_are_zero(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 5), (10 * number, 0, 0)).save(path)
    processor = make("ner", image_size=4)
    values, present = processor.pixels(Sample("x:1", ("a",), paths[0], tuple(paths[1:])))
    assert present.tolist() == [True] * 4
    assert values[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    values, present = processor.pixels(Sample("x:1", ("a",), None, (paths[2],)))
    assert present.tolist() == [False, True, False, False]
    assert values.shape == (4, 3, 4, 4)
    assert values[~present].sum() == 0
    item = {**processor.encode(Sample("x:1", ("a",))), "pixels": (values, present)}
    assert torch.equal(processor.collate([item, item])["image_mask"], torch.stack([present, present]))


def test_pixels_of_a_text_only_processor_raise() -> None:
    with pytest.raises(ValueError, match="expected a processor with an image_size"):
        NER.pixels(Sample("x:1", ("a",)))


@pytest.mark.parametrize("task", ["ner", "re"])
def test_loaded_processor_encodes_identically(task: str, tmp_path: Path) -> None:
    processor = make(task, max_length=40, image_size=8, max_crops=2, resize="centre-crop")
    processor.save_pretrained(tmp_path)
    loaded = Processor.from_pretrained(tmp_path)
    sample = Sample("x:1", tuple(WORDS), head=(0, 2), tail=(5, 7))
    assert loaded.encode(sample) == processor.encode(sample)
    assert (loaded.task.name, loaded.task.settings()) == (task, processor.task.settings())
    for name in KEYS:
        assert getattr(loaded, name) == getattr(processor, name)


X13 = ("[PAD]", *TAGS, "X", "[CLS]", "[SEP]")
X = Processor(learn_tokenizer(TOKENIZER_TEXT, 120), NamedEntities(X13, "x13"), image_size=None)


@given(words_strategy, st.data())
def test_x13_labels_cover_all_subwords_and_decode_to_words(words: list[str], data: st.DataObject) -> None:
    tags = tuple(data.draw(st.sampled_from(TAGS)) for _ in words)
    sample = Sample("x:1", tuple(words), tags=tags)
    item, plain = X.encode(sample), NER.encode(sample)
    assert len(X13) == len(set(X13)) == 13
    assert item["input_ids"] == plain["input_ids"]
    assert item["word_starts"] == list(range(len(item["input_ids"])))
    names = [X13[label] for label in item["labels"]]
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]")
    assert [names[start] for start in plain["word_starts"]] == list(tags)
    assert names.count("X") == len(names) - 2 - len(words)
    assert X.decode(sample, [*item["labels"], -100]) == list(tags)
    assert X.decode(sample, [X13.index("X")] * len(names)) == ["O"] * len(words)


def test_characters_are_encoded_for_untruncated_words() -> None:
    processor = make("ner", max_length=5, characters="abVx")
    sample = Sample("x:1", ("Vax!", "b", "Scarlet", "here"))
    item = processor.encode(sample)
    read = len(sample.words) - item["words_cut"]
    assert item["characters"] == [[4, 2, 5, 1], [3], [1, 1, 2, 1, 1, 1, 1], [1] * 4][:read]
    long = processor.encode(Sample("x:2", ("a" * 15 + "x" * 9 + "b" * 15,)))["characters"]
    assert long == [[2] * 15 + [3] * 15]
    batch = processor.collate([item, processor.encode(Sample("x:3", ("b",)))])
    assert batch["characters"].shape == (2, read, max(map(len, item["characters"])))
    assert batch["characters"][1].flatten().tolist()[:2] == [3, 0]
    assert "characters" not in NER.collate([NER.encode(sample)])
