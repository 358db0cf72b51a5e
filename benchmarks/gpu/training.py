"""A short training run, from files to scores, that must reach a fixed F1."""

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.setting import Setting
from reference_models.data.samples import Split
from reference_models.data.synthetic import generate
from reference_models.settings import read_settings
from reference_models.training.run import train

FULL: dict[Split, int] = {"train": 2500, "valid": 300, "test": 1000}
REDUCED: dict[Split, int] = {"train": 96, "valid": 16, "test": 32}
LEAST_F1, LEAST_F1_REDUCED = 0.9, 0.05  # an untrained model has about 0, and words alone reach 0.45


def training(setting: Setting, findings: Findings) -> None:
    """Train I2SRM with small encoders in each precision, on synthetic posts whose answers are in the images."""
    columns = ("precision", "test F1", "ceiling of the words alone", "seconds", "share of time waiting for data")
    table = findings.table("Training on synthetic posts", *columns)
    data = setting.folder / "posts"
    ceiling = generate(data, "ner", 0, REDUCED if setting.reduced else FULL)["test"]
    for precision in ("fp32",) if setting.reduced else ("fp32", "bf16"):
        overrides = ["--data.root", str(data), "--output", str(setting.folder / precision)]
        overrides += ["--training.precision", precision]
        if setting.reduced:
            overrides += ["--training.epochs", "2", "--training.batch_size", "8"]
        metrics = train(read_settings("synthetic-ner", overrides, system="i2srm"))
        f1 = metrics["test"]["f1"]
        table.add(precision, 100 * f1, 100 * ceiling, metrics["seconds"], metrics["waited"])
        least = LEAST_F1_REDUCED if setting.reduced else LEAST_F1
        findings.check(f"{precision}: F1 is high enough", f1 >= least, f"{100 * f1:.1f}, at least {100 * least:.1f}")
