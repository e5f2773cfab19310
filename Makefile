# Two commands: `make demo` (the main job) and `make test`. `make proof` is for what takes longer, `make evidence` for what takes longest.
# `make results` draws the figures of results/ from its tables, `make results-full` makes the tables (hours).
PYTHON ?= python3
BIN := .venv/bin
ROOM := analysis benchmarks experiments moon_jax sweeps tests

.PHONY: install demo test proof evidence lint types fast clean results results-full docs

install: .venv/app

demo: .venv/app
	$(BIN)/moon run core --preset demo --out runs

test: lint types fast

lint: .venv/dev
	$(BIN)/ruff check $(ROOM)
	$(BIN)/ruff format --check $(ROOM)

types: .venv/dev
	$(BIN)/mypy

fast: .venv/dev
	$(BIN)/python -m pytest -n auto --dist loadfile

proof: .venv/dev
	$(BIN)/python -m pytest -m proof -n auto --dist loadfile --timeout 1500 --durations 10

# A Debian python3 may lack ensurepip: as root the missing package is installed, else the remedy is said.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed (PYTHON=... chooses one)"; exit 1; }
	@$(PYTHON) -m venv .venv 2>/dev/null || { \
		rm -rf .venv; \
		if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
		else echo "python3 has no venv module: sudo apt-get install python3-venv"; exit 1; fi; \
		$(PYTHON) -m venv .venv; }

.venv/app: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/app
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

evidence: .venv/dev
	$(BIN)/python -m pytest -m evidence --timeout 3000 --durations 10

results: .venv/app
	$(BIN)/moon redraw results

# Killed and started again it goes on. FASHION, MOVIELENS and SCALING are your copies of public files; a set without one is left out.
results-full: .venv/app
	MOON=$(BIN)/moon sh results/make.sh "$(FASHION)" "$(MOVIELENS)" "$(SCALING)"

docs: .venv/dev
	$(BIN)/pdoc --docformat google --output-directory build/docs analysis experiments moon_jax sweeps

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
