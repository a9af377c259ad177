/** Compares a run with the float64 reference. */
import {
  type Evaluator,
  type ReferenceBuffer,
  createReferenceDevice,
} from "../../codegen/reference/device.ts";
import type { HostTensor, LaunchSizes } from "../../runtime/device.ts";
import { shapeOf } from "../../runtime/device.ts";
import { elementsOf, newData, toNumbers } from "../../runtime/dtype.ts";
import type { RanksResult } from "../../runtime/run.ts";
import type { Compiled } from "../index.ts";
import type { Rounding } from "../tensor/rounding.ts";
import { maxAbsError, rmsError, rmseRatio, roundingOfDtypes, toleranceOf } from "../tolerance.ts";
import { referencePrograms } from "./devices.ts";
import { patiently } from "./patience.ts";
import { threadsWorth, withThreads } from "./reference-pool.ts";

export interface Comparison {
  readonly ok: boolean;
  /** Which meaning was compared with: the definition as written, or the scans it became. */
  readonly reference: "definition" | "scan";
  readonly outputs: Readonly<
    Record<string, { shape: readonly number[]; rmse_ratio: number; max_abs_error: number }>
  >;
  readonly tolerance: Readonly<Record<string, number>>;
  /** Of outputs beyond it: an RMS error that rounding alone leaves, the worst of those looked at. */
  readonly rounding: Readonly<Record<string, number>>;
  /** Outputs beyond both. */
  readonly wrong: readonly string[];
}

export interface CompareOptions {
  readonly compiled: Compiled;
  readonly inputs: ReadonlyMap<string, HostTensor>;
  readonly sizes: LaunchSizes;
  readonly result: RanksResult;
  /** What the reference made of these inputs, where it is there already. */
  readonly reference?: Reference;
  readonly say: (text: string) => void;
}

export interface Reference {
  readonly reference: Comparison["reference"];
  readonly numbers: ReadonlyMap<string, Float64Array>;
}

/** Up to here the definition is evaluated as written, T x T scores and all. */
const longestDefinition = 512;

type ReferenceOptions = Omit<CompareOptions, "result" | "reference">;

/** What the attention means for these inputs, in float64, by output. */
export function referenceResult(options: ReferenceOptions): Promise<Reference> {
  return onThreads(options, (evaluator) => evaluate(options, null, evaluator));
}

/** Calls with threads for these sizes, where they are worth it, and says when that takes long. */
function onThreads<Result>(
  { compiled: { manifest }, sizes, say }: ReferenceOptions,
  use: (evaluator: Evaluator | undefined) => Promise<Result>,
): Promise<Result> {
  const specs = manifest.forms.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]);
  const states = specs.filter(({ per }) => per === "state").map(({ dims }) => elementsOf(dims));
  const threads = threadsWorth(sizes, Math.max(1, ...states));
  return patiently("reference", say, () => withThreads(threads, use));
}

async function evaluate(
  options: ReferenceOptions,
  rounding: Rounding | null,
  evaluator: Evaluator | undefined,
): Promise<Reference> {
  const { compiled, inputs, sizes, say } = options;
  const { manifest } = compiled;
  const device = createReferenceDevice(referencePrograms(compiled), rounding, evaluator);
  const given = [...inputs.keys()].some((name) => name.startsWith("initial_"));
  const asWritten = sizes.T <= longestDefinition && !given;
  say(`  reference: ${asWritten ? "the definition as written" : "token by token"}, float64 ...`);
  const buffers = new Map<string, ReferenceBuffer>();
  const forward = manifest.forms.find((form) => form.name === "forward")!;
  const backward = manifest.forms.find((form) => form.name === "backward");
  const forms = backward ? [forward, backward] : [forward];
  for (const spec of forms.flatMap((form) => [...form.inputs, ...form.outputs])) {
    if (buffers.has(spec.name)) continue;
    const shape = shapeOf(spec, sizes);
    const buffer = await device.alloc(spec.dtype, shape);
    const zero = { dtype: spec.dtype, shape, data: newData(spec.dtype, elementsOf(shape)) };
    await device.upload(buffer, inputs.get(spec.name) ?? zero);
    buffers.set(spec.name, buffer);
  }
  for (const form of forms) await device.launch(form, buffers, sizes);
  if (asWritten) {
    // The outputs come from the text itself; final states, which the text does not name, from the scan.
    await device.launch(
      manifest.forms.find((form) => form.name === "definition")!,
      buffers,
      sizes,
    );
  }
  return {
    reference: asWritten ? "definition" : "scan",
    numbers: new Map([...buffers].map(([name, { data }]) => [name, data])),
  };
}

export async function compareWithReference(options: CompareOptions): Promise<Comparison> {
  const { reference, numbers } = options.reference ?? (await referenceResult(options));
  const inputDtypes = options.compiled.manifest.inputs.map(({ dtype }) => dtype);
  const outputs = Object.fromEntries(
    [...options.result.tensors].map(([name, { shape, dtype, data }]) => {
      const exact = numbers.get(name)!;
      const found = toNumbers(dtype, data);
      const errors = {
        rmse_ratio: rmseRatio(exact, found),
        max_abs_error: maxAbsError(exact, found),
      };
      return [name, { shape, ...errors }];
    }),
  );
  // Inputs are stored numbers in both; only what the run stores itself is rounded once more.
  const tolerance = Object.fromEntries(
    [...options.result.tensors].map(([name, { dtype }]) => [
      name,
      toleranceOf(name, dtype, inputDtypes),
    ]),
  );
  const beyond = Object.keys(outputs).filter(
    (name) => !(outputs[name]!.rmse_ratio <= tolerance[name]!),
  );
  const errorOf = (name: string) => {
    const { dtype, data } = options.result.tensors.get(name)!;
    return rmsError(numbers.get(name)!, toNumbers(dtype, data));
  };
  const errors = new Map(beyond.map((name) => [name, errorOf(name)]));
  const rounding = beyond.length === 0 ? {} : await roundingOf(options, numbers, errors);
  const wrong = beyond.filter((name) => !(errors.get(name)! <= rounding[name]!));
  return { ok: wrong.length === 0, reference, outputs, tolerance, rounding, wrong };
}

/**
 * Of outputs beyond their tolerance: what rounding alone may leave, as an RMS error. Where terms cancel a tensor is
 * smaller than what it was summed from, or exactly zero, and no arithmetic gets it right relative to itself. `errors`:
 * those found; where instances leave as much, no more are looked at.
 */
async function roundingOf(
  options: CompareOptions,
  numbers: ReadonlyMap<string, Float64Array>,
  errors: ReadonlyMap<string, number>,
): Promise<Record<string, number>> {
  const inputDtypes = options.compiled.manifest.inputs.map(({ dtype }) => dtype);
  const { instances, times } = roundingOfDtypes(inputDtypes);
  const left = new Map([...errors.keys()].map((name) => [name, 0]));
  const names = [...errors.keys()].join(", ");
  await onThreads(options, async (evaluator) => {
    for (const [i, rounding] of instances.entries()) {
      options.say(`  ${names}: what rounding alone leaves, ${i + 1} of ${instances.length} ...`);
      const rounded = await evaluate({ ...options, say: () => {} }, rounding, evaluator);
      for (const [name, worst] of left) {
        const error = times * rmsError(numbers.get(name)!, rounded.numbers.get(name)!);
        left.set(name, Math.max(worst, error));
      }
      if ([...errors].every(([name, error]) => error <= left.get(name)!)) return;
    }
  });
  return Object.fromEntries(left);
}
