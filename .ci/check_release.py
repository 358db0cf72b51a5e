"""Build sdist and wheel, check them, and test the wheel in an environment that has no other code of this repository.

Dependencies come from the environment that runs this script. A dependency that pyproject.toml does not declare is
therefore not noticed here. An empty environment would notice it, but installing 5 GB of packages into one took more
than four minutes on two busy cores, with cached packages. CONTRIBUTING.md describes this step for a release.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("attnmixup", "reference_models")
SMOKE = """
import sys, torch, torch.nn.functional as F, attnmixup, reference_models
for package in (attnmixup, reference_models):
    assert package.__file__.startswith(sys.prefix), f"{package.__file__} is not in {sys.prefix}"
mixer = attnmixup.AttnMixup(dim=8)
mixed = mixer(torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))
mixed.loss(F.cross_entropy, torch.nn.Linear(8, 3)(mixed.embeddings)).backward()
print(attnmixup.__version__)
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return its output. If it fails, print the output and exit."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def copy_tracked(folder: Path) -> None:
    """Copy the tracked files from the working tree, because leftovers of earlier builds would be packed again."""
    for name in run("git", "ls-files").splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def missing_files(wheel: Path) -> list[str]:
    """Return the files of the two packages that are tracked by git but not in the wheel."""
    tracked = run("git", "ls-files", "--", *PACKAGES).splitlines()
    with zipfile.ZipFile(wheel) as archive:
        return sorted(set(tracked) - set(archive.namelist()))


def make_environment(folder: Path) -> Path:
    """Create an environment with the dependencies of this one, without its editable installs, and return its `bin`."""
    venv.create(folder, with_pip=True)
    packages = run(folder / "bin" / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # Paths in a .pth file are searched last. The .pth files inside them, which hold editable installs, are not read.
    here = [path for path in sys.path if path.endswith("site-packages")]
    Path(packages, "dependencies.pth").write_text("\n".join(here) + "\n")
    return folder / "bin"


def main() -> None:
    """Build into dist/, then check the archives and the installed wheel."""
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        copy_tracked(Path(name))
        run(sys.executable, "-m", "build", "--outdir", dist, name)  # builds the wheel from the sdist
    [wheel] = dist.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    if missing := missing_files(wheel):
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}; add them to tool.setuptools.package-data in pyproject.toml")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs = make_environment(folder / "environment")
        run(programs / "pip", "install", "--no-deps", wheel)
        version = run(programs / "python", "-I", "-c", SMOKE, cwd=folder).strip()
        printed = run(programs / "i2srm", "--version", cwd=folder).split()[-1]
        if not wheel.name.startswith(f"attnmixup-{version}-") or printed != version:
            sys.exit(f"{wheel.name} contains attnmixup {version}, but i2srm --version prints {printed}")
        run(programs / "i2srm", "data", "synthetic", "ner", "set", cwd=folder)
        run(programs / "i2srm", "train", "synthetic-ner", "i2srm", "--help", cwd=folder)
    print(f"{', '.join(path.name for path in sorted(dist.iterdir()))}: built, checked, installed and used")


if __name__ == "__main__":
    main()
