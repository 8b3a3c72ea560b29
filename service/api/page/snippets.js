// Lines that fetch and run exactly one file, to copy.

import {announce, make, unique} from "./dom.js";
import {current} from "./key.js";

const SUFFIX = {torchscript: "pt", onnx: "onnx", pt2: "pt2", executorch: "pte"};
const PYTHON_TYPES = {float32: "float32", float64: "float64", float16: "float16", bfloat16: "bfloat16", int64: "int64", int32: "int32", uint8: "uint8", int8: "int8", int16: "int16", bool: "bool"};

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;

/** The sizes of one sample of an input. */
const sizes = input => input.example ?? input.shape.map(size => size ?? 1);

function example(input, style) {
  const type = PYTHON_TYPES[input.dtype] ?? "float32", shape = sizes(input).join(", ");
  const random = type.startsWith("float") || type === "bfloat16";
  if (style === "torch") return random ? `torch.rand(${shape}${type === "float32" ? "" : `, dtype=torch.${type}`})` : `torch.zeros(${shape}, dtype=torch.${type})`;
  if (style === "numpy") return random ? `numpy.random.rand(${shape}).astype("${type}")` : `numpy.zeros((${shape}${sizes(input).length === 1 ? "," : ""}), "${type}")`;
  const kinds = {float32: "torch::kFloat32", float64: "torch::kFloat64", float16: "torch::kHalf", bfloat16: "torch::kBFloat16", int64: "torch::kInt64", int32: "torch::kInt32", int16: "torch::kInt16", int8: "torch::kInt8", uint8: "torch::kUInt8", bool: "torch::kBool"};
  return `torch::zeros({${shape}}, ${kinds[type]})`;
}

function curl(url, file) {
  const key = current() ? `  -H "Authorization: Bearer $RIGHTRANK_KEY" \\\n` : "";
  return `curl -fsSL --retry 10 --retry-connrefused \\\n${key}  -o ${file}.part \\\n  ${quoted(url)} &&\n  mv ${file}.part ${file}`;
}

const RUN = {
  torchscript: (file, inputs) => ({
    Python: `import torch\n\nmodel = torch.jit.load("${file}")\nwith torch.inference_mode():\n    output = model(${inputs.map(input => example(input, "torch")).join(", ")})`,
    "C++": `#include <torch/script.h>\n\nint main() {\n  torch::InferenceMode guard;\n  auto model = torch::jit::load("${file}");\n  auto output = model.forward({${inputs.map(input => example(input, "c++")).join(", ")}});\n}`,
  }),
  onnx: (file, inputs) => ({
    "ONNX Runtime": `import numpy\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("${file}")\nnames = [each.name for each in session.get_inputs()]\noutput = session.run(None, dict(zip(names, [${inputs.map(input => example(input, "numpy")).join(", ")}])))`,
  }),
  pt2: (file, inputs) => ({
    Python: `import torch\n\nmodel = torch.export.load("${file}").module()\noutput = model(${inputs.map(input => example(input, "torch")).join(", ")})`,
  }),
  executorch: (file, inputs) => ({
    Python: `import torch\nfrom executorch.runtime import Runtime\n\nmethod = Runtime.get().load_program("${file}").load_method("forward")\noutput = method.execute([${inputs.map(input => example(input, "torch")).join(", ")}])`,
  }),
};

/** Tabs of lines for a size (`/models/…/plan`) of a model; `other(format)` shows it in another format. */
export function lines(model, size, other) {
  const name = model.names.at(-1)?.split("@")[0] ?? "model", file = `${name}.${SUFFIX[size.format]}`;
  const found = {curl: curl(location.origin + size.url, file), ...RUN[size.format](file, model.inputs)};
  const instead = {Python: "torchscript", "C++": "torchscript", "ONNX Runtime": "onnx"};
  const offered = new Set(model.formats.filter(each => each.precisions.length).map(each => each.format));
  const names = [...Object.keys(found), ...Object.keys(instead).filter(tab => !(tab in found) && offered.has(instead[tab]))];
  const panel = make("div", {role: "tabpanel", id: unique(), tabindex: 0});
  const tabs = names.map(tab => make("button", {role: "tab", type: "button", id: unique(), "aria-controls": panel.id, onclick: () => choose(tab)}, tab));
  const bar = make("div", {role: "tablist", "aria-label": "Fetch and run it", onkeydown: turn}, tabs);
  function choose(tab) {
    tabs.forEach((button, at) => {
      button.setAttribute("aria-selected", String(names[at] === tab));
      button.tabIndex = names[at] === tab ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", tabs[names.indexOf(tab)].id);
    panel.replaceChildren(tab in found ? code(found[tab]) : make("p", {}, `This file is ${size.format}. `,
      make("button", {type: "button", class: "small", onclick: () => other(instead[tab])}, `Show the model as ${instead[tab]}`)));
  }
  function turn(event) {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const at = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
    choose(names[at]);
    tabs[at].focus();
  }
  choose(names[0]);
  return make("div", {class: "lines"}, bar, panel);
}

function code(text) {
  const button = make("button", {type: "button", class: "small copy"}, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce("Copied.");
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return make("div", {class: "code"}, make("pre", {tabindex: 0, role: "region", "aria-label": "Lines"}, make("code", {}, text)), navigator.clipboard ? button : null);
}
