/** Alters what is valid, the same way for the same seed: bytes as disks and strangers do, JSON field by field. */

/** Numbers from 0 up to but without `below`. */
export type Draw = (below: number) => number;

/** Mulberry32. */
export function drawFrom(seed: number): Draw {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

export function pick<T>(draw: Draw, list: readonly T[]): T {
  return list[draw(list.length)]!;
}

/** One of: a bit changed, a byte set, cut short, bytes put in, taken out, or doubled. */
export function alterBytes(bytes: Uint8Array, draw: Draw): Uint8Array {
  const at = draw(bytes.length);
  const few = 1 + draw(16);
  const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)];
  const join = (...parts: readonly Uint8Array[]) => new Uint8Array(Buffer.concat(parts));
  switch (draw(6)) {
    case 0:
      return join(before, Uint8Array.of(bytes[at]! ^ (1 << draw(8))), after.subarray(1));
    case 1:
      return join(before, Uint8Array.of(pick(draw, [0, 1, 0x7f, 0x80, 0xff])), after.subarray(1));
    case 2:
      return join(before);
    case 3:
      return join(
        before,
        Uint8Array.from({ length: few }, () => draw(256)),
        after,
      );
    case 4:
      return join(before, after.subarray(few));
    default:
      return join(bytes, after);
  }
}

const strangers: readonly unknown[] = [
  null,
  true,
  "",
  "../x",
  "__proto__",
  "constructor",
  "\u2028\r\n",
  -1,
  0,
  0.5,
  77,
  2 ** 31,
  2 ** 53,
  1e308,
  [],
  {},
];

/** A copy of a JSON value of which one field is changed, left out, put twice or added. */
export function alterJson(value: unknown, draw: Draw): unknown {
  const copy: unknown = structuredClone(value);
  const places: { readonly of: Record<string, unknown>; readonly key: string }[] = [];
  const visit = (of: unknown) => {
    if (typeof of !== "object" || of === null) return;
    for (const key of Object.keys(of)) {
      places.push({ of: of as Record<string, unknown>, key });
      visit((of as Record<string, unknown>)[key]);
    }
  };
  visit(copy);
  const { of, key } = pick(draw, places);
  const old = of[key];
  switch (draw(5)) {
    case 0:
      if (Array.isArray(of)) of.splice(Number(key), 1);
      else delete of[key];
      break;
    case 1:
      if (Array.isArray(of)) of.splice(Number(key), 0, structuredClone(old));
      else of[`${key}_`] = old;
      break;
    case 2:
      // Something that stands elsewhere.
      of[key] = structuredClone((({ of, key }) => of[key])(pick(draw, places)));
      break;
    case 3:
      if (typeof old === "number") of[key] = old + pick(draw, [-1, 1, 64]);
      else if (typeof old === "string") of[key] = `${old}x`;
      else if (typeof old === "boolean") of[key] = !old;
      else if (Array.isArray(old)) of[key] = [...old].reverse();
      else of[key] = null;
      break;
    default:
      of[key] = pick(draw, strangers);
  }
  return copy;
}
