/** Where tiles lie in shared memory. */
import { expect, test } from "vitest";
import { sharedPlaces } from "../../../codegen/cuda/layout.ts";
import { parseTile } from "../../../compiler/tile/parse.ts";

/** Places of a chunk that loads `a`, and after `between` computes in `b`. */
function placesOf(between: string, threads = 128): readonly (readonly string[])[] {
  const [kernel] = parseTile(`tile p {
  kernel k threads ${threads} {
    param read token q: bf16[T, 16] heads H
    param write token o: f32[T, 16] heads H
    grid t below T step 16
    register x: f32[16, 16]
    shared a: bf16[16, 16]
    shared v: f32[16]
    shared b: f32[16, 16] pad 8
    copy-async a = q[t, 0]
    wait 0
    copy x[0:16, 0:16] = a[0:16, 0:16]
    ${between}
    copy b[0:16, 0:16] = x[0:16, 0:16]
    barrier
    copy x[0:16, 0:16] = b[0:16, 0:16]
    store o[t, 0] = x
  }
}
`).kernels;
  return sharedPlaces(kernel!).map((place) => place.map(({ name }) => name));
}

test("a tile lies where another lay, once all threads are done with that", () => {
  expect(placesOf("barrier")).toEqual([["a", "b"], ["v"]]);
  expect(placesOf("barrier", 256)).toEqual([["a"], ["v"], ["b"]]);
});

test("tiles lie apart where threads do not meet between them, or one is read again", () => {
  expect(placesOf("map x = mul(x, x)")).toEqual([["a"], ["v"], ["b"]]);
  const again =
    "barrier\n    copy b[0:16, 0:16] = x[0:16, 0:16]\n    copy x[0:16, 0:16] = a[0:16, 0:16]";
  expect(placesOf(again)).toEqual([["a"], ["v"], ["b"]]);
});

test("what lies in one place is told in the order of time, not in which it was made", () => {
  const [kernel] = parseTile(`tile p {
  kernel k threads 128 {
    param read token q: bf16[T, 16] heads H
    param write token o: f32[T, 16] heads H
    grid t below T step 16
    register x: f32[16, 16]
    shared late: f32[16, 16]
    shared early: bf16[16, 16]
    load x = q[t, 0]
    copy early[0:16, 0:16] = x[0:16, 0:16]
    barrier
    copy late[0:16, 0:16] = x[0:16, 0:16]
    store o[t, 0] = x
  }
}
`).kernels;
  expect(sharedPlaces(kernel!).map((place) => place.map(({ name }) => name))).toEqual([
    ["early", "late"],
  ]);
});
