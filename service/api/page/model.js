// A model: what it is, what its files lose, and one of them.

import {field, fill, make, select} from "./dom.js";
import {get, modelAt} from "./api.js";
import {told} from "./problem.js";
import {bytes, lost, percent, short, value, whole, when} from "./numbers.js";
import {measured} from "./points.js";
import {figure} from "./plot.js";
import {picker} from "./picker.js";
import {card} from "./card.js";
import {recommend} from "./recommend.js";

const FORMATS = {torchscript: "TorchScript", onnx: "ONNX", pt2: "torch.export (pt2)", executorch: "ExecuTorch"};

export const formatName = format => FORMATS[format] ?? format;

/** The view of a model at `place`; `wanted` says which format, precision, plan or size is to be shown. What to do when
 * it goes off the page is returned. */
export async function modelView(place, reference, wanted, remember) {
  const model = await get(modelAt(reference));
  const title = model.names.at(-1) ?? model.id;
  if (place.isConnected) document.title = `${title} – RightRank`;
  place.replaceChildren(head(model, title), card(model.card) ?? "");
  aliases(model, place.querySelector(".aliases"));
  const offered = model.formats.filter(each => each.precisions.length);
  let state = {by: "bytes", format: offered.some(each => each.format === wanted.format) ? wanted.format : offered[0].format}, shown = null, points = [], measure = null;

  const formats = select(offered.map(each => [each.format, formatName(each.format)]), state.format, {onchange: () => turn(formats.value)});
  const axes = select([["bytes", "bytes, as sent"], ["params", "parameters"], ["macs", "multiplications"]], "bytes", {onchange: () => { state.by = axes.value; redraw(); }});
  const plotted = make("div", {class: "plotted"}), table = make("details", {class: "table"}), said = make("details", {class: "table"}), problem = make("div");
  const size = picker(model, {
    heard(found) {
      shown = found;
      remember({format: found.format, precision: found.precision, plan: found.plan, bytes: found.bytes});
      redraw();
    },
    again: () => load({plan: shown.plan, precision: shown.precision, near: shown.bytes}),
    other: turn,
  });
  const without = model.formats.filter(each => !each.precisions.length);
  place.append(
    make("div", {class: "controls"}, field("Runtime", formats), field("Along the axis", axes)),
    problem,
    make("div", {class: "studio"}, make("div", {class: "left"}, plotted, size.control), size.card),
    table, said, size.detail,
    without.length ? make("details", {class: "table"}, make("summary", {}, `Not as ${without.map(each => formatName(each.format)).join(", ")}`),
      make("ul", {}, without.map(each => make("li", {}, `${formatName(each.format)}: ${each.reason}`)))) : "");
  let chart = null;

  async function turn(format) {
    formats.value = state.format = format;
    await load({precision: shown?.precision, near: shown?.bytes ?? model.bytes / 2});
  }

  async function load(stand) {
    problem.replaceChildren();
    try {
      const found = await measured(model, state.format);
      ({points, measure} = found);
      fill(said, reported(found.curves));
      said.hidden = !said.children.length;
      chart?.end();
      chart = points.length ? figure(measure, point => size.pick(point)) : null;
      plotted.replaceChildren(chart?.root ?? make("p", {class: "note"}, model.measured
        ? `No ${formatName(state.format)} file of this model has been measured yet. Choose one with the slider, and measure it.`
        : "Accuracy is unmeasured: it was published without evaluation data."));
      table.replaceChildren(...(points.length ? listed() : []));
      table.hidden = !points.length;
      // Where nothing is asked for, what is recommended to who has room for anything.
      const first = stand.near || stand.plan ? null : recommend(points, [], {max_bytes: null, max_macs: null}, measure.grain).chosen;
      const near = stand.near || first?.bytes || model.bytes / 2;
      await size.show({format: state.format, points, measure, precision: stand.precision, plan: stand.plan ?? first?.plan, near});
    } catch (error) {
      problem.replaceChildren(told(error));
    }
  }

  const redraw = () => chart?.show(points, shown && {...shown}, state.by);

  function listed() {
    const rows = [...points].reverse().map(point => make("tr", {},
      make("th", {scope: "row"}, make("button", {type: "button", class: "link", onclick: () => size.pick(point)}, `${whole(point.bytes)} B`)),
      make("td", {}, point.precision), make("td", {class: "number"}, value(point.accuracy, measure.share)), make("td", {class: "number"}, lost(point.loss, measure.higher)),
      make("td", {class: "number"}, point.changed ? whole(point.changed.differ) : "–"),
      make("td", {}, point.method), make("td", {class: "number"}, whole(point.params)), make("td", {class: "number"}, short(point.macs))));
    return [make("summary", {}, `All ${points.length} measured files`), make("div", {class: "wide", tabindex: 0, role: "region", "aria-label": "All measured files"}, make("table", {},
      make("thead", {}, make("tr", {}, ["File", "Precision", measure.metric, "Against the original", "Answers changed", "Method", "Parameters", "Multiplications"].map(words => make("th", {scope: "col"}, words)))),
      make("tbody", {}, rows)))];
  }

  await load({plan: wanted.plan, precision: wanted.precision ?? model.precision, near: Number(wanted.bytes) || null});
  return () => chart?.end();
}

/** What its publisher reports of files, apart from what was measured here. */
function reported(curves) {
  const rows = curves.flatMap(curve => curve.points.flatMap(point => point.reported.map(each =>
    make("li", {}, `${bytes(point.bytes)} in ${curve.precision}: ${each.metric} ${each.value}${each.n ? ` on ${whole(each.n)} samples` : ""}`))));
  return rows.length ? [make("summary", {}, "What its publisher reports"), make("ul", {}, rows)] : [];
}

function head(model, title) {
  const {baseline} = model;
  const others = model.names.slice(0, -1);
  const facts = [
    ["Whole network", `${short(model.params)} parameters, ${short(model.macs)} multiplications, ${bytes(model.bytes)}`],
    ["Measured", baseline && baseline.value !== null ? `${baseline.metric} ${value(baseline.value, Boolean(baseline.counted))} on ${whole(baseline.n)} samples` : "no evaluation data"],
    ["Smallest", `${percent(model.min_budget.params)} of the original`],
    ["Published", `${when(model.uploaded ?? model.created)}${model.publisher ? ` by ${model.publisher}` : ""}, effort ${model.options.effort ?? "cut"}`],
  ];
  return make("header", {class: "title"},
    make("p", {class: "crumb"}, make("a", {href: "#/"}, "Models")),
    make("h1", {}, title), make("span", {class: "aliases"}),
    make("p", {class: "quiet id"}, model.id, others.length ? ` · also ${others.join(", ")}` : ""),
    make("dl", {class: "facts"}, facts.map(([term, words]) => make("div", {}, make("dt", {}, term), make("dd", {}, words)))),
    (model.notes ?? []).map(note => make("p", {class: "note"}, note)));
}

async function aliases(model, place) {
  const names = [...new Set(model.names.map(name => name.split("@")[0]))];
  for (const name of names) {
    const found = await get(`/names/${name}`).catch(() => null);
    for (const {alias, version} of found?.aliases ?? [])
      if (model.names.includes(`${name}@${version}`)) place.append(make("span", {class: "chip"}, `${name}@${alias}`), " ");
  }
}
