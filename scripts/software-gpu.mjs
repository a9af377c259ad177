// Unpacks SwiftShader, a software Vulkan driver that npm packages carry, so that WebGPU runs without a GPU.
// Prints the path of its driver file; WebGPU in Node needs the Vulkan loader (libvulkan1) beside it.
import { createReadStream, existsSync, mkdirSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";
import { spawn } from "node:child_process";

const folder = join(
  import.meta.dirname ?? dirname(new URL(import.meta.url).pathname),
  "../node_modules/.cache/laspc/swiftshader",
);
const driver = () =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true }).find((name) => String(name).endsWith("icd.json"))
    : undefined;

if (!driver()) {
  const require = createRequire(import.meta.url);
  const archive = join(
    dirname(require.resolve("@sparticuz/chromium")),
    "../bin/swiftshader.tar.br",
  );
  mkdirSync(folder, { recursive: true });
  const tar = spawn("tar", ["-x", "-C", folder], { stdio: ["pipe", "inherit", "inherit"] });
  // Listened for from the start: tar may be done as soon as its input is.
  const unpacked = new Promise((resolve, reject) =>
    tar.on("close", (code) => (code === 0 ? resolve() : reject(new Error(`tar: ${code}`)))),
  );
  await pipeline(createReadStream(archive), createBrotliDecompress(), tar.stdin);
  await unpacked;
}
console.log(join(folder, String(driver())));
