/** Threads for the float64 reference: sequences and heads do not depend on each other. */
import { existsSync } from "node:fs";
import { availableParallelism, freemem } from "node:os";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { Evaluator } from "../../codegen/reference/device.ts";
import type { LaunchSizes } from "../../runtime/device.ts";
import type { InterpretSizes } from "../tensor/interpret.ts";
import type { Program } from "../tensor/ir.ts";
import type { NdArray } from "../tensor/nd-array.ts";
import type { Rounding } from "../tensor/rounding.ts";

/** What a thread is asked, and what it answers. */
export interface ReferenceJob {
  readonly program: Program;
  readonly inputs: ReadonlyMap<string, NdArray>;
  readonly sizes: InterpretSizes;
  readonly rounding: Rounding | null;
}
export type ReferenceAnswer =
  | { readonly ok: true; readonly outputs: ReadonlyMap<string, NdArray> }
  | { readonly ok: false; readonly error: Error };

/** Shorter sequences are evaluated before threads have started. */
const shortest = 128;

/**
 * Threads worth starting for these sizes: no more than cores, than heads of all sequences, and than memory holds. One
 * leaves the calling thread free to talk and to end; 0: not worth it. `state`: elements of the largest state; the gradients of a recurrence keep several of each token.
 */
export function threadsWorth({ B, H, T }: LaunchSizes, state: number): number {
  if (T < shortest) return 0;
  const bytes = 8 * 4 * T * state;
  const fitting = Math.floor(freemem() / 2 / bytes);
  return Math.max(1, Math.min(availableParallelism(), B * H, fitting));
}

/** Calls with an evaluator of so many threads, or null where this one does all; ends them afterwards. */
export async function withThreads<Result>(
  threads: number,
  use: (evaluator: Evaluator | undefined) => Promise<Result>,
): Promise<Result> {
  const entry = new URL("./reference-worker.js", import.meta.url);
  // Sources that were not bundled have no file a thread could start from.
  if (threads === 0 || !existsSync(fileURLToPath(entry))) return use(undefined);
  const idle = Array.from({ length: threads }, () => new Worker(entry));
  const all = [...idle];
  try {
    return await use({
      width: threads,
      evaluate: async (program, inputs, sizes, rounding) => {
        // The device never has more under way than there are threads.
        const worker = idle.pop()!;
        const outputs = await ask(worker, { program, inputs, sizes, rounding });
        idle.push(worker);
        return outputs;
      },
    });
  } finally {
    await Promise.all(all.map((worker) => worker.terminate()));
  }
}

function ask(worker: Worker, job: ReferenceJob): Promise<ReadonlyMap<string, NdArray>> {
  return new Promise((resolve, reject) => {
    const answered = (answer: ReferenceAnswer) => {
      worker.off("error", reject);
      if (answer.ok) resolve(answer.outputs);
      else reject(answer.error);
    };
    worker.once("message", answered);
    worker.once("error", reject);
    worker.postMessage(job);
  });
}
