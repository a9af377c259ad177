/** A thread of the reference: evaluates one sequence and head after the other, as it is asked. */
import { parentPort } from "node:worker_threads";
import { interpretTensor } from "../tensor/interpret.ts";
import type { ReferenceAnswer, ReferenceJob } from "./reference-pool.ts";

function answer({ program, inputs, sizes, rounding }: ReferenceJob): ReferenceAnswer {
  try {
    return { ok: true, outputs: interpretTensor(program, inputs, sizes, rounding) };
  } catch (error) {
    return { ok: false, error: error as Error };
  }
}

parentPort!.on("message", (job: ReferenceJob) => parentPort!.postMessage(answer(job)));
