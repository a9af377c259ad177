/** What stands behind the last token, or behind the last column of an odd size. */
import { expect, test } from "vitest";
import { paddingOf } from "../../compiler/tile/padding.ts";

test("a number above zero can be divided by, and its root and logarithm taken", () => {
  expect(paddingOf("rsqrt", ["positive"])).toBe("positive");
  expect(paddingOf("recip", ["positive"])).toBe("positive");
  expect(paddingOf("sqrt", ["positive"])).toBe("positive");
  expect(paddingOf("log", ["positive"])).toBe("finite");
  expect(paddingOf("div", ["zero", "positive"])).toBe("zero");
  expect(paddingOf("mul", ["zero", "positive"])).toBe("zero");
});

test("of what may be zero that is not known", () => {
  for (const fn of ["rsqrt", "recip", "log"] as const) {
    for (const padding of ["zero", "sums", "finite"] as const) {
      expect(paddingOf(fn, [padding])).toBe("any");
    }
  }
  // What may be infinite times zero is no zero.
  expect(paddingOf("mul", ["zero", "any"])).toBe("any");
  expect(paddingOf("div", ["zero", "finite"])).toBe("any");
});
