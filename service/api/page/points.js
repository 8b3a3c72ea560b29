// What has been measured of a model: points of all precisions of one format, and what each loses.

import {address, get, modelAt} from "./api.js";

/** Which way a model's measure goes, and whether it is a share; with what the original has. */
export class Measure {
  constructor({baseline, higher_is_better, share}) {
    Object.assign(this, {baseline, higher: higher_is_better ?? true, share: share ?? false, metric: baseline?.metric ?? null});
  }
  /** What a value loses against the original: points, of what is 1 at most; of an error how many percent it is larger. */
  loss(value) {
    const whole = this.baseline?.value ?? null;
    if (value === null || value === undefined || whole === null) return null;
    return 100 * (this.higher ? whole - value : (value - whole) / (Math.abs(whole) || 1));
  }
  get unit() {
    return this.higher ? `points of ${this.metric} lost` : `${this.metric}, % more than the original's`;
  }
  /** What is less than this is taken for nothing: a tenth of a point, or a hundredth of an error. */
  get grain() {
    return this.higher ? 0.1 : 1;
  }
}

/** All measured points of a format, the smallest file first, and their measure. */
export async function measured(model, format) {
  const offer = model.formats.find(each => each.format === format);
  const curves = await Promise.all((offer?.precisions ?? []).map(precision =>
    get(address(`${modelAt(model.id)}/curve`, {precision, format}))));
  const measure = new Measure(curves[0] ?? {baseline: model.baseline});
  const points = curves.flatMap(curve => curve.points.map(point => ({...point, format, precision: curve.precision})))
    .filter(point => point.accuracy !== null)
    .map(point => {
      const ends = [measure.loss(point.low), measure.loss(point.high)].filter(end => end !== null);
      return {...point, loss: measure.loss(point.accuracy), least: Math.min(...ends), most: Math.max(...ends), known: ends.length === 2};
    })
    .filter(point => point.loss !== null)
    .sort((one, other) => one.bytes - other.bytes);
  return {points, measure, curves};
}

/** Those that no other beats in `by` (bytes, params, macs) and in what is lost. */
export function best(points, by) {
  const sorted = [...points].sort((one, other) => one[by] - other[by] || one.loss - other.loss);
  const kept = new Set();
  let least = Infinity;
  for (const point of sorted) if (point.loss < least) [least] = [point.loss, kept.add(point)];
  return kept;
}
