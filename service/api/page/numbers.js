// Numbers as people read them, and as they write them.

const grouped = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const UNITS = ["", "k", "M", "G", "T"];

export const whole = n => grouped.format(n);

/** Three digits and a unit of a thousand: 47.9 k. */
export function short(n) {
  let at = 0;
  while (at < UNITS.length - 1 && Math.abs(n) >= 999.5) [n, at] = [n / 1000, at + 1];
  return trim(n) + (at ? ` ${UNITS[at]}` : "");
}

const trim = n => String(Number(n.toPrecision(3)));

export function bytes(n) {
  const words = short(n);
  return /[a-zA-Z]$/.test(words) ? `${words}B` : `${words} B`;
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

/** A measured value: a share in percent, anything else in four digits. */
export function value(number, share) {
  if (number === null || number === undefined) return "–";
  return share ? percent(number, Math.abs(number) > 0.9995 && number < 1 ? 2 : 1) : String(Number(number.toPrecision(4)));
}

/** What is lost: in points, or of an error how many percent it is larger. */
export function lost(number, points) {
  if (number === null || number === undefined) return "–";
  const rounded = Number(number.toFixed(2)), size = Math.abs(rounded);
  if (rounded === 0) return "nothing lost";
  if (points) return `${size} ${size === 1 ? "point" : "points"} ${rounded > 0 ? "lost" : "gained"}`;
  return `${Number(size.toPrecision(3))} % ${rounded > 0 ? "more" : "less"}`;
}

const POWERS = {"": 1, k: 1e3, m: 1e6, g: 1e9, t: 1e12, ki: 1024, mi: 1024 ** 2, gi: 1024 ** 3};

/** "60 kB", "1.5 MiB", "2.4 M", "60,000" → a whole number; null for nothing, NaN for what is none. */
export function read(text) {
  const clean = text.trim().replace(/[\s,_]/g, "").toLowerCase();
  if (!clean) return null;
  const match = /^(\d*\.?\d+)([kmgt]?i?)b?$/.exec(clean);
  const number = match && POWERS[match[2]] ? Math.floor(Number(match[1]) * POWERS[match[2]]) : NaN;
  return number > 0 ? number : NaN;
}

export function when(seconds) {
  return new Date(seconds * 1000).toLocaleDateString("en", {year: "numeric", month: "short", day: "numeric"});
}
