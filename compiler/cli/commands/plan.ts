/** laspc plan: the schedule for N devices as text, JSON or SVG. */
import { printPlan } from "../../schedule/print.ts";
import { ringPlan } from "../../schedule/ring.ts";
import { planToSvg } from "../../schedule/svg.ts";
import { verifyPlan } from "../../schedule/verify.ts";
import { Arguments, UserError } from "../arguments.ts";
import { compileFile, readSource, say, writeWhole } from "../files.ts";

export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(
    argv,
    ["entry", "devices", "schedule", "dim", "dtype", "svg", "simulate", "json"],
    "plan",
  );
  if (args.text("simulate") !== null) throw new UserError("--simulate: there is no simulator yet");
  args.choice("schedule", ["ring", "auto"], "auto");
  const source = await readSource(args.file("plan"));
  const { manifest } = await compileFile(source, args, [], { dims: { K: 64, V: 64 } });
  const plan = ringPlan(manifest, args.integer("devices", 2, 1));
  verifyPlan(plan, manifest);
  const svg = args.text("svg");
  if (svg !== null) {
    await writeWhole(svg, planToSvg(plan));
    say(`drew ${svg}`);
  }
  if (args.flag("json")) process.stdout.write(`${JSON.stringify(plan, null, 2)}\n`);
  else process.stdout.write(printPlan(plan));
  return 0;
}
