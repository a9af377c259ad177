/** A sweep as SVG: for each number of devices tokens per second above, and below bytes of a device, over the length. */
import { xmlText } from "../support/text.ts";
import { scheduleNames } from "./index.ts";
import type { DeviceSpeed } from "./fabrics.ts";
import type { Sweep, SweepPoint } from "./sweep.ts";

const colors: Readonly<Record<string, string>> = {
  ring: "#2563eb",
  allgather: "#0891b2",
  allscan: "#7c3aed",
  tree: "#059669",
  ulysses: "#ea580c",
  megatron: "#dc2626",
  "ring-attention": "#a16207",
};
const [left, top, width, height, gapX, gapY] = [56, 66, 230, 170, 60, 52];

/** What a row of panels shows of a point. */
interface Measure {
  readonly label: string;
  readonly of: (point: SweepPoint) => number;
  readonly limit: number | null;
}

export function sweepToSvg({ points }: Sweep, speed: DeviceSpeed, title: string): string {
  const devices = [...new Set(points.map((point) => point.devices))];
  const limit = Number.isFinite(speed.memoryBytes) ? speed.memoryBytes : null;
  const measures: readonly Measure[] = [
    { label: "tokens/s", of: (point) => point.tokensPerS, limit: null },
    { label: "bytes of a device", of: (point) => point.memoryBytes, limit },
  ];
  const used = scheduleNames.filter((name) => points.some(({ schedule }) => schedule === name));
  const total = [
    Math.max(left + devices.length * (width + gapX), 700),
    top + measures.length * (height + gapY),
  ];
  const legend = used.map((name, i) => {
    const x = left + i * 92;
    return `<rect x="${x}" y="34" width="12" height="4" fill="${colors[name]}"/><text x="${x + 16}" y="40">${name}</text>`;
  });
  const panels = measures.flatMap((measure, row) =>
    devices.flatMap((count, column) => {
      const here = points.filter((point) => point.devices === count);
      const at = { x: left + column * (width + gapX), y: top + row * (height + gapY) };
      return panel(here, points, measure, `${count} devices`, at);
    }),
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${total.join(" ")}" font-family="sans-serif" font-size="11">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    `<text x="10" y="18" font-size="13">${xmlText(title)}</text>`,
    ...legend,
    ...panels,
    "</svg>\n",
  ].join("\n");
}

/** `all` sets the scales, so that panels of a row compare. */
function panel(
  here: readonly SweepPoint[],
  all: readonly SweepPoint[],
  { label, of, limit }: Measure,
  title: string,
  at: { readonly x: number; readonly y: number },
): string[] {
  const x = scale(
    all.map(({ tokens }) => tokens),
    at.x,
    at.x + width,
  );
  const values = [...all.map(of), ...(limit === null ? [] : [limit])];
  const y = scale(values, at.y + height, at.y);
  const parts = [
    `<rect x="${at.x}" y="${at.y}" width="${width}" height="${height}" fill="none" stroke="#94a3b8"/>`,
    `<text x="${at.x}" y="${at.y - 5}">${title}: ${label}</text>`,
  ];
  for (const exponent of powersOfTen(values)) {
    const line = y(10 ** exponent).toFixed(1);
    parts.push(
      `<line x1="${at.x}" x2="${at.x + width}" y1="${line}" y2="${line}" stroke="#e2e8f0"/>`,
      `<text x="${at.x - 4}" y="${line}" dy="4" text-anchor="end">1e${exponent}</text>`,
    );
  }
  const lengths = [...new Set(all.map(({ tokens }) => tokens))];
  const every = Math.ceil(lengths.length / 4);
  for (const tokens of lengths.filter((_, i) => i % every === 0)) {
    const text = tokens % 1024 === 0 ? `${tokens / 1024}K` : `${tokens}`;
    parts.push(
      `<text x="${x(tokens).toFixed(1)}" y="${at.y + height + 14}" text-anchor="middle">${text}</text>`,
    );
  }
  if (limit !== null) {
    const line = y(limit).toFixed(1);
    parts.push(
      `<line x1="${at.x}" x2="${at.x + width}" y1="${line}" y2="${line}" stroke="#0f172a" stroke-dasharray="4 3"/>`,
    );
  }
  for (const [schedule, color] of Object.entries(colors)) {
    // A line ends with the longest sequence that fits, but its memory shows where it would go.
    const mine = here.filter(
      (point) => point.schedule === schedule && (limit !== null || point.fits),
    );
    if (mine.length === 0) continue;
    const line = mine.map((point) => `${x(point.tokens).toFixed(1)},${y(of(point)).toFixed(1)}`);
    parts.push(
      `<polyline points="${line.join(" ")}" fill="none" stroke="${color}" stroke-width="1.5"/>`,
    );
  }
  return parts;
}

/** Logarithmic, from the least to the greatest of the values. */
function scale(values: readonly number[], from: number, to: number): (value: number) => number {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log);
  const span = Math.max(high! - low!, 1e-9);
  return (value) => from + ((Math.log(value) - low!) / span) * (to - from);
}

function powersOfTen(values: readonly number[]): number[] {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
  const first = Math.ceil(low!);
  return Array.from({ length: Math.max(0, Math.floor(high!) - first + 1) }, (_, i) => first + i);
}
