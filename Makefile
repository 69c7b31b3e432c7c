# Every target does its own set-up: Python 3.11 or newer and make are all that has to be there.
PYTHON ?= python3
BIN := .venv/bin
DEMO := outputs/demo
export BENCH_OUT ?= benchmarks/results
export HF_HUB_DISABLE_TELEMETRY := 1
# Waiting threads sleep: spinning makes tiny models several times slower when other programs run
demo test test-slow test-wheel test-latest bench-accuracy: export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-slow test-wheel test-page test-latest bench bench-gpu bench-accuracy torture mutation quality style fix-copies clean

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q uv
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[test,torchcodec]'
	touch $@

demo: .venv/.installed  ## write clips, train a tiny ViT, freeze it, fine-tune MA-AVT on it, print the table
	$(BIN)/maavt demo --out $(DEMO)

test: quality  ## the whole fast suite
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test-slow: .venv/.installed  ## the checks that take minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

test-wheel: .venv/.installed  ## build the wheel, install it into an empty environment, train there
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow tests/training/test_command_line.py

test-page: .venv/.installed  ## the page in a browser (apt-get install chromium chromium-driver), a Space in an empty environment
	$(BIN)/uv pip install -q --python $(BIN)/python selenium
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "slow or not slow" tests/app

test-latest:  ## the fast suite with the newest releases that pyproject.toml allows, in an environment of its own
	$(PYTHON) -m venv --clear .venv-latest
	.venv-latest/bin/pip install -q uv
	.venv-latest/bin/uv pip install -q --upgrade --python .venv-latest/bin/python -e '.[test,torchcodec]'
	.venv-latest/bin/uv pip freeze --python .venv-latest/bin/python | grep -E '^(torch|transformers|peft|accelerate|datasets)'
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv-latest/bin/python -m pytest -n 2 --dist loadgroup

.venv/.bench: .venv/.installed
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[bench]'
	touch $@

bench: .venv/.bench  ## the first table of docs/performance.md, into BENCH_OUT (benchmarks/results/); BEFORE=another checkout
	$(BIN)/python -m benchmarks.bench $(if $(BEFORE),--before $(BEFORE))

bench-gpu: .venv/.installed  ## speed and memory on one GPU; benchmarks/gpu.py says what it needs
	$(BIN)/python -m benchmarks.gpu

bench-accuracy: .venv/.installed  ## hours: accuracy against the block at which tokens enter; DRONE=, GRID=, BACKBONE=
	$(BIN)/python -m training.tools.compare configs/compare/prompt_start_drone.yaml --data $(DRONE) \
		--model_name_or_path $(BACKBONE) --out $(BENCH_OUT)/prompt_start_drone
	$(BIN)/python -m training.tools.compare configs/compare/prompt_start_grid_command.yaml --data $(GRID) \
		--model_name_or_path $(BACKBONE) --out $(BENCH_OUT)/prompt_start_grid_command

torture: .venv/.installed  ## kill, interrupt and starve runs for an hour (as root: full disks too), into results/torture.md; MINUTES= ONLY=
	PYTHONPATH=tests HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tools.torture --minutes $(or $(MINUTES),60) --only '$(ONLY)'

.venv/.mutation: .venv/.installed
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[mutation]'
	touch $@

mutation: .venv/.mutation  ## half an hour: change the code and see which tests notice, into results/mutation.md; PLACES= SEED= ONLY=
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tools.mutation --places $(or $(PLACES),20) --seed $(or $(SEED),0) \
		$(if $(ONLY),--only '$(ONLY)')

quality: .venv/.installed  ## lint, format and copies (marked ones, and the code in examples/digits); changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/check_copies.py

style: .venv/.installed  ## lint and format, in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fix-copies: .venv/.installed  ## update those copies from their sources
	$(BIN)/python tools/check_copies.py --fix

clean:
	rm -rf outputs .pytest_cache .ruff_cache build *.egg-info
