# Maintainer commands. .ci/run, GitHub Actions and CONTRIBUTING.md use these targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help check test lint types doctests oldest oldest-reference docs site release demo

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 20

check: lint types doctests test  ## run all checks before a pull request

test:  ## run all tests; `make test ARGS=tests/attnmixup/test_sampling.py` runs one file
	python -m pytest $(or $(ARGS),-n 2 --dist worksteal)

lint:  ## check rules and formatting with ruff, and the import rules between modules
	ruff check .
	ruff format --check .
	lint-imports

types:  ## check types with mypy
	mypy

doctests:  ## run the examples in docstrings and in the README
	python -m pytest --doctest-modules --doctest-glob=README.md attnmixup README.md

oldest:  ## test the core with the oldest torch and einops that pyproject.toml allows, in a fresh environment
	environment=$$(mktemp -d)
	trap 'rm -rf "$$environment"' EXIT
	floor=$$(sed -nE 's/^dependencies = \["torch>=(.*)", "einops>=(.*)"\]/torch==\1 einops==\2/p' pyproject.toml)
	python3 -m venv "$$environment"
	"$$environment/bin/pip" install -q $$floor pytest hypothesis scipy
	"$$environment/bin/python" -m pytest tests/attnmixup -p no:cacheprovider \
	  --ignore tests/attnmixup/integrations/test_hugging_face.py

oldest-reference:  ## test the systems with the oldest packages that the extra `reference` allows, in a fresh environment
	environment=$$(mktemp -d)
	trap 'rm -rf "$$environment"' EXIT
	sed -n '/^reference = \[/,/^]/p' pyproject.toml | sed -nE 's/^ *"([a-z-]+)(\[.*\])?>=([0-9.]+)",$$/\1==\3/p' >"$$environment/floor.txt"
	python3 -m venv "$$environment"
	# `===` installs exactly the build that torchvision 0.28 was made for; `==` would also accept a local build of that version.
	"$$environment/bin/pip" install -q -e '.[reference]' torch===2.13.0 -c "$$environment/floor.txt" \
	  pytest pytest-xdist hypothesis jinja2 scikit-learn scipy
	"$$environment/bin/python" -m pytest tests/reference_models -n 2 --dist worksteal -p no:cacheprovider \
	  --ignore tests/reference_models/app --ignore tests/reference_models/test_onnx_system.py

docs:  ## build the documentation site in docs/_build/html; needs pip install -e '.[docs]'
	rm -rf docs/reference/generated
	sphinx-build -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html

site:  ## check that axe-core finds no serious problem in the built site, in a browser; run `make docs` first
	python -m pytest tests/docs

release:  ## build sdist and wheel into dist/ and check them; needs pip install -e '.[dev]'
	python .ci/check_release.py

demo:  ## run the short demo in a temporary folder
	output=$$(mktemp -d)
	trap 'rm -rf "$$output"' EXIT
	i2srm demo --quick --output "$$output/demo"
