/** What the simulator says, beside what plans take here: CPU devices, over links slowed on purpose. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDevice, targetsFor } from "../../compiler/cli/devices.ts";
import { measuredSpeed } from "../../compiler/cli/simulation.ts";
import type { DeviceSpeed } from "../../compiler/schedule/fabrics.ts";
import { type ScheduleName, planOf } from "../../compiler/schedule/index.ts";
import { simulate } from "../../compiler/schedule/simulate.ts";
import type { Device, LaunchSizes } from "../../runtime/device.ts";
import { tensorBytes } from "../../runtime/layout.ts";
import { type RanksResult, runRanks } from "../../runtime/run.ts";
import { inProcessTransports } from "../../runtime/transports/in-process.ts";
import { type SlowLink, slowTransport } from "../../runtime/transports/slow.ts";
import { findDevice } from "../support/devices.ts";
import { compileExample, randomInputs, sizesOf } from "../support/examples.ts";

const { available, why } = findDevice("cpu");
const exchanges = ["ring", "allgather", "allscan", "tree"] as const;

describe.skipIf(!available)(`simulated and real${why}`, () => {
  const ranks = 8;
  let compiled: ReturnType<typeof compileExample>;
  const devices: Device[] = [];
  beforeAll(async () => {
    compiled = compileExample("retention", { targets: await targetsFor(["cpu"]) });
    for (let rank = 0; rank < ranks; rank++) {
      devices.push(await openDevice("cpu", compiled, { threads: 1, poison: false }));
    }
  });
  afterAll(() => Promise.all(devices.map((device) => device.close())));

  function run(schedule: ScheduleName, count: number, sizes: LaunchSizes, link: SlowLink) {
    const transports = inProcessTransports(count).map((one) => slowTransport(one, link));
    return runRanks({
      plan: planOf(compiled.manifest, schedule, count),
      manifest: compiled.manifest,
      devices: devices.slice(0, count),
      transports,
      inputs: randomInputs(compiled, sizes, { initial: true }),
      sizes,
    });
  }

  /** The device as forwards of this length show it, once warm: `times` of those before, to which it adds. */
  async function speedAt(sizes: LaunchSizes, times: number[]): Promise<DeviceSpeed> {
    const free = { latencyMs: 0, bandwidth: Infinity };
    for (let i = 0; i < 5; i++) times.push(launchMs(await run("ring", 1, sizes, free)));
    const { inputs, outputs } = compiled.manifest.forms.find(({ name }) => name === "forward")!;
    const bytes = [...inputs, ...outputs].reduce((sum, spec) => sum + tensorBytes(spec, sizes), 0);
    return measuredSpeed("cpu", (bytes / Math.min(...times)) * 1e3, 0);
  }

  /** By schedule: what was said, and what it took at its fastest, in milliseconds: other work here only adds to it. */
  async function both(
    schedules: readonly ScheduleName[],
    count: number,
    sizes: LaunchSizes,
    link: SlowLink,
  ) {
    const own = { ...sizes, T: sizes.T / count };
    const launches: number[] = [];
    let speed = await speedAt(own, launches);
    const wire = { latencyS: link.latencyMs / 1e3, bytesPerS: link.bandwidth };
    const fabric = { perNode: Infinity, within: wire, between: wire, source: "a test" };
    const saidOf = (schedule: ScheduleName) => {
      const plan = planOf(compiled.manifest, schedule, count);
      return simulate(plan, compiled.manifest, sizes, { fabric, speed }).seconds * 1e3;
    };
    const taken = new Map<ScheduleName, number>();
    for (const schedule of schedules) {
      const said = saidOf(schedule);
      let took = Infinity;
      // Where work beside this one takes long, more runs find a quiet moment.
      for (let i = 0; i < 4 || (i < 20 && took > 1.1 * said); i++) {
        took = Math.min(took, wholeMs(await run(schedule, count, sizes, link)));
      }
      taken.set(schedule, took);
    }
    // The device, too, at its fastest before and behind these runs.
    speed = await speedAt(own, launches);
    const rows = [...taken].map(([schedule, took]) => {
      const said = saidOf(schedule);
      return { schedule, said, took, error: said / took - 1 };
    });
    const text = rows.map(
      ({ schedule, said, took, error }) =>
        `${schedule} ${said.toFixed(1)} / ${took.toFixed(1)} ms (${(error * 100).toFixed(0)} %)`,
    );
    console.log(`${count} ranks, simulated / real: ${text.join(", ")}`);
    return rows;
  }

  test.each([4, 8])(
    "%d ranks that mostly wait: within 15 per cent, in the same order",
    async (count) => {
      const link = { latencyMs: 100, bandwidth: 2e7 };
      const all = [...exchanges, "ulysses", "megatron"] as const;
      const rows = await both(all, count, sizesOf({ T: 512, H: 8 }), link);
      for (const { schedule, error } of rows) expect(Math.abs(error), schedule).toBeLessThan(0.15);
      for (const one of rows) {
        for (const other of rows.filter(({ took }) => took > 1.15 * one.took)) {
          expect(one.said, `${one.schedule} before ${other.schedule}`).toBeLessThan(other.said);
        }
      }
    },
  );
});

function wholeMs({ times }: RanksResult): number {
  return (
    Math.max(...times.map((time) => time.endMs)) - Math.min(...times.map((one) => one.startMs))
  );
}

/** Of the only launch of a plan for one rank. */
function launchMs({ times }: RanksResult): number {
  return Math.max(...times.map(({ startMs, endMs }) => endMs - startMs));
}
