// What is lost against how large a file is: uPlot draws axes and lines, the marks and intervals are drawn here.

import {make} from "./dom.js";
import {best} from "./points.js";
import {bytes, lost, short, value} from "./numbers.js";

const AXES = {bytes: ["bytes, as sent", bytes], params: ["parameters", short], macs: ["multiplications for a sample", short]};
const SHAPES = {cut: "circle", refit: "square", tuned: "triangle", polished: "diamond", original: "ring", reduced: "ring", rounded: "ring"};
const shape = method => SHAPES[method.replace("+bn", "")] ?? "circle";
const NEAR = 28;

function colours(node) {
  const style = getComputedStyle(node), found = name => style.getPropertyValue(name).trim();
  const of = precision => found(`--${precision}`) || found("--other");
  return {of, text: found("--text"), quiet: found("--quiet"), line: found("--line"), grey: found("--dominated"), pick: found("--accent"), page: found("--surface")};
}

function mark(ctx, kind, x, y, r) {
  ctx.beginPath();
  if (kind === "square") ctx.rect(x - r * 0.88, y - r * 0.88, r * 1.76, r * 1.76);
  else if (kind === "triangle") for (const [dx, dy] of [[0, -1.2], [1.1, 0.8], [-1.1, 0.8]]) ctx.lineTo(x + dx * r, y + dy * r);
  else if (kind === "diamond") for (const [dx, dy] of [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]]) ctx.lineTo(x + dx * r, y + dy * r);
  else ctx.arc(x, y, r, 0, 2 * Math.PI);
  ctx.closePath();
}

/** Marks along an axis of 1, 2 and 5 times powers of ten, or fewer of them. */
function decades(least, most, room) {
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(most)); power++)
      for (const step of steps) found.push(step * 10 ** power);
    const seen = found.filter(each => each >= least && each <= most);
    if (seen.length <= room || steps.length === 1) return seen;
  }
}

