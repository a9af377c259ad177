/** A user of both packages, compiled against their types where they are installed. */
import { type Diagnostic, type Result, type Signature, check, compile, explainCode } from "laspc";
import { type Device, type HostTensor, openFiles, readNpy } from "@laspc/runtime";
import { createWebGpuDevice } from "@laspc/runtime/web";

const checked: Result<readonly Signature[]> = check("", { dims: { K: 4 }, dtype: "bf16" });
export const codes: string[] = checked.diagnostics.map(({ code }: Diagnostic) => code);
export const page: string | null = explainCode("missing-dim");

const compiled = compile("", { targets: ["cuda", "wgsl"], architecture: "sm_80", devices: 4 });
if (compiled.ok) {
  const { name, manifest, files } = compiled.value;
  const device: Device = await createWebGpuDevice({ poison: true });
  await device.load(openFiles(files));
  [name, ...manifest.states].map(String);
} else {
  compiled.value satisfies null;
}
export const tensor = (bytes: Uint8Array): HostTensor => readNpy(bytes);

// @ts-expect-error: no such target
compile("", { targets: ["metal"] });
// @ts-expect-error: no such option
check("", { entry: "a" });
// @ts-expect-error: it may not have compiled
compiled.value.files.keys();
