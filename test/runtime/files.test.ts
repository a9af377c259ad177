/** Tensor files: round trips, and files that lie. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { HostTensor } from "../../runtime/device.ts";
import { fromBits, fromNumbers, toBits } from "../../runtime/dtype.ts";
import { readNpy, writeNpy } from "../../runtime/npy.ts";
import { readSafetensors, writeSafetensors } from "../../runtime/safetensors.ts";

const tensor: fc.Arbitrary<HostTensor> = fc
  .tuple(
    fc.constantFrom("f32" as const, "f16" as const, "bf16" as const),
    fc.array(fc.nat(4), { maxLength: 4 }),
  )
  .map(([dtype, shape]) => {
    const n = shape.reduce((product, size) => product * size, 1);
    return {
      dtype,
      shape,
      data: fromNumbers(
        dtype,
        Float64Array.from({ length: n }, (_, i) => i - 2),
      ),
    };
  });

describe("npy", () => {
  test("round trip", () => {
    fc.assert(
      fc.property(tensor, (t) => {
        expect(readNpy(writeNpy(t))).toEqual(t);
      }),
    );
  });

  const good = writeNpy({ dtype: "f32", shape: [2, 3], data: new Float32Array(6) });
  const header = (text: string, data = 24) => {
    const bytes = new TextEncoder().encode(`\x93NUMPY`.replace("\x93", "?"));
    const head = new Uint8Array(10 + text.length + data);
    head.set(bytes);
    head[0] = 0x93;
    head[6] = 1;
    head[8] = text.length;
    head.set(new TextEncoder().encode(text), 10);
    return head;
  };
  const versioned = (major: number, minor: number) => {
    const bytes = header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    bytes.set([major, minor], 6);
    if (major === 2) bytes.set([0x73, 0x32, 0x28, 0x32], 8);
    return bytes;
  };
  test.each([
    ["not a .npy file", new Uint8Array(40)],
    ["truncated", good.subarray(0, 40)],
    ["holds 20 bytes", good.subarray(0, good.length - 4)],
    ["holds 28 bytes", Uint8Array.from([...good, 0, 0, 0, 0])],
    ["float32", header("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }")],
    [
      "dtype >f4 is not little-endian",
      header("{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }"),
    ],
    [
      "dtype __proto__ is",
      header("{'descr': '__proto__', 'fortran_order': False, 'shape': (6,), }"),
    ],
    ["dtype toString is", header("{'descr': 'toString', 'fortran_order': False, 'shape': (6,), }")],
    ["version 9.9", versioned(9, 9)],
    ["version 1.7", versioned(1, 7)],
    ["bytes is too long", versioned(2, 0)],
    ["cannot be read", header("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)} + 1")],
    [
      "cannot be read",
      header("{'descr': '<f4', 'descr': '<f2', 'fortran_order': False, 'shape': (6,)}"),
    ],
    [
      "cannot be read",
      header("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}"),
    ],
    ["cannot be read", header("{'descr': '<f4', 'fortran_order': False, 'shape': (0x6,)}")],
    [
      "shape of the .npy file cannot be read",
      header("{'descr': '<f4', 'fortran_order': False, 'shape': (6)}"),
    ],
    [
      "shape of the .npy file cannot be read",
      header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,,3)}"),
    ],
    ["Fortran", header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }")],
    ["cannot be read", header("{'descr': '<f4'}")],
    ["not possible", header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }")],
    [
      "not possible",
      header("{'descr': '<f4', 'fortran_order': False, 'shape': (9007199254740991, 9), }"),
    ],
    [
      "needs 4000000000000",
      header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"),
    ],
  ])("refuses: %s", (why, bytes) => expect(() => readNpy(bytes)).toThrow(why));
});

describe("safetensors", () => {
  test("round trip", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string({ minLength: 1 }), tensor), (tensors) => {
        const map = new Map(Object.entries(tensors).filter(([name]) => name !== "__metadata__"));
        const back = readSafetensors(writeSafetensors(map));
        expect([...back].sort()).toEqual([...map].sort());
      }),
    );
  });

  const file = (text: string, data = 8, claimed: bigint | null = null) => {
    const header = new TextEncoder().encode(text);
    const bytes = new Uint8Array(8 + header.length + data);
    new DataView(bytes.buffer).setBigUint64(0, claimed ?? BigInt(header.length), true);
    bytes.set(header, 8);
    return bytes;
  };
  const entries = (places: Record<string, [number, number]>) =>
    JSON.stringify(
      Object.fromEntries(
        Object.entries(places).map(([name, [from, to]]) => {
          return [name, { dtype: "F32", shape: [(to - from) / 4], data_offsets: [from, to] }];
        }),
      ),
    );
  test.each([
    ["too short", new Uint8Array(3)],
    ["claims 18446744073709551615", file("{}", 8, 2n ** 64n - 1n)],
    ["claims 4000000000", file("{}", 8, 4_000_000_000n)],
    ["not JSON", file("{")],
    ["not an object", file("[1]")],
    ["lacks dtype", file('{"q": {"shape": [2]}}')],
    ["F32, F16 or BF16", file('{"q": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}')],
    ["outside the file", file('{"q": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}')],
    ["outside the file", file('{"q": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}')],
    [
      "needs 4000000000",
      file('{"q": {"dtype": "F32", "shape": [1000000000], "data_offsets": [0, 8]}}'),
    ],
    ["1 bytes behind the last tensor", file(entries({ a: [0, 8] }), 9)],
    ["a gap or overlap", file(entries({ a: [0, 8], b: [4, 12] }), 12)],
    ["a gap or overlap", file(entries({ a: [0, 8], b: [0, 8] }))],
    ["a gap or overlap", file(entries({ a: [4, 8] }))],
    ['has "a" twice', file(entries({ a: [0, 4] }).replace("}}", '},"\\u0061":{}}'), 4)],
    ['has "shape" twice', file(entries({ a: [0, 4] }).replace("}}", ',"shape":[1]}}'), 4)],
    ["dtype __proto__ is", file(entries({ a: [0, 8] }).replace("F32", "__proto__"))],
    ["not JSON", file("\ufeff{}", 0)],
    ["not possible", file('{"q": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 8]}}')],
  ])("refuses: %s", (why, bytes) => expect(() => readSafetensors(bytes)).toThrow(why));

  test("bytes at random never do worse than an error", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        for (const read of [readSafetensors, readNpy]) {
          try {
            read(bytes);
          } catch (error) {
            expect(error).toBeInstanceOf(Error);
          }
        }
      }),
    );
  });
});

describe("16-bit numbers", () => {
  test.each(["f16", "bf16"] as const)(
    "%s: every number survives, halves round to even",
    (dtype) => {
      for (let bits = 0; bits < 65536; bits++) {
        const value = fromBits(dtype, bits);
        if (Number.isNaN(value))
          expect(Number.isNaN(fromBits(dtype, toBits(dtype, value)))).toBe(true);
        else expect(toBits(dtype, value)).toBe(bits);
      }
      const one = toBits(dtype, 1);
      const [low, high, next] = [0, 1, 2].map((i) => fromBits(dtype, one + i)) as [
        number,
        number,
        number,
      ];
      expect(toBits(dtype, (low + high) / 2)).toBe(one);
      expect(toBits(dtype, (high + next) / 2)).toBe(one + 2);
    },
  );
});
