/** Of a tile behind a mask that is known beforehand only some elements are read. */
import { expect, test } from "vitest";
import { parseTile } from "../../compiler/tile/parse.ts";
import { placesRead } from "../../compiler/tile/places-read.ts";

function readOf(reads: string) {
  const program = parseTile(`
tile p {
  kernel k threads 256 {
    param write token o: f32[T, 16] heads H
    register x: f32[16, 16]
    register y: f32[16, 16]
    loop t below T step 16 {
      map x = 1
      ${reads}
      store o[t, 0] = y
    }
  }
}`);
  const kernel = program.kernels[0]!;
  const isRead = placesRead(kernel, kernel.storages[0]!.id);
  if (isRead === null) return null;
  const all = Array.from({ length: 256 }, (_, i) => [Math.floor(i / 16), i % 16] as const);
  return all.filter(([row, col]) => isRead(row, col));
}

test("behind the squares of a chunk", () => {
  const late = "eq(floor(mul(at(row, 0), 0.125)), add(floor(mul(at(col, 0), 0.125)), 1))";
  const read = readOf(`map y = add(1, select(${late}, x, 0))`)!;
  expect(read.length).toBe(64);
  expect(read.every(([row, col]) => row >= 8 && col < 8)).toBe(true);
});

test("behind two masks what either lets through", () => {
  const read = readOf(
    "map y = add(select(lt(at(row, 0), 1), x, 0), select(lt(at(col, 0), 1), x, 0))",
  )!;
  expect(read.length).toBe(31);
});

test("all of it without a mask, or behind one that nobody knows yet", () => {
  expect(readOf("map y = add(x, select(lt(at(row, 0), 1), x, 0))")).toBeNull();
  expect(readOf("map y = select(lt(at(row, 0), 1), 0, x)")).toBeNull();
  expect(readOf("map y = select(inside(row, t, T), x, 0)")).toBeNull();
  expect(readOf("copy y[0:16, 0:16] = x[0:16, 0:16]")).toBeNull();
});
