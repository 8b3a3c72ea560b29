// Which file suits a device: decided by what was measured, and where nothing was, by what usually holds.

import {best} from "./points.js";

const fits = (size, limits) =>
  (limits.max_bytes === null || size.bytes <= limits.max_bytes) && (limits.max_macs === null || size.macs <= limits.max_macs);
// Precisions of which only measuring tells what they lose.
const COARSE = ["int8", "int4", "w8a8", "auto"];

/**
 * Of measured `points`, and of `plans` (for each precision the largest size within the limits), the one to take; the
 * next smaller and the next larger that were measured; and the plans that may be better once they are measured.
 * Losses below `grain` count as none. With `reach` (a function of a point) the smallest that reaches it.
 */
export function recommend(points, plans, limits, grain, reach = null) {
  // No file is better than the network that it was cut from: what more was measured is luck, and so is a trifle less.
  const capped = point => (point.loss < grain ? 0 : point.loss);
  const inside = points.filter(point => fits(point, limits));
  const enough = reach ? inside.filter(reach) : inside;
  const order = reach ? (one, other) => one.bytes - other.bytes : (one, other) => capped(one) - capped(other) || one.bytes - other.bytes;
  const chosen = [...enough].sort(order)[0] ?? null;
  const untried = plans.filter(plan => !plan.made);
  if (!chosen) return {chosen: reach ? null : likely(plans), smaller: null, larger: null, untried: reach ? untried : []};
  const row = [...best(points, "bytes")].sort((one, other) => one.bytes - other.bytes);
  const smaller = row.filter(point => point.bytes < chosen.bytes).at(-1) ?? null;
  const larger = row.find(point => point.bytes > chosen.bytes && capped(point) < capped(chosen)) ?? null;
  // A size of which a larger one is known to be no better than the chosen is not worth the work.
  const hopeless = plan => points.some(point => point.precision === plan.precision && point.bytes >= plan.bytes && capped(point) >= capped(chosen));
  const hopeful = capped(chosen) > 0 ? untried.filter(plan => !hopeless(plan)) : [];
  return {chosen, smaller, larger, untried: hopeful};
}

/** Of what was never measured: the whole network if it fits, in bits that lose next to nothing; else ranks and bits mixed. */
function likely(plans) {
  const named = (name, whole) => plans.find(plan => plan.precision === name && (!whole || plan.whole));
  return plans.find(plan => plan.whole && !COARSE.includes(plan.precision)) ?? named("int8", true) ?? named("auto") ?? named("int8") ?? plans[0] ?? null;
}
