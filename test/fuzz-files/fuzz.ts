/**
 * Alters valid files and gives them to what reads them. A tensor file is refused, or gives the very bytes that it holds;
 * an artifact with any byte changed is refused; one whose manifest was changed and sealed again is refused, or runs or
 * says why not; compiled code that is kept is made anew. Anything else is a problem.
 */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createReferenceDevice } from "../../codegen/reference/device.ts";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { compile } from "../../compiler/index.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import { openArtifact } from "../../runtime/artifact.ts";
import { sealManifest } from "../../runtime/seal.ts";
import { kept, withKept } from "../../runtime/cache.ts";
import { type ArtifactFiles, type HostTensor, shapeOf } from "../../runtime/device.ts";
import { fromNumbers } from "../../runtime/dtype.ts";
import { readNpy, writeNpy } from "../../runtime/npy.ts";
import { randomTensor } from "../../runtime/random.ts";
import { runRanks } from "../../runtime/run.ts";
import { readSafetensors, writeSafetensors } from "../../runtime/safetensors.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { type Draw, alterBytes, alterJson, drawFrom, pick } from "./alter.ts";

export interface Found {
  /** By kind of file, how many were altered, and how many of them refused or made anew. */
  readonly counts: Readonly<Record<string, { altered: number; refused: number }>>;
  /** What went wrong, with the seed that makes it again. */
  readonly problems: readonly string[];
}

/** Alters the valid, and tells whether it was refused. Throws an Error on anything that must not be. */
type Trial = (draw: Draw) => boolean | Promise<boolean>;

class Problem extends Error {}

