/** laspc bench: time on a device beside the reference, or the speed of the compiler itself. */
import { newData, bytesOf, elementsOf } from "../../../runtime/dtype.ts";
import type { Device, DeviceBuffer, HostTensor, LaunchSizes } from "../../../runtime/device.ts";
import { shapeOf } from "../../../runtime/device.ts";
import type { Manifest } from "../../../runtime/plan.ts";
import { check, compile } from "../../index.ts";
import { parseSource } from "../../syntax/parse.ts";
import { Arguments } from "../arguments.ts";
import { gatherInputs } from "../data.ts";
import { deviceNames, openDevice, targetsFor } from "../devices.ts";
import { compileFile, dimsOf, median, readSource, say } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    [
      "entry",
      "device",
      "dim",
      "dtype",
      "arch",
      "seed",
      "threads",
      "segment",
      "repeat",
      "compile",
      "reference",
      "backward",
      "cache-states",
      "json",
    ],
    "bench",
  );
  const source = await readSource(args.file("bench"));
  if (args.flag("compile")) return benchCompiler(args, source);
  const name = args.choice("device", deviceNames, "cpu");
  const data = await gatherInputs(args, source);
  const compiled = await compileFile(source, args, await targetsFor([name], args.architecture()), {
    dims: { K: 64, V: 64, ...data.dims },
    backward: args.flag("backward"),
    cacheStates: args.cacheStates(),
  });
  const formName = args.flag("backward") ? "backward" : "forward";
  const { inputs, sizes } = data.complete(compiled);
  const threads = args.text("threads") === null ? null : args.integer("threads", 1, 1);
  const device = await openDevice(name, compiled, {
    threads,
    poison: false,
    segment: args.segment(),
    forms: [formName],
  });
  say(device.description);
  const repeat = args.integer("repeat", name === "reference" ? 1 : 20, 1);
  const times = await timeForm(formName, device, compiled.manifest, inputs, sizes, repeat);
  await device.close();
  const ms = median(times);
  let referenceMs: number | null = null;
  if (args.flag("reference")) {
    say("timing the reference ...");
    const reference = await openDevice("reference", compiled, { threads: null, poison: false });
    referenceMs = median(await timeForm(formName, reference, compiled.manifest, inputs, sizes, 1));
  }
  const bytes = trafficBytes(formName, compiled.manifest, sizes);
  const report = {
    entry: compiled.manifest.name,
    form: formName,
    device: name,
    threads: name === "cpu" ? (threads ?? "all") : undefined,
    dims: { B: sizes.B, H: sizes.H, T: sizes.T, ...compiled.manifest.dims },
    dtype: args.dtype(),
    runs: times.length,
    median_ms: ms,
    fastest_ms: Math.min(...times),
    bytes,
    gb_per_s: bytes / ms / 1e6,
    ...(referenceMs === null ? {} : { reference_ms: referenceMs, times_faster: referenceMs / ms }),
    resident_mb: Math.round(process.memoryUsage.rss() / 1e6),
  };
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else {
    process.stdout.write(
      `${report.entry} on ${name}: ${ms.toFixed(3)} ms, ${report.gb_per_s.toFixed(2)} GB/s, ` +
        `${report.resident_mb} MB resident\n`,
    );
    if (referenceMs !== null) {
      process.stdout.write(
        `reference: ${referenceMs.toFixed(0)} ms, ${(referenceMs / ms).toFixed(0)} times as long\n`,
      );
    }
  }
  return 0;
}

/** Milliseconds of each launch of a form, waited for; uploads and downloads are outside. */
async function timeForm(
  formName: string,
  device: Device,
  manifest: Manifest,
  inputs: ReadonlyMap<string, HostTensor>,
  sizes: LaunchSizes,
  repeat: number,
): Promise<number[]> {
  const form = manifest.forms.find(({ name }) => name === formName)!;
  const buffers = new Map<string, DeviceBuffer>();
  for (const spec of [...form.inputs, ...form.outputs]) {
    const shape = shapeOf(spec, sizes);
    const buffer = await device.alloc(spec.dtype, shape, true);
    const given = inputs.get(spec.name);
    const zeros = { dtype: spec.dtype, shape, data: newData(spec.dtype, elementsOf(shape)) };
    if (form.inputs.includes(spec)) await device.upload(buffer, given ?? zeros);
    buffers.set(spec.name, buffer);
  }
  const times: number[] = [];
  for (let i = 0; i < repeat + (repeat > 1 ? 2 : 0); i++) {
    const started = performance.now();
    await device.launch(form, buffers, sizes);
    await device.wait();
    times.push(performance.now() - started);
  }
  for (const buffer of buffers.values()) device.free(buffer);
  return repeat > 1 ? times.slice(2) : times;
}

/** Every per-token tensor read or written once. */
function trafficBytes(formName: string, manifest: Manifest, sizes: LaunchSizes): number {
  const form = manifest.forms.find(({ name }) => name === formName)!;
  return [...form.inputs, ...form.outputs]
    .filter(({ per }) => per === "token")
    .reduce((sum, spec) => sum + bytesOf(spec.dtype, shapeOf(spec, sizes)), 0);
}

/** Parser throughput on a large text, and the time of a whole compilation. */
async function benchCompiler(
  args: Arguments,
  source: Awaited<ReturnType<typeof readSource>>,
): Promise<number> {
  const copies = Math.max(1, Math.ceil(200_000 / source.text.length));
  const text = Array.from({ length: copies }, (_, i) =>
    source.text.replace(/(attention|def)\s+(\w+)/g, `$1 $2_${i}`),
  ).join("\n");
  const time = (f: () => void): number => {
    f();
    const times = Array.from({ length: 5 }, () => {
      const started = performance.now();
      f();
      return performance.now() - started;
    });
    return median(times);
  };
  const dims = dimsOf(source, args);
  const parseMs = time(() => void parseSource({ name: "bench", text }));
  const checkMs = time(() => void check(source, { dims, dtype: args.dtype() }));
  const targets = await targetsFor(["webgpu", "cuda"]);
  const options = {
    dims: { K: 64, V: 64, ...dims },
    dtype: args.dtype(),
    entry: args.text("entry"),
  };
  const compileMs = time(() => void compile(source, { ...options, targets }));
  const report = {
    file: source.name,
    parsed_bytes: text.length,
    parse_mb_per_s: text.length / parseMs / 1000,
    check_ms: checkMs,
    compile_wgsl_cuda_ms: compileMs,
  };
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  else {
    process.stdout.write(
      `parser ${report.parse_mb_per_s.toFixed(2)} MB/s; check ${checkMs.toFixed(2)} ms; ` +
        `compile to WGSL and CUDA ${compileMs.toFixed(1)} ms\n`,
    );
  }
  return 0;
}
