# Nothing but Python 3.11 and make is asked of the machine: every target makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/care-ml-100k
CONFIG ?= care/ml-100k
# folder with the sequences.txt of Amazon-2014 Beauty, whose lengths the training benchmark takes
DATA ?= data/amazon2014_beauty

.PHONY: quickstart reg4rec test test-slow lint bench

# MovieLens 100K -> semantic IDs -> CARE -> figures -> ten titles, and the saved model opened by a stranger
quickstart: $(VENV)/.train
	@start=$$(date +%s) && set -e \
	&& echo "== 1/5 prepare" && $(BIN)/hf-genrec prepare --config $(CONFIG) --output_dir $(RUN) \
	&& echo "== 2/5 tokenize" && $(BIN)/hf-genrec tokenize --config $(CONFIG) --output_dir $(RUN) \
	&& echo "== 3/5 train" && $(BIN)/hf-genrec train --config $(CONFIG) --output_dir $(RUN) --resume_from_checkpoint last \
	&& echo "== 4/5 evaluate" && $(BIN)/hf-genrec evaluate $(RUN) \
	&& echo "== 5/5 recommend" && $(BIN)/hf-genrec recommend $(RUN) --user 42 -k 10 --stranger \
	&& echo "== done in $$(( $$(date +%s) - start )) s after installation; the run is in $(RUN)"

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
	$(BIN)/python -m pytest

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

$(VENV)/.%: setup.cfg pyproject.toml constraints.txt
	@start=$$(date +%s) && set -e \
	&& echo "== installing hf_genrec[$*] into $(VENV)" \
	&& $(PYTHON) -m venv $(VENV) \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]" \
	&& touch $@ \
	&& echo "== installed in $$(( $$(date +%s) - start )) s"
