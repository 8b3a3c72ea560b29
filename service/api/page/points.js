// What has been measured of a model: points of all precisions of one format, and what each loses.

import {address, get, modelAt} from "./api.js";

/** Which way a model's measure goes, and whether it is a share; with what the original has. */
export class Measure {
  constructor({baseline, higher_is_better, share}) {
    Object.assign(this, {baseline, higher: higher_is_better ?? true, share: share ?? false, metric: baseline?.metric ?? null});
  }
  /** What a value loses against the original: points of a share, else the difference; more is worse. */
  loss(value) {
    if (value === null || value === undefined || !this.baseline || this.baseline.value === null) return null;
    const less = this.higher ? this.baseline.value - value : value - this.baseline.value;
    return less * (this.share ? 100 : 1);
  }
  get unit() {
    return this.share ? `points of ${this.metric} lost` : this.higher ? `${this.metric} lost` : `${this.metric} more`;
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