/** `count` altered files, with the seeds from `seed` on. */
export async function fuzzFiles(count: number, seed: number): Promise<Found> {
  const folder = mkdtempSync(join(tmpdir(), "laspc-fuzz-files-"));
  try {
    const trials: Readonly<Record<string, Trial>> = {
      npy: tryNpy,
      safetensors: trySafetensors,
      "files of an artifact": artifactTrial(join(folder, "artifact")),
      "sealed manifests": sealedTrial(join(folder, "sealed")),
      "kept code": keptTrial(join(folder, "cache")),
    };
    const kinds = Object.keys(trials);
    const counts = Object.fromEntries(kinds.map((kind) => [kind, { altered: 0, refused: 0 }]));
    const problems: string[] = [];
    for (let i = seed; i < seed + count; i++) {
      const kind = kinds[i % kinds.length]!;
      counts[kind]!.altered++;
      try {
        if (await trials[kind]!(drawFrom(i))) counts[kind]!.refused++;
      } catch (error) {
        problems.push(`${kind}, seed ${i}: ${(error as Error).stack}`);
      }
    }
    return { counts, problems };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Was the reading refused, in words? An error of the language is a reader that stumbled. */
async function isRefused(read: () => unknown): Promise<boolean> {
  try {
    await read();
    return false;
  } catch (error) {
    const isOurs = error instanceof Error && error.constructor === Error && error.message !== "";
    if (!isOurs) throw error;
    return true;
  }
}

function drawTensor(draw: Draw): HostTensor {
  const dtype = pick(draw, ["f32", "f16", "bf16"] as const);
  const shape = Array.from({ length: draw(4) }, () => draw(4));
  const count = shape.reduce((product, size) => product * size, 1);
  const numbers = Float64Array.from({ length: count }, () => draw(2000) - 1000);
  return { dtype, shape, data: fromNumbers(dtype, numbers) };
}

function bytesOf({ data }: HostTensor): Buffer {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

function tryNpy(draw: Draw): Promise<boolean> {
  const bytes = alterBytes(writeNpy(drawTensor(draw)), draw);
  return isRefused(() => {
    const read = bytesOf(readNpy(bytes));
    if (!read.equals(bytes.subarray(bytes.length - read.length))) {
      throw new Problem("the numbers are not those of the file");
    }
  });
}

function trySafetensors(draw: Draw): Promise<boolean> {
  const tensors = ["q", "k", "__proto__"].map((name) => [name, drawTensor(draw)] as const);
  const bytes = alterBytes(writeSafetensors(new Map(tensors)), draw);
  return isRefused(() => {
    const read = [...readSafetensors(bytes).values()].map(bytesOf);
    const sizeBytes = read.reduce((sum, { length }) => sum + length, 0);
    const start = 8 + new DataView(bytes.buffer).getUint32(0, true);
    if (sizeBytes !== bytes.length - start) throw new Problem("bytes of the file lie in no tensor");
    if (!read.every((one) => Buffer.from(bytes).includes(one))) {
      throw new Problem("the numbers are not those of the file");
    }
  });
}

const definition = `attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
  return ((q @ k.T) * causal_decay(log(gamma))) @ v
}
`;

/** A small artifact of three ranks, in a folder. */
function writeArtifact(folder: string) {
  const outcome = compile(
    { name: "retention.lasp", text: definition },
    { dims: { K: 3, V: 2 }, dtype: "f32", entry: null, targets: [wgslTarget] },
  );
  const compiled = outcome.value!;
  const manifest = { ...compiled.manifest, plans: [planOf(compiled.manifest, "ring", 3)] };
  const files = new Map(compiled.files);
  files.set("manifest.json", sealManifest(manifest, files));
  for (const [path, text] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return files;
}

function artifactTrial(folder: string): Trial {
  const files = writeArtifact(folder);
  return async (draw) => {
    // The manifest as often as all others.
    const path = draw(2) === 0 ? "manifest.json" : pick(draw, [...files.keys()]);
    const place = join(folder, path);
    const whole = readFileSync(place);
    const altered = alterBytes(whole, draw);
    const isSame = whole.equals(altered) || isSameJson(path, whole, altered);
    writeFileSync(place, altered);
    const refused = await isRefused(() => openArtifact(folder)).finally(() =>
      writeFileSync(place, whole),
    );
    if (!refused && !isSame) throw new Problem(`${path} was altered and taken`);
    return refused;
  };
}

/** White space of a manifest says nothing. */
function isSameJson(path: string, whole: Uint8Array, altered: Uint8Array): boolean {
  const text = (bytes: Uint8Array) => JSON.stringify(JSON.parse(Buffer.from(bytes).toString()));
  try {
    return path === "manifest.json" && text(whole) === text(altered);
  } catch {
    return false;
  }
}

function sealedTrial(folder: string): Trial {
  const manifest = JSON.parse(writeArtifact(folder).get("manifest.json")!);
  return (draw) => {
    const altered = alterJson(manifest, draw) as Record<string, unknown>;
    delete altered["digest"];
    const digest = createHash("sha256").update(JSON.stringify(altered)).digest("hex");
    writeFileSync(join(folder, "manifest.json"), JSON.stringify({ digest, ...altered }));
    return isRefused(() => runArtifact(openArtifact(folder)));
  };
}

/** Every plan of it, on a few tokens. */
async function runArtifact(artifact: ArtifactFiles): Promise<void> {
  const { manifest } = artifact;
  const sizes = { B: 1, T: 5, H: 2, T_total: 5, token_offset: 0, heads: {} };
  const inputs = new Map(
    manifest.inputs.map((spec) => {
      const shape = shapeOf(spec, sizes);
      if (shape.reduce((product, size) => product * size, 1) > 1e6) {
        throw new Error(`${spec.name} is too large to be tried`);
      }
      return [spec.name, randomTensor(spec, shape, 1)];
    }),
  );
  const device = createReferenceDevice();
  await device.load(artifact);
  for (const plan of manifest.plans) {
    const devices = plan.ranks.map(() => device);
    const transports = inProcessTransports(plan.ranks.length, { timeoutMs: 2000 });
    await runRanks({ plan, manifest, devices, transports, inputs, sizes });
  }
}

function keptTrial(cache: string): Trial {
  const content = Uint8Array.from({ length: 500 }, (_, i) => i * i);
  return async (draw) => {
    const before = process.env["XDG_CACHE_HOME"];
    process.env["XDG_CACHE_HOME"] = cache;
    try {
      let made = 0;
      const make = async () => {
        made++;
        return content;
      };
      await kept("code", make);
      const [name] = readdirSync(join(cache, "laspc"));
      const path = join(cache, "laspc", name!);
      const whole = readFileSync(path);
      const altered = alterBytes(whole, draw);
      writeFileSync(path, altered);
      made = 0;
      const load = (place: string) => readFileSync(place).subarray(0, content.length);
      const read = draw(2) === 0 ? await kept("code", make) : await withKept("code", make, load);
      if (!Buffer.from(content).equals(read)) throw new Problem("altered code was loaded");
      if (made === 0 && !whole.equals(altered)) throw new Problem("an altered file was taken");
      return made > 0;
    } finally {
      if (before === undefined) delete process.env["XDG_CACHE_HOME"];
      else process.env["XDG_CACHE_HOME"] = before;
    }
  };
}
