# Nothing but Python 3.11 and make is asked of the machine: every target makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/codetree-ml-100k
CONFIG ?= codetree/ml-100k
# folder with the sequences.txt of Amazon-2014 Beauty, whose lengths the training benchmark takes
DATA ?= data/amazon2014_beauty

# environments that outlive a checkout, each of the files that decide what is in it
ENVIRONMENTS ?= $(HOME)/.cache/hf_genrec/environments
DECIDED_BY := $(shell cat setup.py setup.cfg pyproject.toml constraints.txt .ci/oldest.py | sha256sum | cut -c1-12)
# only these files: others import what the oldest releases do not go with
MARKED_FOR = '^(accelerate|peft|transformers|trl)=='
MARKED = $(shell grep -rl "mark\.libraries" tests --include="test_*.py")
KEPT = $(ENVIRONMENTS)/$*-$(DECIDED_BY)

.PHONY: quickstart reg4rec test test-newest test-oldest test-slow lint bench wheel docs

# MovieLens 100K -> semantic IDs -> CodeTree -> figures -> ten titles, and the saved model opened by a stranger; then a
# SASRec on the same data, and the two compared
quickstart: BESIDE = runs/rearec-ml-100k
quickstart: $(VENV)/.train
	@start=$$(date +%s) && set -e \
	&& echo "== 1/7 prepare" && $(BIN)/hf-genrec prepare --config $(CONFIG) --output_dir $(RUN) \
	&& echo "== 2/7 tokenize" && $(BIN)/hf-genrec tokenize --config $(CONFIG) --output_dir $(RUN) \
	&& echo "== 3/7 train" && $(BIN)/hf-genrec train --config $(CONFIG) --output_dir $(RUN) --resume_from_checkpoint last \
	&& echo "== 4/7 evaluate" && $(BIN)/hf-genrec evaluate $(RUN) \
	&& echo "== 5/7 recommend" && $(BIN)/hf-genrec recommend $(RUN) --user 42 -k 10 --stranger \
	&& echo "== 6/7 a SASRec beside it" && $(BIN)/hf-genrec prepare --config rearec/ml-100k \
	&& $(BIN)/hf-genrec train --config rearec/ml-100k --resume_from_checkpoint last \
	&& echo "== 7/7 compare" && $(BIN)/hf-genrec compare $(RUN) $(BESIDE) \
	&& echo "== done in $$(( $$(date +%s) - start )) s after installation; the runs are in $(RUN) and $(BESIDE)"

# MovieLens 100K -> parallel codebooks -> REG4Rec -> post-training by its four rewards -> figures before and after
reg4rec: REG4REC = runs/reg4rec-ml-100k
reg4rec: GRPO = runs/grpo-reg4rec-ml-100k
reg4rec: $(VENV)/.train
	@start=$$(date +%s) && set -e \
	&& echo "== 1/7 prepare" && $(BIN)/hf-genrec prepare --config reg4rec/ml-100k \
	&& echo "== 2/7 tokenize" && $(BIN)/hf-genrec tokenize --config reg4rec/ml-100k \
	&& echo "== 3/7 train" && $(BIN)/hf-genrec train --config reg4rec/ml-100k --resume_from_checkpoint last \
	&& echo "== 4/7 evaluate" && $(BIN)/hf-genrec evaluate $(REG4REC) \
	&& echo "== 5/7 grpo" && $(BIN)/hf-genrec grpo --config grpo/reg4rec-ml-100k --resume_from_checkpoint last \
	&& echo "== 6/7 evaluate" && $(BIN)/hf-genrec evaluate $(GRPO) \
	&& echo "== 7/7 recommend" && $(BIN)/hf-genrec recommend $(GRPO) --user 42 -k 10 --stranger \
	&& echo "== done in $$(( $$(date +%s) - start )) s after installation; the runs are in $(REG4REC) and $(GRPO)"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadfile

# what touches other libraries, with their newest releases, if there are any since constraints.txt, and with the oldest
# ones that setup.cfg allows; torch is the one of constraints.txt in both. Old releases use names that their newer
# neighbours deprecate: not an error there.
test-newest test-oldest: test-%:
	@start=$$(date +%s) && set -e && mkdir -p $(ENVIRONMENTS) \
	&& find $(ENVIRONMENTS) -maxdepth 1 -name '$*-*' ! -name '*-$(DECIDED_BY)' -exec rm -r {} + \
	&& { test -x $(KEPT)/bin/python || $(PYTHON) -m venv $(KEPT); } \
	&& grep '^torch==' constraints.txt > $(KEPT)/constraints.txt \
	&& if test $* = oldest; then $(PYTHON) .ci/oldest.py | grep -v '^torch==' >> $(KEPT)/constraints.txt; fi \
	&& $(KEPT)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
		-c $(KEPT)/constraints.txt -e ".[libraries]" \
	&& echo "== $* releases installed in $$(( $$(date +%s) - start )) s" \
	&& if test "$$($(KEPT)/bin/python -m pip freeze | grep -E $(MARKED_FOR))" = "$$(grep -E $(MARKED_FOR) constraints.txt)"; \
	then echo "== the $* releases are those of constraints.txt, which the other tests have"; \
	else $(KEPT)/bin/python -m pytest -n 2 --dist loadfile -m "libraries and not slow" $(MARKED) \
		$(if $(filter oldest,$*),-o filterwarnings=); fi

environment-of-%:
	@echo $(KEPT)

# what needs more than a few seconds, or data that is not shipped
test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# side by side with what others do; an otherwise idle machine, and about an hour
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.masking
	$(BIN)/python -m benchmarks.packing --data $(DATA)
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.item_trie
	$(BIN)/python -m benchmarks.residual_kmeans

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# dist/*.whl, and what runs of it in environments that hold nothing else than what it asks for
wheel: $(VENV)/.test
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_wheel.py

# the site, into site/; a warning is an error
docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict --quiet

$(VENV)/.%: setup.py setup.cfg pyproject.toml constraints.txt
	@start=$$(date +%s) && set -e \
	&& echo "== installing hf_genrec[$*] into $(VENV)" \
	&& $(PYTHON) -m venv $(VENV) \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]" \
	&& touch $@ \
	&& echo "== installed in $$(( $$(date +%s) - start )) s"
