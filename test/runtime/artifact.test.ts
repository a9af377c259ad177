/** A manifest in which every field has its form, and which still says what cannot be. */
import { expect, test } from "vitest";
import { wgslTarget } from "../../codegen/wgsl/target.ts";
import { planOf } from "../../compiler/schedule/index.ts";
import type { Manifest, Step } from "../../runtime/plan.ts";
import { parseManifest, printManifest } from "../../runtime/validate.ts";
import { compileExample } from "../support/examples.ts";

const { manifest } = compileExample("retention", { dims: { K: 8, V: 4 }, targets: [wgslTarget] });
const valid: Manifest = { ...manifest, plans: [planOf(manifest, "ring", 3)] };

/** Fields that may be written, whatever they are. */
type Open<T> = T extends object ? { -readonly [key in keyof T]: Open<T[key]> } : T;
type Draft = Open<Manifest>;

const kernelOf = ({ targets }: Draft) =>
  targets.find(({ target }) => target === "wgsl")!.forms.find(({ form }) => form === "forward")!
    .kernels[0]!;
function stepOf<K extends Step["kind"]>({ plans }: Draft, rank: number, kind: K) {
  const { steps } = plans[0]!.ranks[rank]!;
  return steps.find((step) => step.kind === kind) as Open<Extract<Step, { kind: K }>>;
}

const changes: readonly (readonly [why: string, change: (draft: Draft) => unknown])[] = [
  ["grid[0].by is not a size", (m) => (kernelOf(m).grid[0]!.by = 0)],
  ["its first grid axis is not B x H", (m) => (kernelOf(m).grid = [])],
  [
    "asks for H_nobody, which is no size",
    (m) => kernelOf(m).grid.push({ of: ["H_nobody"], by: 1 }),
  ],
  ["takes other, which is no tensor", (m) => (kernelOf(m).buffers[0]!.name = "other")],
  ["has 2000 threads", (m) => (kernelOf(m).threads = 2000)],
  ["number B is there twice", (m) => kernelOf(m).scalars.push("B")],
  ["is not a path inside the artifact", (m) => (kernelOf(m).file = "../forward.wgsl")],
  ["threads_ is not a field", (m) => Object.assign(kernelOf(m), { threads_: 1 })],
  ["names rank 77", (m) => (stepOf(m, 0, "send").to = 77)],
  ["names rank 0", (m) => (stepOf(m, 0, "send").to = 0)],
  ["is never received", (m) => (stepOf(m, 0, "send").tag = 5)],
  ["waits for a later step", (m) => (stepOf(m, 0, "launch").after = [99])],
  ["does not wait for step", (m) => (stepOf(m, 0, "send").after = [])],
  ["which is not there", (m) => (stepOf(m, 0, "alloc").buffer = "elsewhere")],
  ["launches nothing, which is no form", (m) => (stepOf(m, 0, "launch").form = "nothing")],
  ["a mesh of 8 has 3 ranks", (m) => (m.plans[0]!.mesh.seq = 8)],
  ["stands in the place of rank 1", (m) => (m.plans[0]!.ranks[1]!.rank = 2)],
  ["kind is not one of", (m) => Object.assign(stepOf(m, 0, "free"), { kind: "toString" })],
  ["the range of gamma is empty", (m) => (m.inputs[3]!.range!.high = -1)],
  ["is token f32 [9], not token f32 [8]", (m) => (m.forms[1]!.inputs[1]!.dims = [9])],
  ["has 8 for K", (m) => (m.dims["K"] = 9)],
  ["input q is there twice", (m) => (m.inputs[1]!.name = "q")],
  ["form definition is there twice", (m) => (m.forms[1]!.name = "definition")],
];

test("what is compiled is possible", () => {
  expect(parseManifest(printManifest(valid))).toEqual(valid);
});

test.each(changes)("refuses: %s", (why, change) => {
  const draft = structuredClone(valid) as Draft;
  change(draft);
  expect(() => parseManifest(printManifest(draft as Manifest))).toThrow(why);
});
