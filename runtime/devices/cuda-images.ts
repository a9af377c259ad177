/**
 * Machine code of kernels. What was compiled for a GPU's kind is kept by content: in this process for
 * every device, and in a folder of the user for the next one (see cache.ts).
 */
import { createHash } from "node:crypto";
import { kept } from "../cache.ts";
import type { Nvrtc } from "./cuda-library.ts";

/** Changes whenever the way kernels are compiled does. */
const recipe = "4";

const images = new Map<string, Promise<Uint8Array>>();

/** The code of one file for a compute capability (90 is sm_90). Throws with the compiler's words. */
export function imageOf(
  source: string,
  name: string,
  capability: number,
  nvrtc: Pick<Nvrtc, "version" | "compile">,
): Promise<Uint8Array> {
  const facts = [recipe, String(capability), nvrtc.version(), source].join("\0");
  const key = createHash("sha256").update(facts).digest("hex").slice(0, 32);
  let image = images.get(key);
  if (!image) {
    image = kept(`${key}.cubin`, () => nvrtc.compile(source, name, capability));
    images.set(key, image);
    image.catch(() => images.delete(key));
  }
  return image;
}
