/** Every function of the language in CUDA: its value, executed in software, and what nvcc makes of it. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { floatText, helperTexts, helpers } from "../../../codegen/cuda/ops.ts";
import { cudaTarget } from "../../../codegen/cuda/target.ts";
import type { Dtype } from "../../../compiler/tensor/ir.ts";
import { pointwise } from "../../../compiler/check/functions.ts";
import { has } from "../../support/devices.ts";
import {
  artifactOf,
  compare,
  compileText,
  randomInputs,
  ringForms,
  runRing,
  sizesOf,
} from "../../support/examples.ts";
import { available, backward, checkKernels, createSoftwareCuda, why } from "./software/index.ts";

const nvccIsThere = has("nvcc");

const positive = new Set(["log", "sqrt", "rsqrt"]);
/** Results beside the attention's own: rows [T, K]. */
const results = [
  ...pointwise.map((fn) => `${fn}(${positive.has(fn) ? "p" : "x"})`),
  "sin(wide)",
  "cos(wide)",
  "gelu(low)",
  "elu(small)",
  "softplus(wide)",
  "silu(wide)",
  "max(x, p)",
  "min(x, -1.5)",
  "pow(p, x)",
  "where(x < 0, x, p * x)",
  "-(-x) - (-2) * p",
  "1 / p + 1e-9 * x",
  "square(square(silu(x)))",
  "rotary(x)",
  "rmsnorm(x)",
  "l2norm(x)",
  "x - rowmax(x)",
  "x * mean(p)",
];

const text = `
attention all(
  q: [T, K], k: [T, K], v: [T, V], x: [T, K] in [-8, 8], p: [T, K] in [0.1, 4],
  wide: [T, K] in [-100000, 100000], low: [T, K] in [-6, -3], small: [T, K] in [-0.0001, 0]
) -> (o: [T, V], ${results.map((_, i) => `r${i}: [T, K]`).join(", ")}) {
  o = ((q @ k.T) * causal()) @ v
  return o, ${results.join(", ")}
}`;

const compileAll = (K: number, dtype: Dtype = "f32") =>
  compileText(text, { dims: { K, V: 32 }, targets: [cudaTarget], dtype });

// Halves of 16 columns lie in one thread's registers, halves of 20 go through shared memory.
test.skipIf(!available).each([
  [32, "f32"],
  [40, "f32"],
  [32, "bf16"],
] as const)(`as the reference has them, K = %d in %s${why}`, async (K, dtype) => {
  const compiled = compileAll(K, dtype);
  await checkKernels(compiled);
  const device = await createSoftwareCuda();
  await device.load(artifactOf(compiled), ringForms(compiled));
  const sizes = sizesOf({ T: 70 });
  const inputs = randomInputs(compiled, sizes);
  const run = () => runRing(compiled, [device, device], inputs, sizes);
  for (const result of [await run(), await backward(run)]) {
    const { outputs, ok } = await compare(compiled, inputs, sizes, result);
    const shown = results.map((name, i) => `${name}: ${outputs[`r${i}`]!.rmse_ratio}`);
    expect(ok, shown.join("\n")).toBe(true);
  }
  await device.close();
});

