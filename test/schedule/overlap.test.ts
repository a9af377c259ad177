/** Transfers beside compute: on a slow link, what a rank waits for is hidden behind its own tokens' work. */
import { describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import { runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { slowTransport } from "../../runtime/transports/slow.ts";
import { findDevice } from "../support/devices.ts";
import { compileExample, randomInputs, sizesOf } from "../support/examples.ts";

const { available, why } = findDevice("cpu");

test("a slow link delivers in order, after its latency and the time to leave", async () => {
  const inner = inProcessTransports(2);
  const [a, b] = inner.map((one) => slowTransport(one, { latencyMs: 40, bandwidth: 1e5 }));
  const begun = performance.now();
  await a!.send(1, 0, new Uint8Array(2000).fill(1));
  const left = performance.now() - begun;
  await a!.send(1, 0, Uint8Array.of(2));
  expect((await b!.recv(0, 0, 2000))[0]).toBe(1);
  expect(performance.now() - begun).toBeGreaterThan(58);
  expect([...(await b!.recv(0, 0, 1))]).toEqual([2]);
  expect(left).toBeGreaterThan(18);
  expect([a!.bytesSent, a!.messagesSent]).toEqual([2001, 2]);
});

describe.skipIf(!available)(`two ranks, 20 ms apart${why}`, () => {
  test("the forward hides at least 80 % of a transfer", async () => {
    const targets = await targetsFor(["cpu"]);
    const compiled = compileExample("gla", { dims: { K: 64, V: 64 }, targets, overlap: true });
    const { manifest } = compiled;
    const sizes = sizesOf({ T: 16_384, H: 8 });
    const inputs = randomInputs(compiled, sizes);
    const options = { threads: 1, poison: false };
    const devices = [
      await openDevice("cpu", compiled, options),
      await openDevice("cpu", compiled, options),
    ];
    /** How long the transfer took, and for how much of it the rank that waits for it computed. */
    const measure = async (overlap: boolean) => {
      const plan = planOf(manifest, "ring", 2, false, overlap);
      const link = { latencyMs: 20, bandwidth: 1e9 };
      const transports = inProcessTransports(2).map((one) => slowTransport(one, link));
      const result = await runRanks({ plan, manifest, devices, transports, inputs, sizes });
      const at = (rank: number, kind: string) => {
        const { id } = plan.ranks[rank]!.steps.find((step) => step.kind === kind)!;
        return result.times.find((time) => time.rank === rank && time.step === id)!;
      };
      const [from, to] = [at(0, "send").startMs, at(1, "recv").endMs];
      const busy = result.times
        .filter(({ rank, step }) => rank === 1 && plan.ranks[1]!.steps[step]!.kind === "launch")
        .map(({ startMs, endMs }) => Math.min(to, endMs) - Math.max(from, startMs))
        .reduce((sum, ms) => sum + Math.max(0, ms), 0);
      return { transfer: to - from, busy, own: at(1, "launch").endMs - at(1, "launch").startMs };
    };
    const { transfer, busy, own } = await measure(true);
    expect(transfer).toBeGreaterThan(19);
    expect(own, "the transfer is shorter than the work beside it").toBeGreaterThan(transfer);
    expect(busy / transfer).toBeGreaterThan(0.8);
    // In one part the forward has nothing to do until the state is there.
    const whole = await measure(false);
    expect(whole.busy / whole.transfer).toBeLessThan(0.2);
    for (const device of devices) await device.close();
  });
});
