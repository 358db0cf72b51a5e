"""Training runs of about one second on a tiny synthetic data set, in this process or in others that can be killed."""

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Mapping
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from reference_models.config import RunConfig
from reference_models.data.formats.twitter import Twitter
from reference_models.data.synthetic import generate
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.settings import read_settings

SIZES = {"train": 48, "valid": 16, "test": 16}
TIMES = ("seconds", "waited", "runtime", "per_second")
# Processes are forked from one that has imported everything, because importing takes longer than a run.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["reference_models.training.seeds", "reference_models.cli"])


def tiny_set(root: Path, sizes: Mapping[str, int] = SIZES) -> Path:
    generate(root / "posts", "ner", 0, dict(sizes))
    return root / "posts"


def encoder_without_dropout(data: Path, folder: Path) -> Path:
    tokenizer = learn_tokenizer((sample.words for sample in Twitter().read(data, "train")), 400)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0, **sizes
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(data: Path, output: Path, *overrides: str) -> list[str]:
    basis = ["--data.root", str(data), "--output", str(output), "--training.batch_size", "8", "--training.epochs", "3"]
    return ["train", "synthetic-ner", *basis, *overrides]


def config(data: Path, output: Path, *overrides: str) -> RunConfig:
    _, name, *rest = arguments(data, output, *overrides)
    return read_settings(name, rest)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def history(run: Path) -> list[dict[str, float]]:
    entries = json.loads((run / "history.json").read_text())
    return [{key: value for key, value in entry.items() if not key.endswith(TIMES)} for entry in entries]


def assert_same_run(run: Path, other: Path) -> None:
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert history(run) == history(other)
    assert (run / "predictions_test.jsonl").read_bytes() == (other / "predictions_test.jsonl").read_bytes()


def start(command: list[str], *, die_at: int = 0, rank: int = 0, world: int = 1, port: int = 0) -> BaseProcess:
    """Run a command in another process, which exits just before the `die_at`-th file change of its run."""
    environment = {}
    if world > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **{k: str(v) for k, v in ranks.items()}}
    process = PROCESSES.Process(target=_command, args=(command, die_at, environment))
    process.start()
    return process


def run_pair(command: list[str], *, until: Path | None = None) -> list[int | None]:
    """Run a command in two processes that train together, kill them once `until` exists, and return the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [start(command, rank=rank, world=2, port=port) for rank in range(2)]
    while until and not until.exists() and pair[0].is_alive():
        time.sleep(0.002)
    for process in pair if until else ():
        process.kill()
    for process in pair:
        process.join()
    return [process.exitcode for process in pair]


def _command(command: list[str], die_at: int, environment: dict[str, str]) -> None:
    from reference_models.cli import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    output = Path(command[command.index("--output") + 1])
    with output.with_name(f"{output.name}.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if die_at:
            _die(die_at, str(output))
        sys.exit(main(command))


def _die(die_at: int, folder: str) -> None:
    """Exit without clean-up at the `die_at`-th file change in `folder`, and leave a file being written incomplete."""
    changes = count(1)

    def change(path: Any, *, write: bool) -> None:
        if folder in str(path) and next(changes) == die_at:
            if write:
                Path(path).write_bytes(b"half")
            os._exit(9)

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[1], str) and args[1][0] in "wxa":
            change(args[0], write=True)
        elif event in ("os.rename", "os.mkdir", "shutil.rmtree"):
            change(args[0], write=False)
        elif event == "os.remove" and args[1] != -1:  # inside rmtree, which removes a whole folder
            change(folder, write=False)

    def watched_save(obj: object, f: Any, *rest: Any, **options: Any) -> None:
        change(f, write=True)
        save(obj, f, *rest, **options)

    def watched_save_file(tensors: dict[str, torch.Tensor], filename: Any, *rest: Any, **options: Any) -> None:
        change(filename, write=True)
        save_file(tensors, filename, *rest, **options)

    from transformers import modeling_utils

    # These two functions write files without Python's open.
    save, torch.save = torch.save, watched_save
    save_file, modeling_utils.safe_save_file = modeling_utils.safe_save_file, watched_save_file
    sys.addaudithook(watch)