test.skipIf(!nvccIsThere)(
  `without warnings or local memory${nvccIsThere ? "" : " (skipped: nvcc is not installed)"}`,
  () => {
    const { files } = compileAll(32);
    const source = [...files].find(([path]) => path.endsWith("all_forward.cu"))![1];
    const folder = mkdtempSync(join(tmpdir(), "laspc-nvcc-"));
    try {
      const file = join(folder, "all.cu");
      writeFileSync(file, source);
      const targets = ["80", "90a"].map((arch) => `-gencode=arch=compute_${arch},code=sm_${arch}`);
      const strict = ["-Werror", "all-warnings", "-Xptxas", "-v"];
      const out = ["-fatbin", "-o", join(folder, "all.fatbin"), file];
      const { status, stderr } = spawnSync("nvcc", [...strict, ...targets, ...out], {
        encoding: "utf8",
      });
      expect(status, stderr).toBe(0);
      const frames = stderr.match(/\d+ bytes stack frame.*/g);
      const none = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads";
      expect(frames).toEqual([none, none]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);

// What the hardware's instructions stand for, in float32; each is off by an ulp or two more.
const instructions = {
  "ex2.approx": "exp2f",
  "rcp.approx": "1.0f / ",
  "sqrt.approx": "sqrtf",
  "sin.approx": "sinf",
  "cos.approx": "cosf",
};
const exact = {
  approx_exp: "exp(x)",
  approx_expm1: "expm1(x)",
  approx_reciprocal: "1 / x",
  approx_root: "sqrt(x)",
  approx_sigmoid: "1 / (1 + exp(-x))",
  approx_silu: "x / (1 + exp(-x))",
  approx_softplus: "fmax(x, 0) + log1p(exp(-fabs(x)))",
  approx_elu: "x > 0 ? x : expm1(x)",
  approx_tanh: "tanh(x)",
  approx_sin: "sin(x)",
  approx_cos: "cos(x)",
};

test.skipIf(!available)(`approximations keep the digits of numbers great and small${why}`, () => {
  const names = Object.keys(exact) as (keyof typeof exact)[];
  const code = helperTexts(names)
    .join("\n")
    .replace(
      /asm\("(\w+\.approx)\.ftz\.f32 .*?" : "=f"\((\w+)\) : "f"\((.*)\)\);/g,
      (_, name: keyof typeof instructions, to, x) => `${to} = ${instructions[name]}(${x});`,
    )
    .replace(
      /asm\("\{ \.reg .pred is;[^;]*; selp[^;]*; \}"\s*:[^;]*;/,
      "chosen = condition ? a : b;",
    );
  const cases = names.map((name) => {
    const isForPositive = name === "approx_root";
    const isAngle = name === "approx_sin" || name === "approx_cos";
    // Where a sine is small its angle may not be: there and for cosines errors are beside 1.
    const size =
      name === "approx_sin" ? "(size < 0.1 ? fabs(wanted) : 1)" : isAngle ? "1" : "fabs(wanted)";
    return `worst = 0;
      for (double size = 1e-6; size < ${isAngle ? 1e6 : 40}; size *= 1.001) for (int sign = ${isForPositive ? 1 : -1}; sign < 2; sign += 2) {
        const float given = sign * size;
        const double x = given, wanted = ${exact[name]};
        worst = fmax(worst, fabs(${name}(given) - wanted) / ${size});
      }
      printf("${name} %g\\n", worst);`;
  });
  const program = `#include <math.h>
    #include <stdio.h>
    #define __device__
    #define __forceinline__ inline
    ${code}
    int main() { double worst; ${cases.join("\n")} }`;
  const folder = mkdtempSync(join(tmpdir(), "laspc-functions-"));
  try {
    writeFileSync(join(folder, "all.cpp"), program);
    const compiled = spawnSync("g++", ["-O1", "-o", join(folder, "all"), join(folder, "all.cpp")], {
      encoding: "utf8",
    });
    expect(compiled.status, compiled.stderr).toBe(0);
    const { stdout } = spawnSync(join(folder, "all"), { encoding: "utf8" });
    const worst = stdout
      .trim()
      .split("\n")
      .map((line) => line.split(" "));
    expect(worst.map(([name]) => name)).toEqual(names);
    for (const [name, error] of worst) expect(Number(error), name).toBeLessThan(4e-6);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a kernel's text holds the helpers it calls, and no others", () => {
  const { files } = compileText(
    `attention one(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {
      return ((silu(q) @ k.T) * causal()) @ v
    }`,
    { dims: { K: 32, V: 32 }, targets: [cudaTarget] },
  );
  const forward = files.get("cuda/one_forward.cu")!;
  const defined = [...forward.matchAll(/__forceinline__ .*?(\w+)\(/g)].map(([, name]) => name);
  expect(defined).toEqual(["own_head", "silu"]);
});

test("every helper file defines the function it is named after", () => {
  for (const [name, source] of Object.entries(helpers)) {
    expect(source).toMatch(
      new RegExp(
        `(__device__ __forceinline__ [\\w ]+ ${name}\\(|struct (__align__\\(\\d+\\) )?${name} {)`,
      ),
    );
  }
});

test("literals read back as the nearest float", () => {
  const shown = [0, -0, 1, -1.5, 1e-5, 0.1, 1e21, 16777217, 1e39, -Infinity, 1e-60].map(floatText);
  expect(shown).toEqual([
    "0.0f",
    "-0.0f",
    "1.0f",
    "-1.5f",
    "0.00001f",
    "0.1f",
    "1e+21f",
    "16777217.0f",
    "__int_as_float(0x7f800000)",
    "__int_as_float(0xff800000)",
    "0.0f",
  ]);
});
