/** The command line as its users meet it: results, exit codes, files. Needs `npm run build`. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { catalogue } from "../../compiler/support/catalogue.ts";
import { openArtifact } from "../../runtime/artifact.ts";
import { readNpy, writeNpy } from "../../runtime/npy.ts";
import { readSafetensors } from "../../runtime/safetensors.ts";
import { parseManifest } from "../../runtime/validate.ts";
import { findDevice } from "../support/devices.ts";
import { exampleNames } from "../support/examples.ts";

const root = join(import.meta.dirname, "../..");
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "laspc-cli-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function laspc(...args: string[]) {
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    [join(root, "dist/laspc.js"), ...args],
    {
      cwd: root,
      encoding: "utf8",
      env: { ...process.env, NO_COLOR: "1" },
    },
  );
  return { stdout, stderr, status };
}

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const small = ["--device", "reference", "--dim", "B=1,H=2,T=20,K=8,V=8"];
const retention = "dsl-examples/retention.lasp";
const bothSides = "dsl-examples/linear-attention-bidirectional.lasp";

describe("exit codes", () => {
  test.each([
    [0, ["--help"]],
    [2, []],
    [2, ["polish"]],
    [2, ["run"]],
    [2, ["run", retention, "--speed", "9"]],
    [2, ["run", retention, "--dim", "K"]],
    [2, ["run", retention, "--dim", "K=0"]],
    [2, ["run", retention, "--devices", "0"]],
    [2, ["run", retention, "--device", "tpu"]],
    [2, ["run", retention, "--device", "cpu,cpu", "--devices", "3"]],
    [2, ["compile", retention, "--emit", "tensorflow"]],
    [2, ["compile", retention, "--arch", "sm_70"]],
    [2, ["compile", retention, "--emit", "torch", "--target", "wgsl"]],
    [2, ["compile", retention, "--emit", "torch", "--devices", "4"]],
    [2, ["compile", retention, "--emit", "torch", "--cache-states", "every=64"]],
    [2, ["compile", retention, "--emit", "torch", "--dim", "K=8,V=8", "--out", "a-b"]],
    [1, ["compile", retention, "--emit", "torch"]],
    [1, ["run", "no-such-file.lasp"]],
    [1, ["run", retention, "--device", "reference"]],
    [0, ["run", retention, "--backward", "--devices", "2", ...small]],
    [2, ["run", retention, "--segment", "0", ...small]],
    [2, ["run", retention, "--schedule", "carousel", ...small]],
    [0, ["run", bothSides, "--backward", "--devices", "2", "--verify", ...small]],
    [0, ["run", bothSides, "--schedule", "allgather", "--mesh", "seq=2,data=2", ...small]],
    [2, ["run", retention, "--mesh", "seq=2,model=2", ...small]],
    [2, ["run", retention, "--mesh", "seq=2,data=2", "--devices", "3", ...small]],
    [1, ["explain", "no-such-code"]],
    [2, ["check", retention, "--dim", "Q=4"]],
    [2, ["compile", retention, "--dim", "constructor=4"]],
    [2, ["compile", retention, "--dim", "K=64,,V=64"]],
    [2, ["compile", retention, "--dim", "K=64", "--dim", "K=64"]],
    [2, ["compile", retention, "--target", "cuda,,wgsl"]],
    [2, ["compile", retention, "--target", "wgsl,wgsl"]],
    [2, ["run", retention, "--seed", "1", "--seed", "2", ...small]],
    [2, ["run", retention, "--cu-seqlens", "0,,5", "--device", "reference", "--dim", "K=4,V=4"]],
    [2, ["run", retention, "--dim", "T=99999999999"]],
    [1, ["run", retention, "--dim", "T=2147483647,H=64,K=64,V=64", "--device", "reference"]],
    [2, ["run", retention, "--dim", "K=1000000000"]],
    [2, ["plan", retention, "--devices", "1000000000"]],
    [2, ["plan", retention, "--mesh", "seq=99999,data=99999"]],
    [2, ["plan", retention, "--mesh", "seq=2,seq=2"]],
    [2, ["verify", retention, "--device", "reference,,cpu"]],
  ])("%d for %j", (status, args) => {
    const run = laspc(...args);
    expect(run.status, run.stderr).toBe(status);
    if (status !== 0) expect(run.stdout === "" || args.length === 0).toBe(true);
  });
});

describe("check", () => {
  test("all examples are fine, and start in under three times a bare node", { retry: 2 }, () => {
    const files = exampleNames.map((name) => `dsl-examples/${name}.lasp`);
    const { status, stdout } = laspc("check", ...files);
    expect(status).toBe(0);
    expect(stdout.split("\n").filter((line) => line.endsWith(")")).length).toBe(files.length);
    const time = (args: string[]) => {
      const started = performance.now();
      spawnSync(process.execPath, args, { cwd: root });
      return performance.now() - started;
    };
    // Taken in turns, so that a busy machine slows both down; the middle of all files, since others run.
    const ratios = files.map((file) => {
      let [bare, checking] = [Infinity, Infinity];
      for (let i = 0; i < 9; i++) {
        bare = Math.min(bare, time(["-e", "0"]));
        checking = Math.min(checking, time(["dist/laspc.js", "check", file]));
      }
      return checking / bare;
    });
    const middle = ratios.sort((a, b) => a - b)[Math.floor(ratios.length / 2)];
    expect(middle).toBeLessThan(3);
  });

  test("a mistake is shown with its line, and as JSON", () => {
    const file = write(
      "typo.lasp",
      "attention a(q: [T, K], v: [T, V]) -> [T, V] {\n  return (q @ k.T) @ v\n}\n",
    );
    const shown = laspc("check", file);
    expect(shown.status).toBe(1);
    expect(shown.stderr).toContain("error[unknown-name]: there is no value `k` here");
    expect(shown.stderr).toContain("typo.lasp:2:15");
    expect(shown.stderr).toMatch(/2 \| {3}return \(q @ k\.T\) @ v\n {3}\| {15}\^/);
    const [mistake] = JSON.parse(laspc("check", file, "--json").stdout);
    expect(mistake).toMatchObject({
      code: "unknown-name",
      labels: [{ from: { line: 2, column: 15 } }],
    });
  });

  test("what no target computes is told as mistakes are", () => {
    const file = write(
      "softmax.lasp",
      "attention a(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {\n  return softmax(q @ k.T) @ v\n}\n",
    );
    const shown = laspc("check", file);
    expect(shown.status).toBe(1);
    expect(shown.stderr).toContain("error[unsupported-scores]");
    expect(shown.stderr).toContain("softmax.lasp:2:10");
  });

  test("explain has a page for every code", () => {
    for (const code of ["shape-mismatch", "unsupported-scores"]) {
      expect(laspc("explain", code).stdout).toContain(code);
    }
    expect(new Set(Object.keys(catalogue)).size).toBeGreaterThan(40);
  });
});

describe("run", () => {
  test("the contract's JSON", () => {
    const { stdout, status } = laspc(
      "run",
      retention,
      ...small,
      "--devices",
      "3",
      "--verify",
      "--json",
    );
    expect(status).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      entry: "retention",
      device: "reference",
      devices: 3,
      schedule: "ring",
      dims: { B: 1, H: 2, T: 20, K: 8, V: 8 },
      dtype: "f32",
      bytes_sent_per_rank: [512, 512, 0],
      ok: true,
    });
    expect(Object.keys(report.outputs.o)).toEqual(["shape", "rmse_ratio", "max_abs_error"]);
    expect(report.wall_ms).toBeGreaterThan(0);
  });

  const cpu = findDevice("cpu");
  test.skipIf(!cpu.available)(`retention on four cpu devices${cpu.why}`, () => {
    const dims = "B=1,H=8,T=4096,K=64,V=64";
    const run = laspc(
      "run",
      retention,
      "--device",
      "cpu",
      "--devices",
      "4",
      "--dim",
      dims,
      "--verify",
      "--json",
    );
    const report = JSON.parse(run.stdout);
    expect(report.ok).toBe(true);
    for (const output of Object.values<{ rmse_ratio: number }>(report.outputs)) {
      expect(output.rmse_ratio).toBeLessThanOrEqual(1e-5);
    }
    expect(report.bytes_sent_per_rank).toEqual([131072, 131072, 131072, 0]);
  });

  const gpu = findDevice("webgpu");
  test.skipIf(!gpu.available)(`the same on webgpu, T = 512${gpu.why}`, () => {
    const dims = "B=1,H=8,T=512,K=64,V=64";
    const args = ["--device", "webgpu", "--devices", "4", "--dim", dims, "--verify", "--json"];
    const report = JSON.parse(laspc("run", retention, ...args).stdout);
    expect(report.ok).toBe(true);
    expect(report.outputs.o.rmse_ratio).toBeLessThanOrEqual(1e-5);
    expect(report.bytes_sent_per_rank).toEqual([131072, 131072, 131072, 0]);
  });

  test.skipIf(!cpu.available || !gpu.available)(`two cpu and two webgpu ranks${gpu.why}`, () => {
    const args = [
      "--device",
      "cpu,webgpu,cpu,webgpu",
      "--devices",
      "4",
      "--dim",
      "H=2,T=130,K=32,V=32",
    ];
    const report = JSON.parse(laspc("run", retention, ...args, "--verify", "--json").stdout);
    expect(report.ok).toBe(true);
  });

  test("inputs from files, outputs to files, nothing half-written", () => {
    const shape = [1, 20, 2, 8];
    const data = Float32Array.from({ length: 320 }, (_, i) => Math.sin(i));
    const q = write("q.npy", writeNpy({ dtype: "f32", shape, data }));
    const out = join(folder, "outputs");
    const run = laspc(
      "run",
      retention,
      "--device",
      "reference",
      "--input",
      `q=${q}`,
      "--dim",
      "V=8",
      "--output",
      out,
      "--verify",
    );
    expect(run.status, run.stderr).toBe(0);
    expect(readdirSync(out).sort()).toEqual(["final_S.npy", "o.npy"]);
    expect(readNpy(readFileSync(join(out, "o.npy"))).shape).toEqual(shape);
    const all = join(folder, "all.safetensors");
    expect(laspc("run", retention, ...small, "--output", all).status).toBe(0);
    expect([...readSafetensors(readFileSync(all)).keys()]).toEqual(["o", "final_S"]);
  });

  test("an output that cannot be written leaves none of them", () => {
    const out = join(folder, "half");
    mkdirSync(join(out, "final_S.npy"), { recursive: true });
    const run = laspc("run", retention, ...small, "--output", out);
    expect(run.status).toBe(1);
    expect(run.stderr).toContain(`cannot write ${join(out, "final_S.npy")}: it is a folder`);
    expect(readdirSync(out)).toEqual(["final_S.npy"]);
  });

  test.each([
    [
      "wrong shape",
      "has shape [1, 3, 2, 8]",
      () => writeNpy({ dtype: "f32", shape: [1, 3, 2, 8], data: new Float32Array(48) }),
    ],
    [
      "truncated",
      "holds 100 bytes",
      () =>
        writeNpy({ dtype: "f32", shape: [1, 20, 2, 8], data: new Float32Array(320) }).slice(0, 228),
    ],
    [
      "not a tensor",
      "not a .npy file",
      () => new TextEncoder().encode("hello, this is no array at all"),
    ],
  ])("a bad input is an error: %s", (_, message, bytes) => {
    const path = write("bad.npy", bytes());
    const out = join(folder, "never");
    const run = laspc("run", retention, ...small, "--input", `q=${path}`, "--output", out);
    expect(run.status).toBe(1);
    expect(run.stderr).toContain(message);
    expect(existsSync(out)).toBe(false);
  });

  test("--check-inputs tests the declared ranges", () => {
    const path = write(
      "gamma.npy",
      writeNpy({ dtype: "f32", shape: [2], data: Float32Array.of(0.5, 1.5) }),
    );
    const run = laspc("run", retention, ...small, "--input", `gamma=${path}`, "--check-inputs");
    expect(run.status).toBe(1);
    expect(run.stderr).toContain("input gamma holds 1.5, outside its range (0, 1]");
  });

  test("a rule outside the family is a diagnostic on its statement", () => {
    const file = write(
      "soft.lasp",
      "attention soft(q: [T, K], k: [T, K], v: [T, V]) -> [T, V] {\n  p = softmax(q @ k.T)\n  return p @ v\n}\n",
    );
    const run = laspc("run", file, ...small);
    expect(run.status).toBe(1);
    expect(run.stderr).toContain("error[unsupported-scores]");
    expect(run.stderr).toContain("soft.lasp:2:7");
  });
});

describe("compile", () => {
  test("writes the package of docs/pytorch.md", () => {
    const text = readFileSync(join(root, "docs/pytorch.md"), "utf8");
    const args = /npx laspc (compile .*) --out/.exec(text)![1]!.split(" ");
    const out = join(folder, "retention_pkg");
    expect(laspc(...args, "--out", out).status).toBe(0);
    for (const path of ["__init__.py", "manifest.json", "cuda/retention_forward.cu"])
      expect(existsSync(join(out, path)), path).toBe(true);
  });

  test("writes an artifact that opens, runs and refuses to be tricked", async () => {
    const out = join(folder, "artifact");
    const run = laspc(
      "compile",
      retention,
      "--target",
      "cuda,wgsl",
      "--dim",
      "K=8,V=8",
      "--devices",
      "3",
      "--out",
      out,
    );
    expect(run.status, run.stderr).toBe(0);
    expect(readdirSync(out).sort()).toEqual([
      "README.md",
      "cuda",
      "manifest.json",
      "plans",
      "reference",
      "wgsl",
    ]);
    const artifact = openArtifact(out);
    expect(artifact.manifest.plans.map(({ name }) => name)).toEqual(["ring-1", "ring-3"]);
    await createReferenceDevice().load(artifact);
    expect(() => artifact.read("../../etc/hostname")).toThrow("the artifact has no file");
    const kernel = join(out, "wgsl/retention_forward.wgsl");
    const text = readFileSync(kernel, "utf8");
    writeFileSync(kernel, text.replace("+", "-"));
    for (const use of [
      () => openArtifact(out),
      () => artifact.read("wgsl/retention_forward.wgsl"),
    ]) {
      expect(use).toThrow("wgsl/retention_forward.wgsl was altered");
    }
    rmSync(kernel);
    symlinkSync("/etc/hostname", kernel);
    expect(() => openArtifact(out)).toThrow("lies outside the artifact");
    rmSync(kernel);
    writeFileSync(kernel, text);
    expect(openArtifact(out).manifest).toEqual(artifact.manifest);
    const path = join(out, "manifest.json");
    const whole = readFileSync(path, "utf8");
    writeFileSync(path, whole.replace('"high": 1,', '"high": 2,'));
    expect(() => openArtifact(out)).toThrow("manifest.json was altered");
    writeFileSync(path, whole);
    const json = readFileSync(join(out, "manifest.json"), "utf8");
    expect(parseManifest(json)).toEqual(artifact.manifest);
    for (const [from, to, why] of [
      ['"schema": 1', '"schema": 9', "manifest.schema is not version 1"],
      ["reference/forward.ir", "../secret.ir", "not a path inside the artifact"],
      ["wgsl/retention_forward.wgsl", "/etc/passwd", "not a path inside the artifact"],
      ['"per": "token"', '"per": "byte"', "is not one of token"],
      ["{", "", "not JSON"],
    ] as const) {
      expect(() => parseManifest(json.replace(from, to)), why).toThrow(why);
    }
  });

  test("the same text gives the same bytes", () => {
    const files = ["one", "two"].map((name) => {
      const out = join(folder, name);
      laspc("compile", retention, "--target", "cuda,wgsl", "--dim", "K=16,V=16", "--out", out);
      return (
        readFileSync(join(out, "cuda/retention_forward.cu"), "utf8") +
        readFileSync(join(out, "manifest.json"), "utf8")
      );
    });
    expect(files[0]).toBe(files[1]);
  });
});

describe("the rest", () => {
  test("plan prints, draws and is JSON", () => {
    const svg = join(folder, "ring.svg");
    const { stdout, status } = laspc("plan", retention, "--devices", "3", "--svg", svg);
    expect(status).toBe(0);
    expect(stdout.match(/^device/gm)?.length).toBe(3);
    expect(readFileSync(svg, "utf8")).toMatch(/^<svg .*<\/svg>\n$/s);
    expect(
      JSON.parse(laspc("plan", retention, "--devices", "3", "--json").stdout).ranks.length,
    ).toBe(3);
  });

  test("plan --simulate costs every schedule on a fabric", () => {
    const common = ["plan", retention, "--devices", "4", "--simulate", "infiniband"];
    const { stdout, status } = laspc(...common, "--dim", "T=2048,H=2");
    expect(status).toBe(0);
    expect(stdout).toMatch(/^retention on 4 x h200, infiniband: B=1 T=2048 H=2 K=128 V=128 bf16/);
    expect(stdout).toMatch(/^ring +\d+\.\d+ ms +128 KiB +128 KiB/m);
    expect(stdout).toMatch(/device 3 {2}launch forward.*\n$/);
    const report = JSON.parse(laspc(...common, "--dim", "T=2048,H=2", "--json").stdout);
    const [ring] = report.schedules;
    expect(ring).toMatchObject({
      schedule: "ring",
      bytes_sent_per_rank: [131072, 131072, 131072, 0],
    });
    expect(ring.critical_path.at(-1)).toMatchObject({
      rank: 3,
      step: "launch forward",
      end: ring.seconds,
    });
    expect(laspc(...common, "--device-speed", "abacus").stderr).toMatch(/one of h200, a100/);
    expect(laspc("plan", retention, "--simulate", "string").status).toBe(2);
    const slow = ["plan", retention, "--simulate", "latency=20ms,bandwidth=1GB/s", "--dim", "T=64"];
    expect(laspc(...slow).stdout).toMatch(/^ring +21\.\d+ ms/m);
  });

  test("plan --sweep costs every schedule at many lengths", () => {
    const sweep = (...more: string[]) =>
      laspc("plan", retention, "--simulate", "dgx-a100", "--device-speed", "a100", ...more);
    const model = "parameters=1e9,layers=16,hidden=2048,vocabulary=64000";
    const svg = join(folder, "sweep.svg");
    const axes = ["--sweep", "T=2K..8K,devices=2..4"];
    const { stdout, status } = sweep(...axes, "--model", model, "--svg", svg);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^4 devices +ring .* ring-attention$/m);
    expect(stdout).toMatch(/^8K( +\d\.\d\de\+\d){7}$/m);
    expect(stdout).toMatch(/^longest( +8K){7}$/m);
    expect(readFileSync(svg, "utf8")).toContain("4 devices: tokens/s");
    const report = JSON.parse(sweep(...axes, "--json").stdout);
    expect(report.points.length).toBe(7 * 3 * 2);
    expect(report.points[0]).toMatchObject({ schedule: "ring", devices: 2, tokens: 2048 });
    expect(sweep("--sweep", "T=2K..x").stderr).toMatch(/--sweep takes T=2K\.\.4096K/);
    expect(sweep(...axes, "--model", "layers=3").stderr).toMatch(/--model takes parameters=/);
    expect(laspc("plan", retention, ...axes).stderr).toMatch(/--sweep goes with --simulate/);
  });

  test("dump shows every level, after any pass", () => {
    const dump = (...args: string[]) => laspc("dump", retention, ...args).stdout;
    expect(JSON.parse(dump("--level", "ast")).items[0].kind).toBe("attention");
    expect(dump("--level", "tensor", "--after", "right-product")).toContain("= scan ");
    expect(dump("--level", "tensor", "--after", "chunk")).toContain("chunks (");
    expect(dump("--level", "tile", "--after", "from-tensor")).toContain("kernel retention_forward");
    expect(dump("--level", "tile")).toContain("barrier");
    expect(dump("--level", "tile", "--form", "backward")).toContain("d_gamma");
    expect(dump("--level", "plan")).toContain("launch forward");
    expect(laspc("dump", retention, "--after", "nothing").status).toBe(1);
  });

  test("explain tells flops, bytes and what crosses devices", () => {
    const { stdout } = laspc("explain", retention, "--dim", "K=64,V=64");
    expect(stdout).toMatch(/sent between neighbouring devices: H x 64 x 64 x 4 B/);
    expect(stdout).toMatch(
      /retention_forward: 1024 bytes \(q, k, v, gamma, initial_S, o, final_S\)/,
    );
    const kda = laspc("explain", "dsl-examples/kda.lasp", "--dim", "K=64,V=64").stdout;
    expect(kda).toContain("transition of S: diagonal over the key axis, per token, plus rank 1");
  });

  test("passes and opt", () => {
    expect(laspc("passes").stdout).toMatch(/^right-product +\w/m);
    const file = write("p.ir", laspc("dump", retention, "--after", "right-product").stdout);
    expect(laspc("opt", file, "--passes", "chunk,fuse").stdout).toContain("chunks (");
    expect(laspc("opt", write("bad.ir", "program {"), "--passes", "chunk").status).toBe(1);
  });

  test("bench times the gradients too", () => {
    const small = ["--dim", "T=64,K=4,V=4", "--device", "reference", "--json"];
    const { stdout } = laspc("bench", retention, "--backward", ...small);
    const report = JSON.parse(stdout) as { form: string; bytes: number };
    // q, k, v, d_o, d_q, d_k and d_v pass once.
    expect([report.form, report.bytes]).toEqual(["backward", 64 * 4 * 4 * 7]);
  });

  test("gradients, decode steps and packed sequences run from the command line", () => {
    const run = (...args: string[]) =>
      laspc(
        "run",
        "dsl-examples/gla.lasp",
        "--device",
        "reference",
        "--dim",
        "K=4,V=4",
        "--verify",
        "--json",
        ...args,
      );
    const outputs = (text: string) =>
      Object.keys((JSON.parse(text) as { outputs: object }).outputs);
    const backward = run("--backward", "--dim", "T=9");
    expect(backward.status).toBe(0);
    expect(outputs(backward.stdout)).toEqual(
      expect.arrayContaining(["o", "d_q", "d_k", "d_v", "d_g", "d_initial_S"]),
    );
    expect(run("--steps", "3", "--dim", "T=9").status).toBe(0);
    expect(run("--cu-seqlens", "0,2,2,9", "--backward").status).toBe(0);
    expect(run("--cu-seqlens", "0,5,2").status).toBe(2);
    expect(run("--cu-seqlens", "0,5", "--dim", "T=6").status).toBe(2);
    expect(run("--steps", "2", "--devices", "2").status).toBe(2);
  });

  test("verify runs what is here", () => {
    const { status, stdout } = laspc(
      "verify",
      "dsl-examples/linear-attention.lasp",
      "--device",
      "reference",
      "--dim",
      "K=4,V=4",
    );
    expect(status).toBe(0);
    expect(stdout).toContain("ok (106 runs)");
  });
});

test("a long reference is evaluated on threads, and ends with the process that is told to", async () => {
  const args = ["run", "test/rules/bonus-read.lasp", "--device", "reference", "--verify"];
  const short = laspc(...args, "--backward", "--dim", "T=130,H=3,K=8,V=8", "--json");
  expect(short.status, short.stderr).toBe(0);
  const running = spawn(
    process.execPath,
    ["dist/laspc.js", ...args, "--dim", "T=60000,H=1,K=128,V=128"],
    { cwd: root },
  );
  await once(running.stderr, "data");
  const told = performance.now();
  running.kill("SIGTERM");
  await once(running, "exit");
  expect(performance.now() - told).toBeLessThan(5000);
});
