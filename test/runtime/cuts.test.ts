/** Cuts of packed sequences that a kernel finds in its buffer, which nobody has checked: it stays inside its tensors. */
import { describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import { cutsTensor } from "../../runtime/device.ts";
import { findDevice } from "../support/devices.ts";
import {
  compare,
  compileExample,
  randomInputs,
  runBackward,
  sizesOf,
} from "../support/examples.ts";

const cuSeqlens = [0, 20, 70];
const right = cutsTensor({ cuSeqlens });
const wrong = cutsTensor({ cuSeqlens: [-50, 20, 1000] });

describe.each(["cpu", "webgpu"] as const)("%s", (kind) => {
  const { available, why } = findDevice(kind);

  test.skipIf(!available).each(["retention", "gated-delta-net"])(
    `%s clamps them to its tokens${why}`,
    async (name) => {
      const targets = await targetsFor([kind]);
      const compiled = compileExample(name, { dims: { K: 8, V: 8 }, targets, backward: true });
      const forms = ["forward", "backward"];
      const device = await openDevice(kind, compiled, { threads: 1, poison: true, forms });
      const upload = device.upload.bind(device);
      let isReplaced = false;
      device.upload = (buffer, tensor) => {
        const areCuts =
          tensor.shape.join() === right.shape.join() && tensor.data[1] === right.data[1];
        isReplaced ||= areCuts;
        return upload(buffer, areCuts ? wrong : tensor);
      };
      const sizes = { ...sizesOf({ B: 2, T: 70 }), cuSeqlens };
      const inputs = randomInputs(compiled, sizes, { initial: true });
      const result = await runBackward(compiled, device, inputs, sizes);
      const { ok, outputs } = await compare(compiled, inputs, sizes, result);
      expect(isReplaced).toBe(true);
      expect(ok, JSON.stringify(outputs)).toBe(true);
      await device.close();
    },
  );
});
