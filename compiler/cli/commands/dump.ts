/** laspc dump: any level as text, after any pass. */
import { compile } from "../../index.ts";
import { printPlan } from "../../schedule/print.ts";
import { planOf } from "../../schedule/index.ts";
import { parseSource } from "../../syntax/parse.ts";
import { printTensor } from "../../tensor/print.ts";
import { printTile } from "../../tile/print.ts";
import { Arguments, UserError } from "../arguments.ts";
import { loadTarget, targetNames } from "../devices.ts";
import { dimsOf, readSource, sayDiagnostics } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    ["level", "after", "entry", "form", "target", "devices", "dim", "dtype"],
    "dump",
  );
  const source = await readSource(args.file("dump"));
  const level = args.choice("level", ["ast", "tensor", "tile", "plan"], "tensor");
  if (level === "ast") {
    const { value, diagnostics } = parseSource(source);
    sayDiagnostics(source, diagnostics);
    process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
    return diagnostics.length > 0 ? 1 : 0;
  }
  const after = args.text("after");
  const wanted = args.text("form") ?? "forward";
  const target = await loadTarget(args.choice("target", targetNames, "wgsl"));
  const dims = dimsOf(source, args);
  const seen: { level: string; form: string | null; pass: string; text: string }[] = [];
  const outcome = compile(source, {
    dims: { K: 64, V: 64, ...dims },
    dtype: args.dtype(),
    entry: args.text("entry"),
    targets: level === "tile" ? [target] : [],
    backward: /^backward$|_bwd$/.test(wanted),
    watch: {
      tensor: (form) => (pass, program) =>
        seen.push({ level: "tensor", form, pass, text: printTensor(program) }),
      tile: (form) => (pass, program) =>
        seen.push({ level: "tile", form, pass, text: printTile(program) }),
    },
  });
  sayDiagnostics(source, outcome.diagnostics);
  if (outcome.value === null) return 1;
  if (level === "plan") {
    process.stdout.write(
      printPlan(planOf(outcome.value.manifest, "ring", args.integer("devices", 2, 1))),
    );
    return 0;
  }
  const mine = seen.filter(
    (one) => one.level === level && (one.form === null || one.form === wanted),
  );
  const last = mine.filter((one) => after === null || one.pass === after).at(-1);
  if (!last) {
    const passes = [...new Set(mine.map((one) => one.pass))].join(", ");
    throw new UserError(`nothing of that level and form after \`${after}\`; there is ${passes}`);
  }
  process.stdout.write(last.text);
  return 0;
}
