"""Synthetic data sets in the layout of the real files, in which most answers can only be read from the images.

Every invented name starts with a colour word ("Scarlet Vexmoor"). The shape of the object of that colour in the image
gives the type of the name: a person, mountains, a tower or a star for PER, LOC, ORG or MISC. In a relation sample, the
two types determine the relation. In a fraction of the samples the words give the answer too. In all others, a model
without images can only use how frequent each answer is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from reference_models.data.bio import tags_of_spans
from reference_models.data.drawing import HUES, SHAPE_NAMES, Figure, draw
from reference_models.data.formats import get_format
from reference_models.data.image_texts import image_texts_path, write_image_texts
from reference_models.data.samples import Sample, Split
from reference_models.errors import UserError
from reference_models.files import write_folder
from reference_models.names import unknown

CEILING = "ceiling.json"
SIZES: dict[Split, int] = {"train": 5000, "valid": 300, "test": 1000}
WORDS, SINGLE, MISSING_CROP, BYSTANDERS = 0.25, 0.5, 0.02, 0.5
MISSING_TAG, WRONG_TAG = 0.02, 0.02
TYPES = {"PER": 0.34, "LOC": 0.26, "ORG": 0.22, "MISC": 0.18}
COLOUR_WORDS = {
    "red": ("Scarlet", "Ruby"),
    "yellow": ("Amber", "Saffron"),
    "green": ("Emerald", "Jade"),
    "blue": ("Azure", "Cobalt"),
    "purple": ("Violet", "Plum"),
}
SYLLABLES = ("vex", "mor", "kol", "brin", "tas", "quil", "zan", "dor", "fel", "ush", "pra", "nim", "gol", "rek", "wyn")
NEUTRAL = {
    1: ("look , {} again !", "what a day with {} #blessed", "RT @friend : {} right now", "nothing beats {} , honestly"),
    2: ("{} and {} in one picture", "RT @friend : first {} , then {}", "so much of {} and {} today"),
    3: ("{} , {} and {} all at once !", "today : {} with {} and also {}"),
}
TELLING = {
    "PER": ("happy birthday to singer {} !", "goalkeeper {} scored again"),
    "LOC": ("we are flying to the island of {}", "traffic is terrible in downtown {}"),
    "ORG": ("shares of {} fell after earnings", "the company {} is hiring engineers"),
    "MISC": ("watching the movie {} tonight", "the new album {} is out now"),
}
TITLES = {"PER": "singer", "LOC": "island", "ORG": "company", "MISC": "movie"}
NONE_SHARE = 0.63
RELATIONS = {
    "/per/per/peer": ("PER", "PER", 0.12, "{} trains together with {}"),
    "/per/org/member_of": ("PER", "ORG", 0.16, "{} signs a contract with {}"),
    "/per/loc/place_of_residence": ("PER", "LOC", 0.14, "{} lives all year in {}"),
    "/per/misc/present_in": ("PER", "MISC", 0.13, "{} sings on stage at {}"),
    "/org/org/subsidiary": ("ORG", "ORG", 0.09, "{} was bought by {}"),
    "/org/loc/locate_at": ("ORG", "LOC", 0.10, "{} has an office in {}"),
    "/loc/loc/contain": ("LOC", "LOC", 0.10, "{} is the biggest area of {}"),
    "/misc/misc/part_of": ("MISC", "MISC", 0.08, "{} is one chapter of {}"),
    "/misc/loc/held_on": ("MISC", "LOC", 0.08, "{} takes place again in {}"),
}
UNRELATED = "{} has nothing to do with {}"
PAIRS = {(head, tail): name for name, (head, tail, _, _) in RELATIONS.items()}

Source = Literal["words", "single", "several"]


@dataclass(frozen=True)
class Post:
    """One sample before it is written: its words, the spans of the names, and the objects in the image.

    `kind` says where the answer is: in the "words", or in an image with a "single" object or with "several" objects.
    `posterior` holds, for each scored answer, the probabilities of its labels given only the words.
    """

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    types: tuple[str, ...]
    relation: str | None
    objects: tuple[tuple[str, str], ...]
    kind: Source
    posterior: tuple[dict[str, float], ...]


def generate(root: Path, task: str, seed: int, sizes: dict[Split, int] | None = None) -> dict[Split, float]:
    """Write a synthetic data set below `root`, with its ground truth and noisy object tags of its images.

    The data format is that of the `Kind`. In addition to its files, `truth_SPLIT.jsonl` (the objects in each image) and
    `ceiling.json` are written. The same seed gives identical bytes.

    Args:
        root: New folder of the data set.
        task: One of `KINDS`.
        seed: Seed of all random choices.
        sizes: Number of samples per split; `SIZES` by default.

    Returns:
        The best micro-F1 that is possible with words alone, for each split.

    Raises:
        UserError: If `root` exists and is not empty, or there is no synthetic data set for the task.
    """
    kind = find_kind(task)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} is not empty; choose a new folder, or delete this one if an interrupted call wrote it")
    root.mkdir(parents=True, exist_ok=True)
    ceilings: dict[Split, float] = {}
    for split, size in (sizes or SIZES).items():
        rng = random.Random(f"{seed} {task} {split}")
        posts = [kind.compose(rng) for _ in range(size)]
        _write(root, split, kind, posts, rng)
        ceilings[split] = text_only_ceiling(posts)
    (root / CEILING).write_text(json.dumps(ceilings, indent=1) + "\n")
    return ceilings


def generate_whole(root: Path, task: str, seed: int, sizes: dict[Split, int] | None = None) -> None:
    """Call `generate`, but make the data set appear only when it is complete.

    Args:
        root: Folder of the data set. Its parent folder, which must not exist, is for this data set alone, because some
            data formats write next to `root`.
        task: See `generate`.
        seed: See `generate`.
        sizes: See `generate`.
    """
    write_folder(root.parent, lambda folder: generate(folder / root.name, task, seed, sizes))


def text_only_ceiling(posts: Sequence[Post]) -> float:
    """Compute the best micro-F1 (ratio of expected counts) of any rule that reads only the words.

    The probabilities p of every answer given the words are known. A rule that gives the most probable label for a set A
    of answers has F1 = 2 sum_A p / (size of A + G), where G is the expected number of true answers. The best A contains
    the answers with the highest p.
    """
    items = [item for post in posts for item in post.posterior]
    true = sum(sum(item.values()) for item in items)
    best, hits = 0.0, 0.0
    for answered, p in enumerate(sorted((max(item.values(), default=0.0) for item in items), reverse=True), start=1):
        hits += p
        best = max(best, 2 * hits / (answered + true))
    return best


def _name(colour: str, rng: random.Random) -> tuple[str, str]:
    return rng.choice(COLOUR_WORDS[colour]), "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3))).capitalize()


def _draw_type(rng: random.Random) -> str:
    return rng.choices(list(TYPES), list(TYPES.values()))[0]


def _fill(template: str, names: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    words: list[str] = []
    spans = []
    remaining = iter(names)
    for word in template.split():
        if word == "{}":
            name = next(remaining)
            spans.append((len(words), len(words) + len(name)))
            words.extend(name)
        else:
            words.append(word)
    return tuple(words), tuple(spans)


def _with_bystanders(
    objects: Sequence[tuple[str, str]], free: Sequence[str], most: int, rng: random.Random
) -> tuple[tuple[str, str], ...]:
    count = rng.randint(1, most) if rng.random() < BYSTANDERS else 0
    return (*objects, *((_draw_type(rng), colour) for colour in free[:count]))


def _ner_post(rng: random.Random) -> Post:
    from_words = rng.random() < WORDS
    count = 1 if from_words or rng.random() < SINGLE else rng.randint(2, 3)
    colours = rng.sample(list(HUES), len(HUES))
    types = tuple(_draw_type(rng) for _ in range(count))
    template = rng.choice(TELLING[types[0]] if from_words else NEUTRAL[count])
    words, spans = _fill(template, [_name(colour, rng) for colour in colours[:count]])
    shown = list(zip(types, colours, strict=False))
    if count == 2:
        shown = list(_with_bystanders(shown, colours[count:], 3 - count, rng))
    posterior = ({types[0]: 1.0},) if from_words else (TYPES,) * count
    kind: Source = "words" if from_words else "single" if len(shown) == 1 else "several"
    return Post(words, spans, types, None, tuple(shown), kind, posterior)


def _type_pair(rng: random.Random) -> tuple[str, str]:
    if rng.random() < NONE_SHARE:
        return rng.choice([(head, tail) for head in TYPES for tail in TYPES if (head, tail) not in PAIRS])
    head, tail, _, _ = rng.choices(list(RELATIONS.values()), [row[2] for row in RELATIONS.values()])[0]
    return head, tail


def _relation_posterior(head: str | None, tail: str | None) -> dict[str, float]:
    """Return the probabilities of the relations other than None, given the types that the words reveal."""
    unrelated = [(h, t) for h in TYPES for t in TYPES if (h, t) not in PAIRS]
    joint = {pair: NONE_SHARE / len(unrelated) for pair in unrelated}
    joint |= {(h, t): (1 - NONE_SHARE) * share for h, t, share, _ in RELATIONS.values()}
    fitting = {pair: p for pair, p in joint.items() if head in (None, pair[0]) and tail in (None, pair[1])}
    return {PAIRS[pair]: p / sum(fitting.values()) for pair, p in fitting.items() if pair in PAIRS}


def _re_post(rng: random.Random) -> Post:
    from_words, single = rng.random() < WORDS, rng.random() < SINGLE
    types = _type_pair(rng)
    relation = PAIRS.get(types, "None")
    colours = rng.sample(list(HUES), len(HUES))
    names: list[tuple[str, ...]] = [_name(colours[0], rng), _name(colours[1], rng)]
    shown = list(zip(types, colours, strict=False))
    if from_words:
        words, spans = _fill(RELATIONS[relation][3] if relation != "None" else UNRELATED, names)
        return Post(
            words, spans, types, relation, tuple(shown), "words", ({} if relation == "None" else {relation: 1.0},)
        )
    template = rng.choice(NEUTRAL[2])
    if single:
        titled = rng.randrange(2)
        before, gap, after = template.split("{}")
        slots = ["{}", "{}"]
        slots[titled] = f"{TITLES[types[titled]]} {{}}"
        words, spans = _fill(before + slots[0] + gap + slots[1] + after, names)
        posterior = _relation_posterior(types[0] if titled == 0 else None, types[1] if titled == 1 else None)
        objects = _with_bystanders(shown[1 - titled : 2 - titled], colours[2:], 2, rng)
        kind: Source = "single" if len(objects) == 1 else "several"
        return Post(words, spans, types, relation, objects, kind, (posterior,))
    words, spans = _fill(template, names)
    objects = _with_bystanders(shown, colours[2:], 1, rng)
    return Post(words, spans, types, relation, objects, "several", (_relation_posterior(None, None),))


def _draw_post(
    post: Post, image: Path, crops: Path, stem: str, rng: random.Random
) -> tuple[dict[Figure, str], list[Figure]]:
    """Draw and save an image and its crops; return the crop names, in random order, and the drawn figures."""
    drawing, figures = draw(list(post.objects), rng)
    drawing.save(image)
    names = {}
    for number, figure in enumerate(rng.sample(figures, len(figures))):
        if rng.random() >= MISSING_CROP:
            names[figure] = f"{stem}_crop_{number}.png"
            drawing.crop(figure.box).save(crops / names[figure])
    return names, figures


def _tags(post: Post, rng: random.Random) -> str:
    """Return noisy object tags, such as "red star, blue person"; some objects are missing and some types are wrong."""
    seen = [one for one in rng.sample(post.objects, len(post.objects)) if rng.random() >= MISSING_TAG]
    kinds = [_draw_type(rng) if rng.random() < WRONG_TAG else kind for kind, _ in seen]
    return ", ".join(f"{colour} {SHAPE_NAMES[kind]}" for kind, (_, colour) in zip(kinds, seen, strict=True))


def _write(root: Path, split: Split, kind: Kind, posts: Sequence[Post], rng: random.Random) -> None:
    """Draw the images and crops of a split and write its files."""
    format = get_format(kind.format)
    place = format.layout(root, split)
    for folder in (place.images, place.crops):
        folder.mkdir(parents=True, exist_ok=True)
    samples, drawn = [], []
    for number, post in enumerate(posts):
        stem = f"{split}_{number}"
        image = place.images / f"{stem}.jpg"
        names, figures = _draw_post(post, image, place.crops, stem, rng)
        paths = tuple(place.crops / name for name in names.values())
        samples.append(Sample(stem, post.words, image, paths, **kind.labels(post)))
        drawn.append([asdict(figure) | {"crop": names.get(figure)} for figure in figures])
    format.write(root, {split: samples}, kind.label_names)
    ids = [sample.id for sample in format.read(root, split, visual=False)]
    lines = [
        json.dumps({"id": name, "kind": post.kind, "types": post.types, "objects": objects})
        for name, post, objects in zip(ids, posts, drawn, strict=True)
    ]
    (root / f"truth_{split}.jsonl").write_text("\n".join(lines) + "\n")
    noise = random.Random(f"tags {rng.random()}")
    texts = {f"{split}_{number}.jpg": {"tags": _tags(post, noise)} for number, post in enumerate(posts)}
    write_image_texts(image_texts_path(root, split), texts)


def _entities(post: Post) -> dict[str, Any]:
    entities = [(*span, kind) for span, kind in zip(post.spans, post.types, strict=True)]
    return {"tags": tags_of_spans(len(post.words), entities, "a synthetic post")}


def _relation(post: Post) -> dict[str, Any]:
    head, tail = post.spans
    return {"head": head, "tail": tail, "relation": post.relation}


@dataclass(frozen=True)
class Kind:
    """Definition of the synthetic data set of a task.

    Attributes:
        format: Name of the data format.
        demo_train: Number of training samples for the demo.
        compose: Function that draws a random post.
        labels: Function that returns the labels of a post as fields of `Sample`.
        label_names: All labels, for a data format that stores a list of them.
    """

    format: str
    demo_train: int
    compose: Callable[[random.Random], Post]
    labels: Callable[[Post], dict[str, Any]]
    label_names: Sequence[str] | None = None


_KINDS = (
    Kind("twitter", 2500, _ner_post, _entities),
    Kind("mnre", 5000, _re_post, _relation, ("None", *RELATIONS)),
)
KINDS = {get_format(kind.format).task: kind for kind in _KINDS}


def find_kind(task: str) -> Kind:
    """Return the definition of the synthetic data set of a task.

    Raises:
        UserError: If there is no synthetic data set for the task.
    """
    if task not in KINDS:
        raise unknown("task of a synthetic set", task, KINDS)
    return KINDS[task]


def kinds(root: Path, split: str) -> dict[str, str]:
    """Return where the answer of each sample is, by sample id: "words", "single" or "several", see `Post`."""
    return {row["id"]: row["kind"] for row in _truth(root, split)}


def crop_boxes(root: Path, split: str) -> dict[str, tuple[int, int, int, int]]:
    """Return the box of each crop in its image, by crop name: left, top, right, bottom in pixels."""
    shown = (thing for row in _truth(root, split) for thing in row["objects"])
    return {thing["crop"]: tuple(thing["box"]) for thing in shown if thing["crop"]}


def _truth(root: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / f"truth_{split}.jsonl").read_text().splitlines()]
