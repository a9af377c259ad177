/** laspc explain: what was derived and what it costs; or a diagnostic's page. */
import type { Manifest, TensorSpec } from "../../../runtime/plan.ts";
import { elementBytes, elementsOf } from "../../../runtime/dtype.ts";
import { pageOf } from "../../support/catalogue.ts";
import { Report } from "../../support/pass.ts";
import type { Program } from "../../tensor/ir.ts";
import { rightProduct } from "../../tensor/passes/right-product.ts";
import { simplify } from "../../tensor/passes/simplify.ts";
import { Arguments, UserError } from "../arguments.ts";
import { compileFile, readSource } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, ["entry", "dim", "dtype"], "explain");
  const subject = args.file("explain");
  if (!subject.endsWith(".lasp")) {
    const page = pageOf(subject);
    if (page === null)
      throw new UserError(`\`${subject}\` is neither a .lasp file nor a diagnostic's code`);
    process.stdout.write(page);
    return 0;
  }
  const source = await readSource(subject);
  const dims = args.dims();
  const tokens = dims["T"] ?? null;
  const compiled = await compileFile(source, args, []);
  const line = (text = "") => process.stdout.write(`${text}\n`);
  const { manifest } = compiled;
  line(`${manifest.name}, from ${manifest.source}`);
  line();
  line("derivation");
  for (const note of compiled.notes) line(`  ${note.pass}: ${note.message}`);
  if (tokens !== null) for (const why of leftProducts(compiled.program, tokens)) line(`  ${why}`);
  for (const state of manifest.states) {
    const [K, V] = state.dims as [number, number];
    const decay = state.logDecay === null ? "M = 1" : `M = exp(${state.logDecay}), one number`;
    line();
    line(`state ${state.name}: [${K}, ${V}] float32, ${state.causal ? "causal" : "no mask"}`);
    line(`  a range of tokens maps S_in to M S_in + S_ext; ${decay}`);
    line(
      `  flops for each token and head, chunks of C: 2 C (K + V) intra + 4 K V = ${2 * 64 * (K + V) + 4 * K * V} at C = 64`,
    );
    line(
      `  sent between neighbouring devices: H x ${K} x ${V} x 4 B = H x ${K * V * 4} bytes a batch row, whatever T`,
    );
    if (!state.causal) line("  without a mask the whole state also travels back once");
  }
  line();
  line("forms");
  for (const form of manifest.forms.filter(({ name }) => name !== "definition")) {
    const names = (list: readonly TensorSpec[]) => list.map(({ name }) => name).join(", ");
    line(`  ${form.name}: ${names(form.inputs)} -> ${names(form.outputs)}`);
  }
  line();
  line(
    `memory traffic of forward: ${tokenBytes(manifest)} bytes for each token and head, each tensor once`,
  );
  return 0;
}

/** Where, at this T, the left product would have been cheaper; kernels serve every T, so the right one stays. */
function leftProducts(program: Program, tokens: number): string[] {
  const report = new Report();
  rightProduct({ tokens }).run(simplify.run(program, report), report);
  return report.notes.flatMap(({ kind, message }) =>
    kind === "declined" ? [`right-product, for this T alone: ${message}`] : [],
  );
}

function tokenBytes(manifest: Manifest): number {
  const perToken = [...manifest.inputs, ...manifest.outputs].filter(({ per }) => per === "token");
  return perToken.reduce((sum, { dims, dtype }) => sum + elementsOf(dims) * elementBytes(dtype), 0);
}
