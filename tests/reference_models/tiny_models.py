"""Small random encoders of each family, small models, and batches in the processor's format."""

from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from transformers import BertConfig, ElectraConfig, ModernBertConfig, PreTrainedConfig, RobertaConfig, XLMRobertaConfig

from reference_models.systems.base import System
from reference_models.systems.i2srm import I2SRM
from reference_models.tasks.ner import tags_of

SystemT = TypeVar("SystemT", bound=System)
TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

VOCABULARY, CHARACTERS = 50, 12
RELATIONS = ("None", "/per/per/peer", "/per/loc/place")


def small(layers: int, heads: int, width: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": width,
        "intermediate_size": 40,
        "max_position_embeddings": 40,
        "initializer_range": 0.2,
    }


def text_config(family: str) -> PreTrainedConfig:
    """Return a configuration of a family. Depth, number of heads and width differ between families."""
    ends = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    kinds: dict[str, Callable[[], PreTrainedConfig]] = {
        "bert": lambda: BertConfig(**small(3, 4, 32)),
        "roberta": lambda: RobertaConfig(**small(2, 2, 24)),
        "xlm-roberta": lambda: XLMRobertaConfig(**small(2, 3, 24)),
        "electra": lambda: ElectraConfig(**small(2, 4, 16), embedding_size=12),
        "modernbert": lambda: ModernBertConfig(**small(4, 2, 16), **ends, local_attention=4),
    }
    return kinds[family]()


FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "modernbert")


def make_tokens(*, length: int = 9, real: tuple[int, ...] = (9, 6, 3), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return ids and mask of right-padded sentences; 0 and 1 are not used, because they are padding ids of families."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(length) < torch.tensor(real)[:, None]).long()
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=generator)
    return ids, mask


@overload
def make_model(*, seed: int = 0, **options: Any) -> I2SRM: ...
@overload
def make_model(kind: type[SystemT], /, *, seed: int = 0, **options: Any) -> SystemT: ...
def make_model(kind: type[System] = I2SRM, /, *, seed: int = 0, **options: Any) -> System:
    torch.manual_seed(seed)
    task = options.get("task", "re")
    options = {"labels": TAGS if task == "ner" else RELATIONS, "vision": "tiny", "task": task} | options
    options = {"vocabulary": VOCABULARY, "characters": CHARACTERS} | options
    return kind(kind.config_class(**({"text_config": text_config("bert")} | options)))


def make_batch(
    task: str = "re", *, present: list[list[int]] | None = None, size: int = 4, seed: int = 0
) -> dict[str, Tensor]:
    """Return a batch; by default of 4 samples, where the second has no image and the third has only one crop."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = make_tokens(length=10, real=(10, 7, 8, 9)[:size], seed=seed)
    batch = {"input_ids": ids, "attention_mask": mask}
    if task == "ner":
        batch["word_starts"] = torch.tensor([[1, 2, 4, 6, 8], [1, 3, 0, 0, 0], [1, 4, 5, 0, 0], [2, 3, 4, 5, 0]])[:size]
        batch["word_mask"] = torch.arange(5) < torch.tensor([5, 2, 3, 4])[:size, None]
        batch["labels"] = torch.randint(len(TAGS), (size, 5), generator=generator) * batch["word_mask"]
        characters = torch.randint(1, CHARACTERS, (size, 5, 4), generator=torch.Generator().manual_seed(seed))
        written = torch.arange(4) < torch.tensor([4, 1, 2, 3, 4])[:, None]
        batch["characters"] = characters * written * batch["word_mask"][..., None]
    else:
        positions = torch.arange(10)
        batch["head_mask"] = ((positions >= 1) & (positions < 3)).expand(size, -1)
        batch["tail_mask"] = ((positions >= 4) & (positions < 6)).expand(size, -1)
        batch["labels"] = torch.randint(len(RELATIONS), (size,), generator=generator)
    if present is None:
        present = [[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]]
    batch["image_mask"] = torch.tensor(present).bool()[:size]
    pixels = torch.randint(256, (size, 4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    batch["pixel_values"] = pixels * batch["image_mask"][..., None, None, None]
    # Texts about the image of the first, third and fourth sample, appended to the sentence.
    for name, values in (("joined_ids", ids), ("joined_mask", mask)):
        batch[name] = torch.nn.functional.pad(values, (0, 4))
    for sample, start in ((0, 10), (2, 8), (3, 9)):
        if sample < size:
            batch["joined_ids"][sample, start : start + 3] = torch.randint(5, VOCABULARY, (3,), generator=generator)
            batch["joined_mask"][sample, start : start + 3] = 1
    return batch
