/** laspc check: every mistake of the files, and what cannot be computed of them, nothing else. */
import { check, limitationsOf } from "../../index.ts";
import { hasErrors } from "../../support/diagnostic.ts";
import { positionOf } from "../../support/span.ts";
import { Arguments, UsageError } from "../arguments.ts";
import { dimsOf, readSource, sayDiagnostics } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, ["dim", "dtype", "json"], "check");
  if (args.positionals.length === 0) throw new UsageError("check takes FILE.lasp...");
  let failed = false;
  const all: object[] = [];
  for (const file of args.positionals) {
    const source = await readSource(file);
    const { value, diagnostics: mistakes } = check(source, {
      dims: dimsOf(source, args),
      dtype: args.dtype(),
    });
    const limitations = hasErrors(mistakes) ? [] : (value ?? []).flatMap(limitationsOf);
    const diagnostics = [...mistakes, ...limitations];
    failed ||= hasErrors(diagnostics);
    if (args.flag("json")) {
      all.push(
        ...diagnostics.map(({ code, severity, message, labels, help }) => ({
          file,
          code,
          severity,
          message,
          help,
          labels: labels.map(({ span, text }) => ({
            text,
            from: positionOf(source.text, span.start),
            to: positionOf(source.text, span.end),
          })),
        })),
      );
      continue;
    }
    sayDiagnostics(source, diagnostics);
    const names = (value ?? []).map((attention) => attention.name).join(", ");
    if (!hasErrors(diagnostics)) process.stdout.write(`${file}: ok (${names || "no attention"})\n`);
  }
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(all, null, 2)}\n`);
  return failed ? 1 : 0;
}
