"""Tag probabilities compared with the enumeration of all tag paths."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference_models.data.samples import Sample
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.tasks import NamedEntities
from reference_models.tasks.heads import SoftmaxTaggingHead, TaggingHead
from reference_models.tasks.subwords import Subwords

TAGS = 3
ragged = st.lists(st.integers(1, 4), min_size=1, max_size=3)


def path_probabilities(
    head: TaggingHead | SoftmaxTaggingHead, scores: list[list[float]]
) -> dict[tuple[int, ...], float]:
    """Compute the probability of each tag path of a sentence from the path scores."""
    free = [[0.0] * TAGS] * TAGS
    start, end, moves = free[0], free[0], free
    if isinstance(head, TaggingHead):
        crf = head.crf
        start, end, moves = (p.tolist() for p in (crf.start_transitions, crf.end_transitions, crf.transitions))
    weights = {}
    for path in itertools.product(range(TAGS), repeat=len(scores)):
        total = start[path[0]] + end[path[-1]] + sum(row[tag] for row, tag in zip(scores, path, strict=True))
        weights[path] = math.exp(total + sum(moves[a][b] for a, b in itertools.pairwise(path)))
    return {path: weight / sum(weights.values()) for path, weight in weights.items()}


@pytest.mark.parametrize("kind", [TaggingHead, SoftmaxTaggingHead])
@given(lengths=ragged, seed=st.integers(0, 1000))
def test_lattice_probabilities_match_enumeration(kind: type[TaggingHead], lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    head = kind(4, TAGS, dropout=0.0)
    for parameter in head.parameters():
        parameter.data.normal_()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    scores = torch.randn(*mask.shape, TAGS)
    lattice = head.lattice(scores.masked_fill(~mask[..., None], math.nan), mask)
    for row, length in enumerate(lengths):
        known = path_probabilities(head, scores[row, :length].tolist())
        for start, end in itertools.combinations(range(length + 1), 2):
            for part in itertools.product(range(TAGS), repeat=end - start):
                for unwanted in range(TAGS):
                    expected = sum(
                        chance
                        for path, chance in known.items()
                        if path[start:end] == part and path[end : end + 1] != (unwanted,)
                    )
                    found = lattice.probability(row, start, part, not_next=unwanted)
                    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scheme", ["bio", "x13"])
def test_entity_probability_is_the_product_over_its_tags(scheme: str) -> None:
    tags = ["O", "B-a", "I-a"]
    labels = ["[PAD]", *tags, "X", "[CLS]", "[SEP]"] if scheme == "x13" else tags
    task = NamedEntities(labels, scheme)
    words = ("ab", "b", "a")
    subwords = Subwords(learn_tokenizer([["a", "b"]] * 4, 50), 16)
    item = task.encode(Sample("x:1", words, tags=("B-a", "I-a", "O")), subwords)
    ids = torch.tensor([[*item["labels"], -100]])
    torch.manual_seed(0)
    head = SoftmaxTaggingHead(4, len(labels), dropout=0.0)
    scores = torch.randn(1, ids.shape[1], len(labels))
    [chances] = task.probabilities([Sample("x:1", words)], ids, scores, head, subwords)
    each = scores.softmax(-1)[0]
    end = ids[0].tolist().index(task.ids["O"])
    first = ids[0].tolist().index(task.ids["B-a"])
    expected = math.prod(each[place, ids[0, place]].item() for place in range(first, end))
    assert chances == {(0, 2, "a"): pytest.approx(expected * (1 - each[end, task.ids["I-a"]].item()))}