/** A figure of `points` that calls `picked` with the one that is clicked; `show(pick, by)` draws it anew. */
export function figure(measure, picked) {
  const place = make("div", {class: "canvas"}), legend = make("ul", {class: "legend"}), tip = make("p", {class: "tip", hidden: true});
  const frame = make("div", {class: "plot"}, place, tip);
  const caption = make("figcaption", {});
  const root = make("figure", {}, frame, legend, caption);
  let plot = null, points = [], by = "bytes", pick = null, over = null;

  function series() {
    const found = new Map();
    for (const point of points) {
      const name = `${point.precision} ${point.method.replace("+bn", "")}`;
      if (!found.has(name)) found.set(name, []);
      found.get(name).push(point);
    }
    return found;
  }

  function draw() {
    plot?.destroy();
    plot = null;
    if (!points.length) return;
    const colour = colours(root), sorted = [...points].sort((one, other) => one[by] - other[by]), good = best(points, by), named = series();
    const xs = sorted.map(point => point[by]);
    const least = Math.min(...xs, pick?.[by] ?? Infinity) / 1.25, most = Math.max(...xs, pick?.[by] ?? 0) * 1.25;
    const ends = points.flatMap(point => (point.known ? [point.least, point.most] : [point.loss]));
    const low = Math.min(0, ...ends), high = Math.max(0, ...ends), scale = 1;
    const bent = high - low > 8 * scale, room = (high - low || scale) * 0.06;
    const width = place.clientWidth, [label, format] = AXES[by];
    const font = "12px system-ui, sans-serif", axis = {stroke: colour.quiet, font, labelFont: font, labelSize: 22, grid: {stroke: colour.line, width: 1}, ticks: {stroke: colour.line, width: 1}};
    const data = [xs], lines = [{}];
    for (const [, members] of named) {
      const line = new Set(members);
      data.push(sorted.map(point => (line.has(point) ? point.loss : null)));
      lines.push({stroke: colour.of(members[0].precision), alpha: 0.4, width: 1.5, spanGaps: true, points: {show: false}});
    }
    plot = new uPlot({
      width, height: Math.max(260, Math.min(420, width * 0.55)), legend: {show: false}, padding: [12, 12, 0, 0],
      cursor: {show: false}, select: {show: false},
      scales: {
        x: {time: false, distr: 3, log: 10, range: () => [least, most]},
        y: bent ? {distr: 4, asinh: scale, range: () => [low - scale * 0.3, high * 1.25]} : {range: () => [low - room, high + room]},
      },
      axes: [
        {...axis, label, size: 34, space: 60, splits: () => decades(least, most, (width - 60) / 62), filter: (_, splits) => splits, values: (_, splits) => splits.map(format)},
        {...axis, label: measure.unit, size: 46, filter: (_, splits) => splits, splits: bent ? () => bends(low, high * 1.25, scale) : undefined, values: (_, splits) => splits.map(split => String(Number(split.toFixed(6))))},
      ],
      series: lines,
      hooks: {draw: [self => paint(self, colour, good)]},
    }, data, place);
    const canvas = plot.ctx.canvas;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${measure.unit} against ${label}: ${points.length} measured files, all of which the table below has.`);
    place.onpointermove = event => hover(near(event));
    place.onpointerleave = () => hover(null);
    place.onclick = event => { const found = near(event); if (found) picked(found); };
    legend.replaceChildren(...[...named].map(([name, members]) => make("li", {}, swatch(members[0], colour), name)),
      ...(good.size < points.length ? [make("li", {}, swatch(null, colour), "beaten by another: smaller, and no worse")] : []));
    const n = points[0].n;
    caption.textContent = `Each mark is a file that was measured on the same ${n.toLocaleString("en")} samples, with its 95 % interval; the original has ${measure.metric} ${value(measure.baseline.value, measure.share)}. Click one, or use the slider.`;
  }

  function bends(low, high, scale) {
    const found = [0];
    for (let size = scale; size <= Math.max(high, -low); size *= 10) found.push(size, 3 * size, -size, -3 * size);
    return found.filter(each => each >= low && each <= high).sort((one, other) => one - other);
  }

  const at = point => [plot.valToPos(point[by], "x", true), plot.valToPos(point.loss, "y", true)];

  function paint(self, colour, good) {
    const {ctx} = self, ratio = uPlot.pxRatio, r = 4.5 * ratio;
    ctx.save();
    const zero = self.valToPos(0, "y", true);
    ctx.strokeStyle = colour.quiet;
    ctx.setLineDash([4 * ratio, 4 * ratio]);
    ctx.lineWidth = ratio;
    stroke(ctx, [[self.bbox.left, zero], [self.bbox.left + self.bbox.width, zero]]);
    ctx.setLineDash([]);
    if (pick) {
      const x = self.valToPos(pick[by], "x", true);
      ctx.strokeStyle = colour.pick;
      ctx.lineWidth = 1.5 * ratio;
      stroke(ctx, [[x, self.bbox.top], [x, self.bbox.top + self.bbox.height]]);
    }
    for (const point of [...points].sort((one, other) => good.has(one) - good.has(other))) {
      const [x, y] = at(point), mine = good.has(point) ? colour.of(point.precision) : colour.grey, chosen = pick?.plan === point.plan;
      ctx.strokeStyle = ctx.fillStyle = mine;
      ctx.lineWidth = ratio;
      if (point.known && (good.has(point) || chosen || over === point)) {
        const [top, bottom] = [point.most, point.least].map(end => self.valToPos(end, "y", true));
        ctx.globalAlpha = 0.55;
        stroke(ctx, [[x, top], [x, bottom]]);
        for (const end of [top, bottom]) stroke(ctx, [[x - 3 * ratio, end], [x + 3 * ratio, end]]);
        ctx.globalAlpha = 1;
      }
      mark(ctx, shape(point.method), x, y, chosen || over === point ? r * 1.4 : r);
      if (shape(point.method) === "ring") [ctx.fillStyle, ctx.lineWidth] = [colour.page, 2 * ratio];
      ctx.fill();
      if (chosen) [ctx.strokeStyle, ctx.lineWidth] = [colour.text, 2 * ratio];
      if (shape(point.method) === "ring" || chosen) ctx.stroke();
    }
    ctx.restore();
  }

  function stroke(ctx, path) {
    ctx.beginPath();
    for (const [x, y] of path) ctx.lineTo(x, y);
    ctx.stroke();
  }

  function near(event) {
    const box = plot.ctx.canvas.getBoundingClientRect(), ratio = uPlot.pxRatio;
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const far = point => Math.hypot(at(point)[0] / ratio - x, at(point)[1] / ratio - y);
    const found = points.reduce((one, other) => (far(other) < far(one) ? other : one));
    return far(found) <= NEAR ? found : null;
  }

  function hover(point) {
    place.classList.toggle("over", Boolean(point));
    if (point === over) return;
    over = point;
    tip.hidden = !point;
    if (point) tip.textContent = `${point.precision} ${point.method}, ${bytes(point.bytes)}: ${value(point.accuracy, measure.share)}, ${lost(point.loss, measure.higher)}`;
    plot.redraw(false);
  }

  const watcher = new ResizeObserver(() => { if (plot && place.clientWidth !== plot.width) draw(); });
  watcher.observe(place);
  const theme = matchMedia("(prefers-color-scheme: dark)");
  theme.addEventListener("change", draw);
  return {
    root,
    show(all, chosen, axis) {
      const same = all === points && axis === by && plot && (!chosen || chosen[axis] === undefined || within(chosen[axis]));
      [points, pick, by] = [all, chosen, axis];
      same ? plot.redraw(false) : draw();
    },
    end() {
      watcher.disconnect();
      theme.removeEventListener("change", draw);
      plot?.destroy();
    },
  };

  function within(x) {
    const {min, max} = plot.scales.x;
    return x >= min && x <= max;
  }
}

/** A mark as the figure has it. */
function swatch(point, colour) {
  const canvas = make("canvas", {width: 32, height: 32, class: "swatch", "aria-hidden": "true"}), ctx = canvas.getContext("2d");
  const kind = point ? shape(point.method) : "circle";
  ctx.fillStyle = ctx.strokeStyle = point ? colour.of(point.precision) : colour.grey;
  ctx.lineWidth = 4;
  mark(ctx, kind, 16, 16, 9);
  kind === "ring" ? ctx.stroke() : ctx.fill();
  return canvas;
}
