# make app    the explorer on http://localhost:8501
# make test   everything that is tested, browser included
# make check  the fast part: style, types, imports, unit tests

VENV := .venv
PYTHON ?= python3
PORT ?= 8501
# Where torch's wheels come from; tools/install.sh says where from if nothing is named.
TORCH_INDEX ?=

.PHONY: app test check setup setup-dev clean

app: setup
	@echo "The explorer is served on http://localhost:$(PORT) (stop it with Ctrl-C)"
	@$(VENV)/bin/streamlit run app.py --server.port $(PORT)

test: setup-dev
	@sh tools/stages.sh $(VENV) style types imports unit slow browser

check: setup-dev
	@sh tools/stages.sh $(VENV) style types imports unit

setup: $(VENV)/.app
setup-dev: $(VENV)/.dev

$(VENV)/bin/python:
	@PYTHON="$(PYTHON)" sh tools/make-venv.sh $(VENV)

$(VENV)/.app: requirements.txt requirements-gpu.txt tools/install.sh tools/install-mamba.sh | $(VENV)/bin/python
	@TORCH_INDEX="$(TORCH_INDEX)" sh tools/install.sh $(VENV)
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-fla.txt tools/install-mamba.sh tools/install-browser.sh $(VENV)/.app
	@sh tools/install-browser.sh & browser=$$!; \
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt && \
	$(VENV)/bin/pip install --quiet --no-deps --upgrade --target $(VENV)/fla -r requirements-fla.txt && \
	sh tools/install-mamba.sh $(VENV) && \
	wait $$browser
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
